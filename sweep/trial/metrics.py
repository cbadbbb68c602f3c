"""What a trial reports: a table with a row for each number.

A new metric is a row here, and the line of the fit that measures it (`record.name = ...` in
`sweep.trial.fit`): trial.json, objectives, studies, trackers, tables and pictures know it by its
row.

Imports nothing heavy: reports and tables are made without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

# The losses of a fit's steps and validations, in the trial's directory.
METRICS_NAME = "metrics.csv"

Better = Literal["smaller", "larger"]
# Who shows a metric besides its objective: the report's tables, the table at the end of a sweep
# (80 columns), the line of the best trial while it runs.
View = Literal["report", "summary", "watch"]
Getter = TypeVar("Getter", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    Attributes:
        name: In trial.json, `objective.metrics`, studies and trackers.
        description: What it is, in words.
        unit: Of the number; empty for a count or a ratio.
        heading: Of a column.
        format: How it is shown, as `format` takes it.
        better: Which values are; None: neither.
        is_objective: Whether a study can search by it.
        is_kept: Whether the study keeps it of each trial: what dashboards show, and what tables
            know where the trial's directory cannot be read.
        is_known_before: Whether a trial has it before it trains.
        views: Who shows it of every trial.
    """

    name: str
    description: str
    unit: str = ""
    heading: str = ""
    format: str = ".4g"
    better: Better | None = None
    is_objective: bool = False
    is_kept: bool = False
    is_known_before: bool = False
    views: tuple[View, ...] = ()

    @property
    def title(self) -> str:
        """With its unit, for an axis."""
        return f"{self.description} ({self.unit})" if self.unit else self.description

    @property
    def hint(self) -> str:
        """The title, and what is good."""
        return f"{self.title}; {self.better} is better" if self.better else self.title

    @property
    def direction(self) -> str | None:
        """Of a study that looks for good values."""
        return {"smaller": "minimize", "larger": "maximize", None: None}[self.better]

    def shown(self, value: float | None) -> str:
        """A value for people; nothing where there is none."""
        return "" if value is None else format(value, self.format)


def _row(description: str, **row: Any) -> Any:
    """A field of `Metrics`, and its row."""
    return field(default=None, metadata={"row": {"description": description, **row}})


def _derived(description: str, **row: Any) -> Callable[[Getter], Getter]:
    """The row of a property of `Metrics`, which follows from others and is not measured."""

    def mark(getter: Getter) -> Getter:
        getter.row = {"description": description, **row}  # type: ignore[attr-defined]
        return getter

    return mark


@dataclass
class Metrics:
    """The numbers of a trial, in the order of the table; None: not measured, or not known."""

    # On the validation set, after the last step.
    valid_l1: float | None = _row(
        "validation L1 (mean absolute error)",
        better="smaller",
        is_objective=True,
        views=("report",),
    )
    # Of the last step.
    train_l1: float | None = _row(
        "training L1 (mean absolute error)",
        better="smaller",
        is_objective=True,
    )
    # Of the objective, the first where there are several.
    value_std: float | None = _row(
        "standard deviation of the objective over objective.seeds",
        heading="std",
        better="smaller",
        is_kept=True,
        views=("report", "summary", "watch"),
    )
    # Of what is learned by, L1 or not.
    valid_loss: float | None = _row(
        "validation loss, of what is learned by",
        better="smaller",
        is_objective=True,
    )
    train_loss: float | None = _row(
        "training loss, of what is learned by",
        better="smaller",
        is_objective=True,
    )
    # The L1 of the best baseline over `valid_l1`.
    baseline_ratio: float | None = _row(
        "times better than the best baseline",
        heading="x baseline",
        format=".2f",
        better="larger",
        is_objective=True,
        is_kept=True,
        views=("report", "summary", "watch"),
    )
    teacher_parameters: int | None = _row(
        "parameters of the original slice",
        format=",.0f",
        is_kept=True,
    )
    student_parameters: int | None = _row(
        "parameters of the student",
        heading="parameters",
        format=",.0f",
        better="smaller",
        is_objective=True,
        is_kept=True,
        is_known_before=True,
        views=("report", "summary"),
    )

    @property
    @_derived(
        "share of the original slice's parameters",
        heading="of slice",
        format=".1%",
        better="smaller",
        views=("report",),
    )
    def parameter_share(self) -> float | None:
        if not self.student_parameters or not self.teacher_parameters:
            return None
        return self.student_parameters / self.teacher_parameters

    # Of `python -m sweep.compress`: of a candidate alone in the model, or of a whole plan; on
    # validation text.
    damage: float | None = _row(
        "one minus the cosine to the original model's embeddings",
        format=".4f",
        better="smaller",
        is_kept=True,
    )
    # In the slice's place in the whole model: mean over texts.
    text_cosine: float | None = _row(
        "cosine to the original model's embeddings, on held-out text",
        heading="text cosine",
        format=".4f",
        better="larger",
        is_objective=True,
        is_kept=True,
        views=("report",),
    )
    text_l1: float | None = _row(
        "L1 to the slice, on held-out text",
        heading="text L1",
        better="smaller",
        is_objective=True,
        is_kept=True,
        views=("report",),
    )
    # One forward pass over `data.seq_length` tokens, on the device that trained.
    student_latency_ms: float | None = _row(
        "latency of one text",
        unit="ms",
        heading="ms",
        better="smaller",
        is_objective=True,
        is_kept=True,
        is_known_before=True,
        views=("report",),
    )
    # Of the same pass.
    student_flops: int | None = _row(
        "floating-point operations of one text",
        format=",.0f",
        better="smaller",
    )
    steps: int | None = _row(
        "optimizer steps",
        format=",.0f",
        is_kept=True,
        views=("report",),
    )
    # Imports left out.
    seconds: float | None = _row(
        "wall time of the fit",
        unit="s",
        format=".2f",
        better="smaller",
        is_objective=True,
        is_kept=True,
        views=("report",),
    )

    @classmethod
    def known(cls, values: Mapping[str, Any]) -> Metrics:
        """Those that a study, or a trial.json, has among other things."""
        return cls(**{name: values[name] for name in MEASURED if name in values})

    def get(self, metric: Metric) -> float | None:
        """The number in a row of the table."""
        value: float | None = getattr(self, metric.name)
        return value


def _rows() -> Iterator[Metric]:
    """The table, in the order in which it is written."""
    measured = {entry.name: entry.metadata["row"] for entry in fields(Metrics)}
    for name, value in vars(Metrics).items():
        row = measured.get(name, getattr(getattr(value, "fget", None), "row", None))
        if row is not None:
            yield Metric(name=name, **{"heading": name, **row})


# Those that are in trial.json.
MEASURED = tuple(entry.name for entry in fields(Metrics))
METRICS = tuple(_rows())


def metric_named(name: str) -> Metric | None:
    """A row of the table; None where there is none of that name."""
    return next((metric for metric in METRICS if metric.name == name), None)


def title_of(name: str) -> str:
    """A metric with its unit; the name itself of what is not in the table."""
    metric = metric_named(name)
    return name if metric is None else metric.title


def hint_of(name: str) -> str:
    """The title of a metric, and what is good; the name itself of what is not in the table."""
    metric = metric_named(name)
    return name if metric is None else metric.hint


def heading_of(name: str) -> str:
    """A metric in short; the name itself of what is not in the table."""
    metric = metric_named(name)
    return name if metric is None else metric.heading


def objectives() -> list[str]:
    """The names of what a study can search by."""
    return [metric.name for metric in METRICS if metric.is_objective]


def seen_in(view: View) -> list[Metric]:
    """What is shown of every trial there."""
    return [metric for metric in METRICS if view in metric.views]
