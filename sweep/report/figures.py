"""The pictures of a report: Optuna's own where they say what is asked, else plotly's.

What each picture comes with, and the colours: see `picture.py`.
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.exceptions import OptunaError
from optuna.study import StudyDirection
from optuna.trial import TrialState
from plotly.colors import sample_colorscale

from sweep.report.material import FEW, Material, TrialMaterial, varying
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
from sweep.trial.metrics import title_of
from sweep.view.words import in_words, listed, metric_shown, point

log = logging.getLogger(__name__)

Painter = Callable[[Material], Iterator[Picture]]

# From low to high: told apart by the colour-blind, and seen on white as on black.
_SCALE = [[0.0, BLUE], [1.0, ORANGE]]
_SERIES = (BLUE, ORANGE, GREEN, PURPLE)
# Of each state: colour, and the pattern of its bars.
_STATES = {
    TrialState.COMPLETE: (BLUE, ""),
    TrialState.PRUNED: (ORANGE, "/"),
    TrialState.FAIL: (VERMILLION, "x"),
    TrialState.RUNNING: (GREY, "."),
}
# What a browser draws without getting slow.
_CURVE_POINTS = 30_000
_LINES = 300
_SLICED_KEYS = 12


def draw(material: Material, painters: Iterable[Painter] | None = None) -> list[Picture]:
    """Pictures that the study has the trials for.

    Args:
        material: The study.
        painters: Of which; None: all that are worth it for so many trials.
    """
    pictures: list[Picture] = []
    if painters is None:
        painters = _PAINTERS if len(material.complete) > FEW else _FOR_FEW
    for painter in painters:
        try:
            pictures += painter(material)
        except (ValueError, RuntimeError, OptunaError) as error:
            # Parameters that rule each other out, losses that are all the same: the others stay.
            log.warning("No picture from %s: %s", painter.__name__.strip("_"), error)
    for picture in pictures:
        without_looks(picture.figure)
    return pictures


def _curves(material: Material) -> Iterator[Picture]:
    """Learning curves. Optuna's draws each trial as a line of its own, and all states alike."""
    drawn = [trial for trial in material.trials if trial.curve]
    if not drawn:
        return
    stride = math.ceil(sum(len(trial.curve) for trial in drawn) / _CURVE_POINTS)
    figure = go.Figure()
    best = material.best
    for state, (colour, _) in _STATES.items():
        of_state = [t for t in drawn if t.trial.state is state and t is not best]
        if of_state:
            figure.add_trace(_lines(of_state, stride, state.name.lower(), colour, state))
    ends = [trial for trial in drawn if trial.trial.state is TrialState.PRUNED]
    if ends:
        figure.add_scatter(
            x=[trial.curve[-1][0] for trial in ends],
            y=[trial.curve[-1][1] for trial in ends],
            text=[f"trial {trial.number}" for trial in ends],
            mode="markers",
            name="pruned here",
            marker={"symbol": "x", "size": 8, "color": ORANGE},
            hovertemplate="%{text}, pruned at step %{x}: %{y:.4g}<extra></extra>",
        )
    if best is not None and best.curve:
        figure.add_trace(_lines([best], 1, f"best: trial {best.number}", GREEN, None))
    steps = [step for trial in drawn for step, _ in trial.curve]
    _add_baseline(figure, material, min(steps), max(steps))
    if material.application is None:
        steps_title, title, what = "optimizer steps", title_of("valid_l1"), "Validation loss"
    else:
        steps_title, title = "step", material.objectives[0]
        what = f"Reported {title}"
    figure.update_xaxes(title=steps_title)
    figure.update_yaxes(title=title, type=scale_of(figure))
    pruned = f", {len(ends)} of them pruned (orange, dashed, ending in a cross)" if ends else ""
    caption = f"{what} by {steps_title.removesuffix('s')} of {_counted(drawn)}{pruned}."
    if best is not None and best.curve:
        step, loss = best.curve[-1]
        caption += f" The best, trial {best.number}, reaches {loss:.4g} at step {step} (green)."
    yield Picture("learning-curves", "Learning curves", caption, figure, "curves")


def _lines(
    trials: Sequence[TrialMaterial],
    stride: int,
    name: str,
    colour: str,
    state: TrialState | None,
) -> go.Scatter:
    """The curves of several trials as one line with gaps, which a browser draws much faster."""
    x: list[int | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for trial in trials:
        kept = trial.curve[::-1][::stride][::-1]
        x += [*(step for step, _ in kept), None]
        y += [*(loss for _, loss in kept), None]
        text += [f"trial {trial.number}"] * (len(kept) + 1)
    faint = state is not None and len(trials) > 20
    return go.Scatter(
        x=x,
        y=y,
        text=text,
        name=name,
        mode="lines+markers" if state is None or max(map(_points, trials)) < 2 else "lines",
        opacity=0.45 if faint else 1.0,
        line={
            "color": colour,
            "width": 3 if state is None else 1.5,
            "dash": "dash" if state is TrialState.PRUNED else "solid",
        },
        hovertemplate="%{text}, step %{x}: %{y:.4g}<extra></extra>",
    )


def _counted(trials: Sequence[TrialMaterial]) -> str:
    return f"{len(trials)} trial{'' if len(trials) == 1 else 's'}"


def _points(trial: TrialMaterial) -> int:
    return len(trial.curve)


def _sizes(material: Material) -> Iterator[Picture]:
    """Loss against parameters. Optuna's front is of objectives, and size need not be one."""
    students, front = material.students, material.size_front
    if len(students) < 2:
        return
    figure = go.Figure()
    figure.add_scatter(
        x=[t.metrics.student_parameters for t in students],
        y=[t.metrics.valid_l1 for t in students],
        text=[_described(t) for t in students],
        mode="markers",
        name="student",
        marker={"color": BLUE, "size": 8, "opacity": 0.7},
        hovertemplate="%{text}<br>%{x:,} parameters, L1 %{y:.4g}<extra></extra>",
    )
    figure.add_scatter(
        x=[t.metrics.student_parameters for t in front],
        y=[t.metrics.valid_l1 for t in front],
        text=[_described(t) for t in front],
        mode="lines+markers",
        name="Pareto front",
        line={"color": VERMILLION, "shape": "hv", "dash": "dot"},
        marker={"symbol": "diamond", "size": 11},
        hovertemplate="%{text}<br>%{x:,} parameters, L1 %{y:.4g}<extra></extra>",
    )
    slice_size = next(filter(None, (t.metrics.teacher_parameters for t in students)), None)
    if slice_size is not None:
        figure.add_vline(
            x=slice_size,
            line={"color": GREY, "dash": "dash"},
            annotation_text="original slice",
            annotation_position="bottom left",
        )
    largest = max(t.metrics.student_parameters or 0 for t in students)
    _add_baseline(figure, material, 0, max(largest, slice_size or 0))
    figure.update_xaxes(title=title_of("student_parameters"), rangemode="tozero")
    figure.update_yaxes(title=title_of("valid_l1"), type=scale_of(figure))
    points = "; ".join(
        f"trial {t.number}: {t.metrics.student_parameters:,}, {t.metrics.valid_l1:.4g}"
        for t in front[:6]
    )
    caption = (
        f"Loss and size of {len(students)} students. On the Pareto front, where no other student "
        f"is both smaller and better: {points}{' ...' if len(front) > 6 else ''}."
    )
    yield Picture("loss-by-size", "Loss against parameters", caption, figure, "size")


def _fronts(material: Material) -> Iterator[Picture]:
    """Optuna's Pareto front of the objectives, where there are two or three."""
    names = material.objectives
    if len(names) not in (2, 3) or len(material.complete) < 2:
        return
    figure = visualization.plot_pareto_front(
        material.study, target_names=[title_of(name) for name in names]
    )
    for trace in figure.data:
        front = "best" in f"{trace.name} {trace.hovertemplate}".lower()
        trace.marker = {
            "color": VERMILLION if front else BLUE,
            "symbol": "diamond" if front else "circle",
            "size": (6 if len(names) == 3 else 10) if front else 5,
        }
    best = [t.number for t in material.trials if t.on_front]
    caption = (
        f"The objectives {', '.join(names)} against each other. No trial is better in all of them "
        f"than: {listed(best)}."
    )
    yield Picture("pareto-front", "Pareto front of the objectives", caption, figure, "size")


def _importances(material: Material) -> Iterator[Picture]:
    # Of one parameter it is 1, whatever it does.
    if len(_shared(material, material.complete)) < 2:
        return
    figure = go.Figure()
    parts = []
    for index, name in enumerate(material.objectives):
        [bar] = _importance_of(material, index).data
        bar.name, bar.marker = name, {"color": _SERIES[index % len(_SERIES)]}
        figure.add_trace(bar)
        ranking = sorted(zip(bar.x, bar.y, strict=True), reverse=True)
        parts.append(f"for {name}: {', '.join(f'{k} {v:.2f}' for v, k in ranking[:8])}")
    most = max(max(bar.x) for bar in figure.data)
    # The numbers stand behind the bars.
    figure.update_xaxes(title="importance (of 1 in all)", range=[0, 1.2 * most])
    figure.update_yaxes(title="parameter")
    method = "how much better the best trials are for it (PED-ANOVA)"
    caption = f"How much each parameter mattered, by {method}; {'; '.join(parts)}."
    yield Picture("importance", "Parameter importance", caption, figure, "parameters")


def _importance_of(material: Material, index: int) -> go.Figure:
    """Optuna's picture for one objective; its method looks for what makes values low."""
    sign = 1 if material.directions[index] is StudyDirection.MINIMIZE else -1
    value = _target(index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return visualization.plot_param_importances(
            material.study, target=lambda trial: sign * value(trial)
        )


def _parallels(material: Material) -> Iterator[Picture]:
    kept = [trial for trial in material.ranking if trial.is_complete][:_LINES]
    keys = _shared(material, kept)
    if len(keys) < 2:
        return
    study = _study_of(material, kept)
    left_out = len(material.complete) - len(kept)
    for index, name in enumerate(material.objectives):
        figure = visualization.plot_parallel_coordinate(
            study, params=keys, target=_target(index), target_name=name
        )
        for trace in figure.data:
            _recolour(trace)
        direction = material.directions[index]
        good = "low" if direction is StudyDirection.MINIMIZE else "high"
        caption = (
            f"Each line is one trial: its {name} on the left, its parameters to the right. "
            f"Blue is low, orange high; {good} is better."
        )
        if left_out:
            caption += f" Of {len(material.complete)} complete trials, the best {len(kept)}."
        title = f"Parallel coordinates: {name}"
        yield Picture(f"parallel-{_slug(name)}", title, caption, figure, "parameters")


def _shared(material: Material, trials: Sequence[TrialMaterial]) -> list[str]:
    """The parameters that vary and that all of these trials have."""
    return [key for key in varying(material) if all(key in t.trial.params for t in trials)]


def _recolour(line: go.Scatter) -> None:
    """Optuna colours by value from light blue to dark, which is lost on a dark page."""
    if line.mode == "lines" and line.y:
        line.line.color = sample_colorscale(_SCALE, [min(1.0, max(0.0, line.y[0]))])[0]
    elif line.marker.colorscale:
        line.marker.colorscale, line.marker.reversescale = _SCALE, False


def _slices(material: Material) -> Iterator[Picture]:
    if not material.complete:
        return
    keys = varying(material)[:_SLICED_KEYS]
    for index, name in enumerate(material.objectives):
        for key in keys:
            figure = visualization.plot_slice(
                material.study, params=[key], target=_target(index), target_name=title_of(name)
            )
            for trace in figure.data:
                trace.marker.colorscale, trace.marker.showscale = _SCALE, False
                trace.hovertemplate = f"{key}=%{{x}}: %{{y:.4g}}<extra></extra>"
            best = _best_of(material, index)
            chosen = in_words({key: best.trial.params.get(key, "unset")})
            caption = (
                f"{name} by {key}, for {len(material.complete)} complete trials, early ones blue "
                f"and late ones orange. Best: {chosen} "
                f"with {metric_shown(name, best.values[index])}."
            )
            title = f"{name} by {key}"
            yield Picture(f"slice-{_slug(name)}-{_slug(key)}", title, caption, figure, "slices")


def _timeline(material: Material) -> Iterator[Picture]:
    """Which worker ran what and when. Optuna's has one row for each trial, and no workers."""
    ran = [t for t in material.trials if t.trial.datetime_start is not None and t.worker]
    if not ran:
        return
    labels = _worker_labels(material, ran)
    figure = go.Figure()
    for state, (colour, pattern) in _STATES.items():
        of_state = [t for t in ran if t.trial.state is state]
        if of_state:
            figure.add_bar(
                base=[t.trial.datetime_start for t in of_state],
                x=[_milliseconds(t, material) for t in of_state],
                y=[labels[str(t.worker)] for t in of_state],
                text=[str(t.number) for t in of_state],
                customdata=[_described(t) for t in of_state],
                textposition="inside",
                insidetextanchor="middle",
                orientation="h",
                name=state.name.lower(),
                marker={
                    "color": colour,
                    "line": {"color": "#ffffff", "width": 1},
                    "pattern": {"shape": pattern, "fillmode": "overlay", "size": 6},
                },
                hovertemplate="%{customdata}<br>from %{base}<extra></extra>",
            )
    figure.update_xaxes(title="local time of the workers", type="date")
    figure.update_yaxes(title="worker", type="category", autorange="reversed")
    figure.update_layout(
        barmode="overlay",
        uniformtext={"mode": "hide", "minsize": 9},
        height=min(900, 170 + 45 * len(set(labels.values()))),
    )
    shares = [
        f"{label} {len([t for t in ran if labels[str(t.worker)] == label])}"
        for label in _in_order(labels)
    ]
    caption = f"When each worker ran which trial. Trials run: {', '.join(shares[:12])}."
    yield Picture("timeline", "Timeline of workers", caption, figure, "timeline")


def _worker_labels(material: Material, ran: Sequence[TrialMaterial]) -> dict[str, str]:
    """Short names of workers, by their full ones, in the order of their first trials.

    A worker is named after its sweep, its place in it, and a mark of its process.
    """
    names = list(dict.fromkeys(str(t.worker) for t in sorted(ran, key=_start)))
    places = [_place(name) for name in names]
    labels: dict[str, str] = {}
    for name, place in zip(names, places, strict=True):
        sign = material.workers.get(name)
        again = sum(p == place for p in places[: len(labels)])
        label = f"{place} (again, {again})" if again else place
        hosts = {s.hostname for s in material.workers.values()}
        labels[name] = f"{label} on {sign.hostname}" if sign and len(hosts) > 1 else label
    return labels


def _place(worker: str) -> str:
    return worker.partition("/")[2].partition("-")[0] or worker


def _in_order(labels: dict[str, str]) -> list[str]:
    return list(dict.fromkeys(labels.values()))


def _start(trial: TrialMaterial) -> Any:
    return trial.trial.datetime_start


def _milliseconds(trial: TrialMaterial, material: Material) -> float:
    start = trial.trial.datetime_start
    end = trial.trial.datetime_complete or material.written.replace(tzinfo=None)
    assert start is not None
    return max(0.0, (end - start).total_seconds() * 1000)


def _study_of(material: Material, trials: Sequence[TrialMaterial]) -> optuna.Study:
    """A study with these trials alone."""
    study = optuna.create_study(directions=material.directions)
    study.set_metric_names(list(material.objectives))
    study.add_trials([t.trial for t in trials])
    return study


def _target(index: int) -> Callable[[optuna.trial.FrozenTrial], float]:
    return lambda trial: float(trial.values[index])


def _best_of(material: Material, index: int) -> TrialMaterial:
    """The complete trial that is best in one objective."""
    sign = 1 if material.directions[index] is StudyDirection.MINIMIZE else -1
    return min(material.complete, key=lambda t: sign * t.values[index])


def _baseline(material: Material) -> tuple[str, float] | None:
    """Name and L1 of the best baseline, which is the same for all trials on the same data."""
    for trial in material.ranking:
        name = trial.record.get("best_baseline")
        if name is not None:
            return str(name).replace("_", " "), float(trial.record["baselines"][name])
    return None


def _add_baseline(figure: go.Figure, material: Material, start: int, end: int) -> None:
    """A line at the best baseline, which needs no student."""
    baseline = _baseline(material)
    if baseline is not None:
        name, value = baseline
        figure.add_scatter(
            x=[start, end],
            y=[value, value],
            mode="lines",
            name=f"best baseline: {name}",
            line={"color": GREY, "dash": "longdash"},
            hovertemplate=f"{name}: %{{y:.4g}}<extra></extra>",
        )


def _described(trial: TrialMaterial) -> str:
    return f"trial {trial.number} ({trial.state})<br>{point(trial.trial.params)}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


# What one chooses a student by.
FRONTS: tuple[Painter, ...] = (_sizes, _fronts)
# Of so few trials a table shows the rest.
_FOR_FEW: tuple[Painter, ...] = (_curves, *FRONTS)
_PAINTERS: tuple[Painter, ...] = (
    *_FOR_FEW,
    _importances,
    _parallels,
    _slices,
    _timeline,
)
