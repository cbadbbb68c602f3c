"""What optuna-dashboard says of a study and of its trials: notes, in Markdown.

A note is signed: its last line, which no reader sees, has the digest of what stands above. So one
that somebody has changed is told from one that can be written anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from sweep.passwords import without_password
from sweep.report.material import Curve, Material, TrialMaterial
from sweep.report.sections import commands, question, working_directory
from sweep.report.table import trial_columns
from sweep.study.attributes import REASON
from sweep.study.places import rerun_command
from sweep.study.plan import reason_stopped
from sweep.view.words import metric_shown

_BEST = 10
# Of a curve: what a reader takes in at once.
_POINTS = 12
_BARS = "▁▂▃▄▅▆▇█"
# To Markdown a definition of a link that nothing refers to.
_SIGNATURE = "\n\n[//]: # (sweep.dashboard {})\n"
_URL = re.compile(r"\S+://\S+")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$!])")


def study_note(material: Material) -> str:
    """The question, the best trials and the commands of a study."""
    asked, then = question(material), commands(material)
    by = f", by {' and '.join(asked['by'])}" if asked["by"] else ""
    parts = [f"**Question:** {_text(', '.join(asked['goals']) + by)}"]
    if (stopped := reason_stopped(material.study)) is not None:
        parts.append(f"**Stopped before its budget was met:** {_text(stopped)}")
    if asked["space"]:
        parts.append(_table(("key", "searched"), asked["space"]))
    if asked["facts"]:
        parts.append(_table(("fixed", ""), asked["facts"]))
    several = len(material.objectives) > 1
    best = [t for t in material.ranking if (t.on_front if several else t.is_complete)][:_BEST]
    if best:
        parts += ["## On the Pareto front" if several else "## Best trials"]
        parts += [_trials(material, best)]
    what = {
        "again": "The same study again, or more of it",
        "rerun": "The best trial once more, and compare",
        "report": "The report",
        "dashboard": "This dashboard",
    }
    lines = [f"# {words}\n{then[name]}" for name, words in what.items() if then[name]]
    if lines:
        parts += ["## Commands", _code("\n".join(lines))]
    parts.append(
        f"The study's folder: {_code(str(material.directory), inline=True)}. "
        "Edit this note, and it stays as you leave it."
    )
    return _signed("\n\n".join(parts))


def trial_note(material: Material, trial: TrialMaterial) -> str:
    """What a trial measured, its curve and its directory."""
    columns = trial_columns(material, [trial])
    # The dashboard says itself which trial it is, and what it was asked.
    known = {"trial", "state", *(c.hint for c in columns if c.is_searched)}
    measured = [
        (column.hint or column.heading, column.cells[0].text)
        for column in columns
        if column.cells[0].text and not {column.heading, column.hint} & known
    ]
    parts = []
    reason = trial.trial.user_attrs.get(REASON)
    if reason:
        parts.append(f"**{_text(trial.state)}:** {_text(str(reason))}")
    if measured:
        parts.append(_table(("measured", ""), measured))
    if trial.curve:
        name = "valid_l1" if material.application is None else material.objectives[0]
        rows = [(f"{step:,}", metric_shown(name, value)) for step, value in _thinned(trial.curve)]
        if len(trial.curve) > 1:
            parts.append(f"**Curve:** {_sparkline(trial.curve)}")
        parts.append(_table(("step", name), rows))
    parts.append(f"**Directory:** {_code(str(trial.directory), inline=True)}")
    if trial.record:
        parts.append(_code(rerun_command(trial.directory, working_directory(material))))
    return _signed("\n\n".join(parts))


def is_signed(note: str) -> bool:
    """Whether a note is as it was written here: nobody has changed it since."""
    body, mark, _ = note.rpartition(_SIGNATURE.partition("{}")[0])
    return bool(mark) and note == _signed(body)


def _signed(body: str) -> str:
    body = _URL.sub(lambda url: without_password(url[0]), body)
    return body + _SIGNATURE.format(hashlib.sha256(body.encode()).hexdigest()[:16])


def _trials(material: Material, trials: Sequence[TrialMaterial]) -> str:
    """A row for each trial, its number leading to it."""
    columns = [c for c in trial_columns(material, trials) if c.heading != "state"]
    trials_url = f"/dashboard/studies/{material.study._study_id}/trials?numbers="
    rows = []
    for index, trial in enumerate(trials):
        cells = [_text(column.cells[index].text) for column in columns[1:]]
        rows.append([f"[{trial.number}]({trials_url}{trial.number})", *cells])
    return _rows([_text(column.heading) for column in columns], rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return _rows(list(map(_text, headings)), [list(map(_text, row)) for row in rows])


def _rows(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Whatever it says, on one line and as it stands: names of one's own may look like Markdown."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _code(text: str, inline: bool = False) -> str:
    """As it stands, between more backticks than it has in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    if inline:
        fence, line = "`" * (longest + 1), " ".join(text.splitlines())
        return f"{fence} {line} {fence}" if longest else f"{fence}{line}{fence}"
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def _thinned(curve: Curve) -> Curve:
    """Points at about the same distances, the first and the last among them."""
    last = len(curve) - 1
    count = min(len(curve), _POINTS)
    return [curve[round(i * last / max(1, count - 1))] for i in range(count)]


def _sparkline(curve: Curve) -> str:
    values = [value for _, value in curve][:: max(1, len(curve) // 40)]
    finite = [value for value in values if abs(value) < float("inf")]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    height = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    bars = (
        _BARS[round((value - low) * height)] if abs(value) < float("inf") else "?"
        for value in values
    )
    return "".join(bars)
