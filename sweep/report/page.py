"""The page of a report: one HTML file that needs nothing else, not even a network.

It reads from question to answer to evidence. A number in a table carries its full value in
`data-v`, as trial.json and the storage have it; what is shown is rounded.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.trial import TrialState
from plotly.offline import get_plotlyjs

from sweep.report.figures import Picture, axis_title
from sweep.report.material import Material, TrialMaterial
from sweep.study.plan import command_of
from sweep.trial.record import RECORD_NAME
from sweep.view.summary import short_keys, shown

# Rows that a browser still sorts at once.
_ROWS = 3000
_LISTED_NUMBERS = 30
# Nothing may be fetched, from anywhere. plotly.js compiles its WebGL code.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "img-src data: blob:; worker-src blob:"
)


@dataclass
class _Column:
    """A column of the leaderboard.

    Attributes:
        heading: What it says on top.
        hint: The same in words, with the unit.
        cells: One for each row.
        is_number: Set to the right.
    """

    heading: str
    hint: str
    cells: list[str]
    is_number: bool = True


def page(material: Material, pictures: Sequence[Picture]) -> str:
    """The whole file."""
    sections = [
        ("question", "The question", _question(material)),
        ("answer", "The answer", _answer(material)),
        ("leaderboard", "Leaderboard", _leaderboard(material)),
        ("curves", "Learning curves", _figures(pictures, "curves")),
        ("size", "Loss against parameters", _figures(pictures, "size")),
        ("parameters", "What mattered", _figures(pictures, "parameters")),
        ("slices", "One parameter at a time", _figures(pictures, "slices", grid=True)),
        ("timeline", "Who ran what, and when", _figures(pictures, "timeline")),
        ("failures", "Failures", _failures(material)),
        ("versions", "Versions and hardware", _versions(material)),
        ("commands", "Commands", _commands(material)),
    ]
    body = "".join(
        f'<section id="{name}"><h2>{escape(title)}</h2>{content}</section>'
        for name, title, content in sections
    )
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title, _ in sections)
    data = "".join(
        f'<script type="application/json" id="data-{p.name}">{_json(p)}</script>' for p in pictures
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="generator" content="slicewise">
<title>{escape(material.name)}: report</title>
<style>{_asset("page.css")}</style>
</head>
<body>
<header>
<h1>{escape(material.name)}</h1>
<p class="quiet">A slicewise study, as it was on
<time datetime="{material.written.isoformat(timespec="seconds")}">{
        material.written:%d %B %Y,
%H:%M %Z}</time>. {escape(_state(material))}</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}
</main>
{data}
<script type="text/plain" id="plotly">{_packed(get_plotlyjs())}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _state(material: Material) -> str:
    counts = {state: len(material.of(state)) for state in TrialState}
    said = [f"{n} {state.name.lower()}" for state, n in counts.items() if n]
    planned = f" {material.plan.n_trials} were asked for." if material.plan.n_trials else ""
    return f"Trials: {', '.join(said) or 'none'}.{planned}"


def _question(material: Material) -> str:
    config = material.identity.get("config", {})
    goals = " and ".join(
        f"{direction.name.lower()} {name}"
        for name, direction in zip(material.objectives, material.directions, strict=True)
    )
    by = [word for word in (material.plan.sampler, material.plan.pruner) if word]
    parts = [
        f"<p>Which student stands in best for the teacher slice? Sought: {escape(goals)}"
        f"{escape(' by ' + ' and '.join(by)) if by else ''}.</p>",
        _facts(
            [
                ("Teacher", _teacher(material)),
                ("Data", _in_words(config.get("data", {}))),
                ("Student", _in_words(config.get("student", {}))),
                ("Optimizer", _in_words(config.get("optimizer", {}))),
                ("Scheduler", _in_words(config.get("scheduler") or {})),
            ]
        ),
        _space(material),
    ]
    if config:
        text = escape(json.dumps(config, indent=2))
        parts.append(
            f"<details><summary>All that the trials share</summary><pre>{text}</pre></details>"
        )
    return "".join(parts)


def _teacher(material: Material) -> str:
    config = material.identity.get("config", {}).get("teacher", {})
    source = next((t.record["teacher"] for t in material.trials if t.record.get("teacher")), None)
    size = next((t.teacher_parameters for t in material.trials if t.teacher_parameters), None)
    said = [str(source)] if source else []
    if "first_layer" in config and "num_layers" in config:
        first, count = config["first_layer"], config["num_layers"]
        said.append(f"layers {first} to {first + count - 1}" if count != 1 else f"layer {first}")
    if size:
        said.append(f"{size:,} parameters")
    return ", ".join(said) or _in_words(config)


def _in_words(node: dict[str, Any]) -> str:
    """A configuration node: what it builds, then its plain values."""
    target = str(node.get("_target_", "")).rpartition(".")[2]
    values = [
        f"{key}={shown(value)}"
        for key, value in node.items()
        if not key.startswith("_") and isinstance(value, (bool, int, float, str))
    ]
    return f"{target}: {', '.join(values)}" if target and values else target or ", ".join(values)


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="words">{escape(text)}</td></tr>'
        for name, text in facts
        if text
    )
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>' if rows else ""


def _space(material: Material) -> str:
    space = material.identity.get("space", {})
    rows = [(key, _range(described)) for key, described in space.items()]
    return f"<h3>Search space</h3>{_facts(rows)}" if rows else ""


def _range(described: Any) -> str:
    """A distribution in words."""
    if not isinstance(described, dict) or "attributes" not in described:
        return str(described)
    attributes = described["attributes"]
    if "choices" in attributes:
        return "one of " + ", ".join(shown(choice) for choice in attributes["choices"])
    step = attributes.get("step")
    whole = described.get("name") == "IntDistribution"
    return (
        f"{shown(attributes['low'])} to {shown(attributes['high'])}"
        + (", logarithmic" if attributes.get("log") else "")
        + (", whole numbers" if whole else "")
        + (f", in steps of {shown(step)}" if step and not (whole and step == 1) else "")
    )


def _answer(material: Material) -> str:
    best = material.best
    if best is None:
        return "<p>No trial is complete, so there is no student to recommend yet.</p>"
    several = len(material.objectives) > 1
    tiles = [
        ("best trial" if not several else "first of the front", _link(material, best), ""),
        *(
            (name, _number(value), "good" if not several else "")
            for name, value in zip(material.objectives, best.values, strict=True)
        ),
    ]
    if best.valid_l1 is not None and "valid_l1" not in material.objectives:
        tiles.append(("validation L1", _number(best.valid_l1), ""))
    if best.baseline_ratio is not None:
        baseline = str(best.record.get("best_baseline") or "the best one").replace("_", " ")
        label = f"times better than predicting {escape(baseline)}"
        tiles.append((label, f"{best.baseline_ratio:.2f}", "good"))
    if best.parameters:
        tiles.append(("parameters", f"{best.parameters:,}", ""))
    if best.share:
        tiles.append(("of the original slice's parameters", f"{best.share:.1%}", "good"))
    if best.known("text_cosine") is not None:
        cosine = f"{best.known('text_cosine'):.4f}"
        tiles.append(("cosine to the original model, on text", cosine, ""))
    listed = "".join(
        f"<div><dt>{label}</dt><dd{f' class={kind}' if kind else ''}>{value}</dd></div>"
        for label, value, kind in tiles
    )
    point = ", ".join(f"{key}={shown(value)}" for key, value in best.trial.params.items())
    return (
        f'<dl class="tiles">{listed}</dl><p>Its parameters: {escape(point) or "none"}.</p>'
        f"{_best_students(material)}{_baselines(best)}"
    )


def _best_students(material: Material) -> str:
    """The students that one would choose from."""
    several = len(material.objectives) > 1
    students = [t for t in material.ranking if t.on_front] if several else material.size_front
    if len(students) < 2:
        return ""
    words = (
        "No trial is better than these in all objectives."
        if several
        else "No other student is both smaller and better than one of these."
    )
    return f"<h3>Best students</h3><p>{words}</p>" + _table(
        _columns(material, students), students, tall=False
    )


def _baselines(best: TrialMaterial) -> str:
    baselines = best.record.get("baselines") or {}
    if not baselines:
        return ""
    rows = [(name.replace("_", " "), f"L1 {value:.4g}") for name, value in baselines.items()]
    words = "What needs no student, on the same validation set:"
    return f"<h3>Baselines</h3><p>{words}</p>{_facts(rows)}"


def _leaderboard(material: Material) -> str:
    others = [
        t for t in material.trials if t.trial.state not in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    trials = [*material.ranking, *others]
    if not trials:
        return "<p>No trials yet.</p>"
    kept = trials[:_ROWS]
    words = "Best first. Press a heading to sort by it; a trial's number leads to its directory."
    if any(t.on_front for t in kept):
        words += " Marked: the best, or the Pareto front."
    if len(kept) < len(trials):
        words += f" The first {_ROWS} of {len(trials)}; all are in the storage."
    return f'<p class="quiet">{words}</p>{_table(_columns(material, kept), kept)}'


def _columns(material: Material, trials: Sequence[TrialMaterial]) -> list[_Column]:
    columns = [
        _Column("trial", "number of the trial", [_link(material, t) for t in trials]),
        _Column("state", "how it ended", [t.state for t in trials], is_number=False),
    ]
    for key, short in zip(material.keys, short_keys(material.keys), strict=True):
        cells = [_value(t.trial.params[key]) if key in t.trial.params else "" for t in trials]
        columns.append(_Column(short, key, cells))
    for index, name in enumerate(material.objectives):
        cells = [_value(t.values[index]) if t.values else "" for t in trials]
        columns.append(_Column(name, axis_title(name), cells))
    known: dict[str, tuple[str, Sequence[Any]]] = {
        "valid_l1": ("last validation L1", [t.valid_l1 for t in trials]),
        "x baseline": ("times better than the best baseline", [t.baseline_ratio for t in trials]),
        "parameters": ("of the student", [t.parameters for t in trials]),
        "of slice": ("share of the original slice's parameters", [t.share for t in trials]),
        "text cosine": (axis_title("text_cosine"), [t.known("text_cosine") for t in trials]),
        "text L1": (axis_title("text_l1"), [t.known("text_l1") for t in trials]),
        "ms": (axis_title("student_latency_ms"), [t.known("student_latency_ms") for t in trials]),
        "steps": ("optimizer steps", [t.steps for t in trials]),
        "seconds": ("wall time (s)", [t.seconds for t in trials]),
    }
    pruned = any(t.trial.state is TrialState.PRUNED for t in trials)
    for name, (hint, values) in known.items():
        if all(v is None for v in values) or (name in material.objectives and not pruned):
            continue
        heading = f"last {name}" if name in material.objectives else name
        columns.append(_Column(heading, hint, [_value(v, name) for v in values]))
    return columns


def _table(columns: Sequence[_Column], trials: Sequence[TrialMaterial], tall: bool = True) -> str:
    headings = "".join(
        f'<th scope="col"{" class=n" if c.is_number else ""} title="{escape(c.hint)}">'
        f"<button>{escape(c.heading)}</button></th>"
        for c in columns
    )
    rows = []
    for index, trial in enumerate(trials):
        cells = "".join(_cell(c.cells[index], c.is_number) for c in columns)
        rows.append(f"<tr{' class=front' if trial.on_front else ''}>{cells}</tr>")
    table = f"<table><thead><tr>{headings}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    label = "Trials" if tall else "Best students"
    return (
        f'<div class="scroll{" tall" if tall else ""}" role="region" aria-label="{label}" '
        f'tabindex="0">{table}</div>'
    )


def _cell(content: str, is_number: bool) -> str:
    """A cell; content that is a number in full brings its own attribute."""
    attributes = " class=n" if is_number else ""
    if content.startswith("data-v="):
        value, _, text = content.partition("|")
        return f"<td{attributes} {value}>{text}</td>"
    return f"<td{attributes}>{content}</td>"


def _value(value: Any, name: str = "") -> str:
    """A value with its full precision behind it, for `_cell`."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return escape(shown(value))
    if name == "of slice":
        return f'data-v="{value!r}"|{value:.1%}'
    if isinstance(value, int):
        return f'data-v="{value}"|{value:,}'
    if name == "text cosine":
        return f'data-v="{value!r}"|{value:.4f}'
    text = f"{value:.2f}" if name in ("x baseline", "seconds") else shown(value)
    return f'data-v="{value!r}"|{text}'


def _number(value: float) -> str:
    return f'<span data-v="{value!r}">{shown(value)}</span>'


def _link(material: Material, trial: TrialMaterial) -> str:
    """A trial's number, leading to its directory as seen from the report."""
    if not trial.directory.is_dir():
        return str(trial.number)
    place = quote(_relative(trial.directory, material.directory))
    return f'<a href="{place}/">{trial.number}</a>'


def _relative(directory: Path, start: Path) -> str:
    return os.path.relpath(directory, start)


def _figures(pictures: Sequence[Picture], section: str, grid: bool = False) -> str:
    own = [picture for picture in pictures if picture.section == section]
    if not own:
        return "<p>Too few trials for a picture of it.</p>"
    # A picture alone has its section's title.
    drawn = "".join(_figure(picture, titled=len(own) > 1) for picture in own)
    return f'<div class="grid">{drawn}</div>' if grid else drawn


def _figure(picture: Picture, titled: bool) -> str:
    height = picture.figure.layout.height
    title = f"<h3>{escape(picture.title)}</h3>" if titled else ""
    style = f' style="min-height:{height}px"' if height else ""
    return (
        f'<figure id="{picture.name}">{title}'
        f'<div class="plot" role="img" aria-label="{escape(picture.caption)}" '
        f'data-figure="data-{picture.name}"{style}></div>'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _json(picture: Picture) -> str:
    text: str = picture.figure.to_json()
    return text.replace("</", "<\\/")


def _failures(material: Material) -> str:
    failed: dict[str, list[TrialMaterial]] = defaultdict(list)
    for trial in material.of(TrialState.FAIL):
        failed[trial.reason].append(trial)
    parts = []
    if failed:
        rows = "".join(
            f'<tr><td class="n">{len(trials)}</td><td class="words">{escape(reason)}</td>'
            f'<td class="words">{_links(material, trials)}</td></tr>'
            for reason, trials in sorted(failed.items(), key=lambda item: -len(item[1]))
        )
        parts.append(
            '<div class="scroll"><table><thead><tr><th scope="col" class="n">failed</th>'
            '<th scope="col">reason</th><th scope="col">trials</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    else:
        parts.append("<p>No trial failed.</p>")
    pruned = material.of(TrialState.PRUNED)
    if pruned:
        parts.append(
            "<p>Pruned, because others did better at the same step: "
            f"{_links(material, pruned)}.</p>"
        )
    retaken = [trial for trial in material.trials if trial.attempts]
    if retaken:
        parts.append(
            f"<p>Taken up again because something died under them: {_links(material, retaken)}.</p>"
        )
    return "".join(parts)


def _links(material: Material, trials: Sequence[TrialMaterial]) -> str:
    linked = ", ".join(_link(material, trial) for trial in trials[:_LISTED_NUMBERS])
    left = len(trials) - _LISTED_NUMBERS
    return f"{linked} and {left} more" if left > 0 else linked


def _versions(material: Material) -> str:
    """What the trials recorded; where they differ, which did how often."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for trial in material.trials:
        record = trial.record
        named = {
            "hardware": record.get("hardware"),
            "precision": record.get("precision"),
            "CPU threads": record.get("threads"),
            "code (git commit)": record.get("git_commit"),
            **(record.get("versions") or {}),
        }
        for name, value in named.items():
            if value:
                found[name][str(value)] += 1
    if not found:
        return f"<p>No {RECORD_NAME} can be read from here.</p>"
    rows = [(name, _counted(values)) for name, values in found.items()]
    hosts = sorted({sign.hostname for sign in material.workers.values()})
    if hosts:
        rows.insert(0, ("machines", ", ".join(hosts)))
    return _facts(rows)


def _counted(values: dict[str, int]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({n} trials)" for value, n in values.items())


def _commands(material: Material) -> str:
    name, url = material.name, material.storage_url
    lines = []
    if material.plan.command:
        lines += ["# The same study again, or more of it", material.plan.command]
    if material.best is not None:
        place = os.path.relpath(material.best.directory, _working_directory(material))
        lines += ["# The best trial once more, and compare", f"python -m sweep.rerun {place}"]
    if url is not None:
        lines += [
            "# This report, and its pictures as files",
            command_of("sweep.report", name, url) + " --png",
            "# All studies in the browser",
            command_of("sweep.dashboard", None, url),
        ]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _working_directory(material: Material) -> Path:
    """Where the sweep was started: it holds multirun/<study>."""
    return material.directory.parent.parent


def _packed(text: str) -> str:
    """Two fifths of its size; the browser unpacks it."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def _asset(name: str) -> str:
    return (files("sweep.report") / name).read_text()
