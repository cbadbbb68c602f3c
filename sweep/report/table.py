"""Tables and tiles, as plain values: the templates set them.

A cell shows a rounded number and carries it in full, as trial.json and the storage have it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from optuna.trial import TrialState

from sweep.report.material import Material, TrialMaterial
from sweep.trial.metrics import hint_of, seen_in
from sweep.view.words import metric_shown, short_keys, shown


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
class Tile:
    """One figure of the answer.

    Attributes:
        label: What it is.
        cell: The figure.
        is_good: Whether it is what was sought.
    """

    label: str
    cell: Cell
    is_good: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table.

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
    """Cells, in the order of the columns.

    Attributes:
        cells: Them.
        is_marked: Whether it is one of those that are sought: the best, or on the front.
    """

    cells: list[Cell]
    is_marked: bool


@dataclass(frozen=True)
class Table:
    """Trials or others, one a row.

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
    marked = [trial.on_front for trial in trials]
    return table_of(label, _columns(material, trials), marked, is_tall)


def table_of(
    label: str, columns: Sequence[Column], marked: Sequence[bool], is_tall: bool = False
) -> Table:
    """Rows of columns.

    Args:
        label: What it is.
        columns: With a cell for each row.
        marked: Of each row, whether it is one of those that are sought.
        is_tall: Whether it scrolls in a window of its own.
    """
    rows = [
        Row([column.cells[index] for column in columns], is_marked)
        for index, is_marked in enumerate(marked)
    ]
    return Table(label, list(columns), rows, is_tall)


def trial_link(material: Material, trial: TrialMaterial) -> Cell:
    """A trial's number, leading to its directory as seen from the report."""
    if not trial.directory.is_dir():
        return Cell(str(trial.number))
    place = quote(os.path.relpath(trial.directory, material.directory))
    return Cell(str(trial.number), href=f"{place}/")


def param_cell(value: Any) -> Cell:
    """What a trial was asked; nothing where it was not."""
    if value is None:
        return Cell("")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return Cell(shown(value))
    return Cell(f"{value:,}" if isinstance(value, int) else shown(value), full=repr(value))


def metric_cell(name: str, value: float | None) -> Cell:
    """What a metric came to; nothing where it is not known."""
    return Cell("") if value is None else Cell(metric_shown(name, value), full=repr(value))


def _columns(material: Material, trials: Sequence[TrialMaterial]) -> list[Column]:
    columns = [
        Column("trial", "number of the trial", [trial_link(material, t) for t in trials]),
        Column("state", "how it ended", [Cell(t.state) for t in trials], is_number=False),
    ]
    for key, short in zip(material.keys, short_keys(material.keys), strict=True):
        columns.append(Column(short, key, [param_cell(t.trial.params.get(key)) for t in trials]))
    for index, name in enumerate(material.objectives):
        cells = [metric_cell(name, t.values[index] if t.values else None) for t in trials]
        columns.append(Column(name, hint_of(name), cells))
    return columns + _metric_columns(material, trials)


def _metric_columns(material: Material, trials: Sequence[TrialMaterial]) -> list[Column]:
    """What is shown of every trial, besides what was sought."""
    columns = []
    pruned = any(t.trial.state is TrialState.PRUNED for t in trials)
    for metric in seen_in("report"):
        values = [t.metrics.get(metric) for t in trials]
        sought = metric.name in material.objectives
        if all(value is None for value in values) or (sought and not pruned):
            continue
        # A pruned trial has no value, but it has reached one.
        last = "last " if sought else ""
        cells = [metric_cell(metric.name, value) for value in values]
        columns.append(Column(last + metric.heading, last + metric.hint, cells))
    return columns
