"""The pictures of a compression's report. What was cut where is no picture, but a list of bars.

What each picture comes with, and the colours: see `sweep.report.picture`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import plotly.graph_objects as go

from sweep.compress.material import Compression, Curve, Healing
from sweep.compress.plans import ChosenPlan
from sweep.report.picture import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    Picture,
    scale_of,
    without_looks,
)

log = logging.getLogger(__name__)

# Of resources: on an axis, and how they are shown.
RESOURCES = {
    "parameters": ("parameters in layers", ",.0f"),
    "flops": ("FLOPs of a text, in layers", ".3g"),
    "latency_ms": ("milliseconds of a text, in layers", ".3g"),
    "megabytes": ("megabytes of weights", ",.1f"),
}
DAMAGE = "damage (1 - cosine)"
# Of a healed plan, with the dash that tells it apart where colours do not.
_LINES = ((GREEN, "solid"), (BLUE, "dash"), (VERMILLION, "dot"), (PURPLE, "dashdot"))
_FEWEST = 2


def draw(compression: Compression) -> list[Picture]:
    """All pictures that there is something to draw for."""
    pictures: list[Picture] = []
    for painter in (_over_budget, _additivity, _healing, _losses, _quality):
        try:
            pictures += painter(compression)
        except (ValueError, RuntimeError) as error:
            # The others stay.
            log.warning("No picture from %s: %s", painter.__name__.strip("_"), error)
    for picture in pictures:
        without_looks(picture.figure)
        # What lies on an axis, as the original does, is seen whole.
        picture.figure.update_traces(cliponaxis=False)
    return pictures


def plan_name(compression: Compression, text: str) -> str:
    """A plan in short."""
    number = compression.number(text)
    return "a plan of an earlier choice" if number is None else f"plan {number}"


def shown(value: float, form: str) -> str:
    """A number for people; minus nothing is nothing."""
    text = format(value, form)
    return text if text.strip("-0.,%") else text.removeprefix("-")


def _damage(value: float) -> str:
    return shown(value, ".4f")


def _over_budget(compression: Compression) -> Iterator[Picture]:
    plans, resource = compression.plans, compression.plans.resource
    title, form = RESOURCES[resource]
    figure = go.Figure()
    if plans.layer_reduction:
        figure.add_trace(_plans(plans.layer_reduction, resource, "layers dropped whole"))
        figure.data[-1].update(
            mode="lines+markers",
            line={"color": ORANGE, "dash": "dot", "shape": "hv"},
            marker={"symbol": "square", "size": 7, "color": ORANGE},
        )
    figure.add_trace(_plans(plans.curve, resource, "best plans, predicted"))
    figure.data[-1].update(mode="lines", line={"color": BLUE, "shape": "hv"})
    measured = [plan for plan in plans.curve if plan.measured is not None]
    if measured:
        figure.add_trace(_plans(measured, resource, "put together", measured=True))
        figure.data[-1].marker = {"symbol": "circle-open", "size": 9, "color": BLUE}
    figure.add_trace(_plans(plans.chosen, resource, "chosen, predicted"))
    figure.data[-1].marker = {"symbol": "diamond", "size": 12, "color": GREEN}
    told = [plan for plan in plans.chosen if plan.measured is not None]
    if told:
        figure.add_trace(_plans(told, resource, "chosen, put together", measured=True))
        figure.data[-1].marker = {"symbol": "diamond-open", "size": 12, "color": GREEN}
    if plans.homogeneous is not None:
        figure.add_trace(_plans([plans.homogeneous], resource, "best plain model"))
        figure.data[-1].marker = {"symbol": "triangle-up", "size": 12, "color": VERMILLION}
    bound = plans.budget.get(resource)
    if bound is not None:
        figure.add_vline(
            x=bound,
            line={"color": GREY, "dash": "dash"},
            annotation_text="budget",
            annotation_position="top left",
        )
    figure.update_xaxes(title=title, rangemode="tozero")
    figure.update_yaxes(title=DAMAGE, exponentformat="power")

    def point(plan: ChosenPlan) -> str:
        return f"{shown(plan.costs[resource], form)} with {_damage(plan.predicted)}"

    caption = ""
    if plans.curve:
        caption = (
            f"The least damage that each budget of {title} buys, as the damages of the candidates "
            f"add up to it: {len(plans.curve)} plans, from {point(plans.curve[0])} to "
            f"{point(plans.curve[-1])}. "
        )
    best = plans.chosen[0]
    together = "" if best.measured is None else f", {_damage(best.measured)} put together"
    caption += f"Chosen: {point(best)}{together}."
    if plans.homogeneous is not None:
        caption += f" The best that a plain model can hold: {point(plans.homogeneous)}."
    if plans.layer_reduction:
        caption += " Layers dropped whole: the best plans where each layer stays whole or goes."
    if len(plans.budget) > 1:
        others = ", ".join(RESOURCES[name][0] for name in plans.budget if name != resource)
        caption += f" The curve is not held to the other budgets: {others}."
    yield Picture("damage-over-budget", "Damage over budget", caption, figure, "budget")


def _plans(
    plans: Sequence[ChosenPlan], resource: str, name: str, measured: bool = False
) -> go.Scatter:
    """Points of plans; the words of each appear beside it."""
    return go.Scatter(
        x=[plan.costs[resource] for plan in plans],
        y=[plan.measured if measured else plan.predicted for plan in plans],
        text=[_words(plan) for plan in plans],
        mode="markers",
        name=name,
        hovertemplate=f"{name}<br>%{{x:,.4g}}: %{{y:.4f}}<br>%{{text}}<extra></extra>",
    )


def _words(plan: ChosenPlan) -> str:
    return "<br>".join(plan.names)


def _additivity(compression: Compression) -> Iterator[Picture]:
    measured = compression.measured
    if len(measured) < _FEWEST:
        return
    figure = go.Figure()
    pairs = [(plan.predicted, float(plan.measured or 0.0)) for plan in measured]
    low, high = min(map(min, pairs)), max(map(max, pairs))
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        name="as predicted",
        line={"color": GREY, "dash": "dash"},
        hoverinfo="skip",
    )
    chosen = [compression.number(plan.text) is not None for plan in measured]
    for is_chosen, name, colour, symbol in (
        (False, "of the curve", BLUE, "circle"),
        (True, "chosen", GREEN, "diamond"),
    ):
        which = [n for n, one in enumerate(chosen) if one is is_chosen]
        if which:
            figure.add_scatter(
                x=[pairs[n][0] for n in which],
                y=[pairs[n][1] for n in which],
                text=[_words(measured[n]) for n in which],
                mode="markers",
                name=name,
                marker={"symbol": symbol, "size": 10, "color": colour},
                hovertemplate="predicted %{x:.4f}, put together %{y:.4f}<br>%{text}<extra></extra>",
            )
    figure.update_xaxes(title="predicted damage", nticks=6, exponentformat="power")
    figure.update_yaxes(title="measured damage", exponentformat="power")
    more = sum(found > told for told, found in pairs)
    caption = (
        f"{len(measured)} plans that were put together, on the same texts as the candidates. On "
        f"the line the damage is what the sum predicts; above it, where {more} are, it is more."
    )
    yield Picture("additivity", "Predicted against measured", caption, figure, "additive")


def _healing(compression: Compression) -> Iterator[Picture]:
    figure = go.Figure()
    ends, begun = [], False
    for place, healing in enumerate(_drawn(compression, "valid_damage")):
        before = _before(compression, healing)
        begun |= before is not None
        curve = [*([] if before is None else [(0, before)]), *healing.curves["valid_damage"]]
        name = _name_of(compression, healing)
        figure.add_trace(_line(curve, name, place, healing))
        ends.append(
            f"{name}: {_damage(curve[0][1])} to {_damage(curve[-1][1])} at step {curve[-1][0]}"
        )
    if not ends:
        return
    figure.update_xaxes(title="optimizer steps", rangemode="tozero")
    figure.update_layout(showlegend=True)
    figure.update_yaxes(title=DAMAGE, exponentformat="power", type=scale_of(figure))
    caption = f"Damage on validation text while the whole learns: {'; '.join(ends)}."
    if begun:
        caption += " At step 0: the plan as it was put together, on the library's texts."
    yield Picture("healing", "Healing curves", caption, figure, "healing")


def _losses(compression: Compression) -> Iterator[Picture]:
    figure = go.Figure()
    for place, healing in enumerate(_drawn(compression, "valid_loss")):
        name = _name_of(compression, healing)
        figure.add_trace(_line(healing.curves["valid_loss"], name, place, healing))
        trained = healing.curves.get("train_loss", [])
        if len(trained) > 1:
            figure.add_trace(_line(trained, f"{name}, training", place, healing))
            figure.data[-1].update(mode="lines", opacity=0.45)
    if not figure.data:
        return
    figure.update_xaxes(title="optimizer steps", rangemode="tozero")
    figure.update_layout(showlegend=True)
    figure.update_yaxes(title="loss", type=scale_of(figure))
    caption = (
        "What is minimised: L1 of the hidden states at the borders of the slices, and one minus "
        "the cosine of the embeddings, each times its weight. On validation text"
        f"{', and pale on that of training' if any(t.opacity for t in figure.data) else ''}."
    )
    yield Picture("healing-loss", "The loss of the healing", caption, figure, "healing")


def _drawn(compression: Compression, name: str) -> list[Healing]:
    """Healings with such a curve: those of the chosen plans first."""
    having = [healing for healing in compression.healings if healing.curves.get(name)]
    return sorted(having, key=lambda healing: compression.number(healing.plan) is None)


def _name_of(compression: Compression, healing: Healing) -> str:
    """A healing in short, and its own."""
    name = plan_name(compression, healing.plan)
    same = sum(other.plan == healing.plan for other in compression.healings)
    where = f" ({healing.name})" if same > 1 or compression.number(healing.plan) is None else ""
    state = "" if healing.state == "complete" else f", {healing.state}"
    return f"{name}{where}{state}"


def _before(compression: Compression, healing: Healing) -> float | None:
    number = compression.number(healing.plan)
    return None if number is None else compression.plans.chosen[number].measured


def _line(curve: Curve, name: str, place: int, healing: Healing) -> go.Scatter:
    colour, dash = _LINES[place % len(_LINES)]
    symbols = ["circle"] * len(curve)
    if healing.state == "pruned":
        symbols[-1] = "x"
    return go.Scatter(
        x=[step for step, _ in curve],
        y=[value for _, value in curve],
        name=name,
        mode="lines+markers",
        line={"color": colour, "dash": dash},
        marker={"color": colour, "size": 8, "symbol": symbols},
        hovertemplate=f"{name}, step %{{x}}: %{{y:.4g}}<extra></extra>",
    )


def _quality(compression: Compression) -> Iterator[Picture]:
    """Damage before and after healing, by what each plan costs."""
    for resource, name, title in (
        ("parameters", "quality-by-size", "By parameters"),
        ("flops", "quality-by-flops", "By FLOPs"),
    ):
        yield _by(compression, resource, name, title)


def _by(compression: Compression, resource: str, name: str, title: str) -> Picture:
    plans, figure = compression.plans, go.Figure()
    axis, form = RESOURCES[resource]
    told = []
    ways_x: list[float | None] = []
    ways_y: list[float | None] = []
    after: list[tuple[float, float, str]] = []
    for number, plan in enumerate(plans.chosen):
        cost, healing = plan.costs[resource], compression.healed(plan)
        damage = None if healing is None else healing.damage
        if plan.measured is not None and damage is not None:
            ways_x += [cost, cost, None]
            ways_y += [plan.measured, damage, None]
        if damage is not None:
            after.append((cost, damage, f"plan {number}<br>{_words(plan)}"))
            told.append(f"plan {number}: {shown(cost, form)}, {_damage(damage)}")
    if ways_x:
        figure.add_scatter(
            x=ways_x,
            y=ways_y,
            mode="lines",
            line={"color": GREY, "dash": "dot"},
            showlegend=False,
            hoverinfo="skip",
        )
    figure.add_trace(_plans(plans.chosen, resource, "put together", measured=True))
    figure.data[-1].marker = {"symbol": "circle-open", "size": 10, "color": BLUE}
    if after:
        figure.add_scatter(
            x=[cost for cost, _, _ in after],
            y=[damage for _, damage, _ in after],
            text=[words for _, _, words in after],
            mode="markers",
            name="healed",
            marker={"symbol": "diamond", "size": 12, "color": GREEN},
            hovertemplate="%{x:,.4g}: %{y:.4f}<br>%{text}<extra></extra>",
        )
    figure.add_scatter(
        x=[plans.original[resource]],
        y=[0.0],
        mode="markers",
        name="original",
        marker={"symbol": "star", "size": 13, "color": VERMILLION},
        hovertemplate="original: %{x:,.4g}<extra></extra>",
    )
    figure.update_xaxes(title=axis, rangemode="tozero", nticks=6)
    figure.update_yaxes(title=DAMAGE, exponentformat="power", rangemode="tozero")
    caption = (
        f"Each plan before and after its healing, by {axis}; the original, with "
        f"{shown(plans.original[resource], form)}, is its own measure. "
        f"Healed: {'; '.join(told) or 'none yet'}."
    )
    return Picture(name, title, caption, figure, "quality")
