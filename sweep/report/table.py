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
from sweep.trial.metrics import hint_of, metric_named, seen_in
from sweep.view.words import metric_shown, short_keys, shown


@dataclass(frozen=True)
class Cell:
    """What stands in one place.

    Attributes:
        text: What is read.
        full: The number behind it, for whoever sorts or copies; empty to be sorted last; None where
            it is no number.
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
        is_searched: Whether it is a parameter of the search.
    """

    heading: str
    hint: str
    cells: list[Cell]
    is_number: bool = True
    is_searched: bool = False


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
        alike: Heading and content of columns that are left out, as no two rows differ in them.
    """

    label: str
    columns: list[Column]
    rows: list[Row]
    is_tall: bool
    alike: list[tuple[str, str]]


def trial_table(
    material: Material, trials: Sequence[TrialMaterial], label: str, is_tall: bool
) -> Table:
    """What sets some trials apart: what they came to, then what they were asked.

    What all of them have alike is said once, and parameters that most of them do not have, as in a
    conditional space, share a column.
    """
    columns, alike = _without_alike(trial_columns(material, trials), material.objectives)
    marked = [trial.on_front for trial in trials]
    return table_of(label, _with_rare_together(columns), marked, is_tall, alike)


def trial_columns(material: Material, trials: Sequence[TrialMaterial]) -> list[Column]:
    """What is known of some trials: objectives, what else any of them has, and parameters."""
    columns = [
        Column("trial", "number of the trial", [trial_link(material, t) for t in trials]),
        Column("state", "how it ended", [Cell(t.state) for t in trials], is_number=False),
    ]
    for index, name in enumerate(material.objectives):
        cells = [_value_cell(name, index, t) for t in trials]
        columns.append(Column(name, hint_of(name), cells))
    columns += _metric_columns(material, trials)
    for key, short in zip(material.keys, short_keys(material.keys), strict=True):
        cells = [param_cell(t.trial.params.get(key)) for t in trials]
        columns.append(Column(short, key, cells, is_searched=True))
    return columns


def table_of(
    label: str,
    columns: Sequence[Column],
    marked: Sequence[bool],
    is_tall: bool = False,
    alike: Sequence[tuple[str, str]] = (),
) -> Table:
    """Rows of columns.

    Args:
        label: What it is.
        columns: With a cell for each row.
        marked: Of each row, whether it is one of those that are sought.
        is_tall: Whether it scrolls in a window of its own.
        alike: What all rows have, in no column.
    """
    rows = [
        Row([column.cells[index] for column in columns], is_marked)
        for index, is_marked in enumerate(marked)
    ]
    return Table(label, list(columns), rows, is_tall, list(alike))


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


def _value_cell(name: str, index: int, trial: TrialMaterial) -> Cell:
    """What was sought; of a pruned trial, which has no value, in brackets what it had reached."""
    if trial.values:
        return metric_cell(name, trial.values[index])
    metric = metric_named(name)
    reached = None if metric is None else trial.metrics.get(metric)
    if reached is None and not trial.is_fit and trial.curve:
        reached = trial.curve[-1][1]
    if reached is None or trial.trial.state is not TrialState.PRUNED:
        return Cell("")
    return Cell(f"({metric_shown(name, reached)})", full="")


def _metric_columns(material: Material, trials: Sequence[TrialMaterial]) -> list[Column]:
    """What is shown of every trial, besides what was sought."""
    columns = []
    for metric in seen_in("report"):
        values = [t.metrics.get(metric) for t in trials]
        if metric.name not in material.objectives and any(v is not None for v in values):
            cells = [metric_cell(metric.name, value) for value in values]
            columns.append(Column(metric.heading, metric.hint, cells))
    return columns


def _without_alike(
    columns: Sequence[Column], sought: Sequence[str]
) -> tuple[list[Column], list[tuple[str, str]]]:
    """Columns that tell rows apart, and what is the same in all; empty ones are in neither.

    The first, which names the rows, and what is sought stay, as all do of a single row. What was
    not measured does not tell rows apart, what was not asked does.
    """
    if len(columns[0].cells) < 2:
        return [column for column in columns if any(cell.text for cell in column.cells)], []
    kept, alike = [columns[0]], []
    for column in columns[1:]:
        texts = dict.fromkeys(cell.text for cell in column.cells)
        found = [text for text in texts if text or column.is_searched]
        is_sought = column.heading in sought and not column.is_searched
        if len(found) > 1 or is_sought:
            kept.append(column)
        elif any(found):
            alike.append((column.heading, found[0]))
    return kept, alike


def _with_rare_together(columns: Sequence[Column]) -> list[Column]:
    """Parameters that fewer than half of the rows have, in one column of words, if several are."""
    rare = [c for c in columns if c.is_searched and _filled(c) < len(c.cells) / 2]
    if len(rare) < 2:
        return list(columns)
    texts = [
        ", ".join(
            f"{column.heading}={cell.text}" for column in rare if (cell := column.cells[i]).text
        )
        for i in range(len(rare[0].cells))
    ]
    hint = "parameters that few of the trials have: " + ", ".join(column.hint for column in rare)
    together = Column("others", hint, list(map(Cell, texts)), is_number=False, is_searched=True)
    return [*(column for column in columns if column not in rare), together]


def _filled(column: Column) -> int:
    return sum(bool(cell.text) for cell in column.cells)
