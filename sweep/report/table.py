"""Tables of trials, as plain values: the templates set them.

A cell shows a rounded number and carries it in full, as trial.json and the storage have it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from optuna.trial import TrialState

from sweep.report.figures import axis_title
from sweep.report.material import Material, TrialMaterial
from sweep.view.words import short_keys, shown


@dataclass(frozen=True)
class Cell:
    """What stands in one place.

    Attributes:
        text: What is read.
        full: The number behind it, for whoever sorts or copies; None where it is no number.
        href: Where it leads to; None: nowhere.
    """

    text: str
    full: str | None = None
    href: str | None = None


@dataclass(frozen=True)
class Column:
    """A column of a table of trials.

    Attributes:
        heading: What it says on top.
        hint: The same in words, with the unit.
        cells: One for each row.
        is_number: Set to the right.
    """

    heading: str
    hint: str
    cells: list[Cell]
    is_number: bool = True


@dataclass(frozen=True)
class Row:
    """A trial's cells, in the order of the columns.

    Attributes:
        cells: Them.
        is_marked: Whether it is on the front, or the best.
    """

    cells: list[Cell]
    is_marked: bool


@dataclass(frozen=True)
class Table:
    """Trials, one a row.

    Attributes:
        label: What it is, for those who cannot see it.
        columns: From left to right.
        rows: From top to bottom.
        is_tall: Whether it scrolls in a window of its own.
    """

    label: str
    columns: list[Column]
    rows: list[Row]
    is_tall: bool


def trial_table(
    material: Material, trials: Sequence[TrialMaterial], label: str, is_tall: bool
) -> Table:
    """What is known of some trials: parameters, objectives, and what else any of them has."""
    columns = _columns(material, trials)
    rows = [
        Row([column.cells[index] for column in columns], trial.on_front)
        for index, trial in enumerate(trials)
    ]
    return Table(label, columns, rows, is_tall)


def trial_link(material: Material, trial: TrialMaterial) -> Cell:
    """A trial's number, leading to its directory as seen from the report."""
    if not trial.directory.is_dir():
        return Cell(str(trial.number))
    place = quote(os.path.relpath(trial.directory, material.directory))
    return Cell(str(trial.number), href=f"{place}/")


def value_cell(value: Any, name: str = "") -> Cell:
    """A value, rounded as is usual for what it is called."""
    if value is None:
        return Cell("")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return Cell(shown(value))
    return Cell(_rounded(value, name), full=repr(value))


def _rounded(value: float, name: str) -> str:
    if name == "of slice":
        return f"{value:.1%}"
    if isinstance(value, int):
        return f"{value:,}"
    if name == "text cosine":
        return f"{value:.4f}"
    return f"{value:.2f}" if name in ("x baseline", "seconds") else shown(value)


def _columns(material: Material, trials: Sequence[TrialMaterial]) -> list[Column]:
    columns = [
        Column("trial", "number of the trial", [trial_link(material, t) for t in trials]),
        Column("state", "how it ended", [Cell(t.state) for t in trials], is_number=False),
    ]
    for key, short in zip(material.keys, short_keys(material.keys), strict=True):
        columns.append(Column(short, key, [value_cell(t.trial.params.get(key)) for t in trials]))
    for index, name in enumerate(material.objectives):
        cells = [value_cell(t.values[index] if t.values else None) for t in trials]
        columns.append(Column(name, axis_title(name), cells))
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
        columns.append(Column(heading, hint, [value_cell(v, name) for v in values]))
    return columns
