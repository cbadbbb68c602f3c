"""trial.json: what became of a trial, in one file that appears whole or not at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.types import RunMode

from slicewise.atomic import write_atomically
from slicewise.errors import SlicewiseError
from sweep.trial.active import ActiveTrial
from sweep.trial.checkpoint import remove_checkpoint
from sweep.trial.metrics import MEASURED, METRICS, Metrics
from sweep.trial.outcome import End, Outcome
from sweep.trial.provenance import code_commit, package_versions
from sweep.trial.task import Task

log = logging.getLogger(__name__)

# Of records without `end`, which the first release wrote.
_END_OF_STATE = {"COMPLETE": End.COMPLETE, "PRUNED": End.PRUNED, "FAIL": End.FAILED}

RECORD_NAME = "trial.json"
# Of one fit of a trial that is the mean over several seeds: no trial of its own.
FIT_RECORD_NAME = "fit.json"
SEED_FOLDER = "seed_{}"
STUDENT_FOLDER = "student"


@dataclass(kw_only=True)
class TrialRecord(Metrics):
    """The result of a trial: what it was, and its metrics.

    Attributes:
        study: Name of the study.
        number: Of the trial in its study; 0 for a single fit.
        state: Optuna's words: COMPLETE, PRUNED or FAIL.
        end: How it ended, by `sweep.trial.outcome.End`: of a failure, whose fault it was.
        params: The swept values; empty for a single fit.
        overrides: The command-line overrides that made this trial's configuration.
        values: What the objective asked for, in its order.
        baselines: L1 on the same validation set, by name.
        best_baseline: Name of the lowest.
        teacher: Where the teacher's weights come from.
        seed: Of the student's weights, data and dropout.
        threads: torch's threads: another number sums in another order.
        versions: Of Python and the packages that decide a loss.
        hardware: The devices that trained.
        precision: Lightning's name of what they computed in.
        git_commit: Of the code, with "-dirty" where it had been changed; None outside git.
        reason: Why the trial failed or stopped.
        seeds: What the objective came to with each of `objective.seeds`; None: it is one fit.
        best_seed: The one whose student is the trial's.
    """

    study: str
    number: int
    state: str
    params: dict[str, Any]
    overrides: list[str]
    seed: int
    threads: int
    hardware: str
    end: str | None = None
    precision: str | None = None
    values: list[float] | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    best_baseline: str | None = None
    # Of the loss that is learned by, where it is not L1.
    loss_baselines: dict[str, float] = field(default_factory=dict)
    teacher: str | None = None
    versions: dict[str, str] = field(default_factory=package_versions)
    git_commit: str | None = field(default_factory=code_commit)
    reason: str | None = None
    seeds: dict[str, list[float]] | None = None
    best_seed: int | None = None

    @classmethod
    def begin(cls, task: Task, threads: int) -> TrialRecord:
        """The record of a trial that begins."""
        hydra = task.hydra
        return cls(
            study=task.config.study,
            number=hydra.job.num if hydra.mode == RunMode.MULTIRUN else 0,
            state="RUNNING",
            params=dict(task.params or {}),
            overrides=list(hydra.overrides.task),
            seed=task.config.seed,
            threads=threads,
            hardware="",
            steps=0,
            seconds=0.0,
        )

    def conclude(self, directory: Path, name: str = RECORD_NAME) -> None:
        """Writes the record of a trial that has ended; its checkpoint is of no more use."""
        self.write(directory, name)
        remove_checkpoint(directory)

    def outcome(self) -> Outcome:
        """How the trial ended that wrote this record."""
        end = End(self.end) if self.end is not None else _END_OF_STATE[self.state]
        return Outcome(end, self.reason or "", tuple(self.values or ()))

    def take_outcome(self, outcome: Outcome, seconds: float) -> None:
        """Takes how the trial ended, after so many seconds; nothing where it goes on later."""
        self.seconds = round(seconds, 3)
        if outcome.end.is_final:
            self.state, self.end = outcome.end.state.name, outcome.end.value
            self.reason = outcome.reason or None

    def take_sizes(self, teacher: str, teacher_parameters: int, student_parameters: int) -> None:
        """Takes where the teacher's weights come from, and how large both are."""
        self.teacher = teacher
        self.teacher_parameters = teacher_parameters
        self.student_parameters = student_parameters

    def take_metrics(self, metrics: dict[str, float]) -> None:
        """Takes what the last validation logged."""
        prefix = "baseline/"
        self.train_l1 = metrics.get("train_l1")
        self.train_loss = metrics.get("train_loss", self.train_l1)
        self.valid_l1 = metrics.get("valid_l1")
        self.valid_loss = metrics.get("valid_loss", self.valid_l1)
        self.baselines = {
            name.removeprefix(prefix): value
            for name, value in metrics.items()
            if name.startswith(prefix)
        }
        prefix = "baseline_loss/"
        self.loss_baselines = {
            name.removeprefix(prefix): value
            for name, value in metrics.items()
            if name.startswith(prefix)
        }
        if self.baselines:
            self.best_baseline = min(self.baselines, key=self.baselines.__getitem__)
        if self.valid_l1 and self.best_baseline:
            self.baseline_ratio = self.baselines[self.best_baseline] / self.valid_l1

    def attributes(self) -> dict[str, Any]:
        """What a study keeps of it, for dashboards and tables."""
        kept = {metric.name: self.get(metric) for metric in METRICS if metric.is_kept}
        return {name: value for name, value in kept.items() if value is not None}

    def write(self, directory: Path, name: str = RECORD_NAME) -> Path:
        """Writes `trial.json` into a trial's directory, or `fit.json` into that of one fit."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / name
        told = asdict(self)
        # What it was first, then its numbers.
        told |= {name: told.pop(name) for name in MEASURED}
        return write_atomically(path, json.dumps(told, indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path, name: str = RECORD_NAME) -> TrialRecord:
        """Reads a trial's directory, or that of one of its fits.

        Raises:
            SlicewiseError: There is no `trial.json`, or it is not one.
        """
        path = directory / name
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            raise SlicewiseError(
                f"{directory} is not a finished trial: it has no {RECORD_NAME}\n"
                "A trial's directory is multirun/<study>/<number>"
            ) from None
        except (ValueError, TypeError) as error:
            raise SlicewiseError(f"{path} is damaged: {error}") from error


def recorded_outcome(directory: Path, active: ActiveTrial) -> Outcome | None:
    """How a trial ended here whose worker died before it could tell; None where none has ended.

    Raises:
        SlicewiseError: The trial that ended here is another one.
    """
    if not (directory / RECORD_NAME).exists():
        return None
    if not active.in_study:
        raise SlicewiseError(
            f"{directory} holds a finished trial: choose another study=NAME, or remove it"
        )
    record = TrialRecord.read(directory)
    if record.params != active.params:
        raise SlicewiseError(f"{directory} holds another trial: {record.params}; remove it")
    log.info("Finished already: %s", directory)
    active.attributes |= record.attributes()
    return record.outcome()


def record_files(folder: Path) -> Iterator[Path]:
    """The records of all trials below a study's folder, wherever `hydra.sweep.subdir` puts them."""
    for path in sorted(folder.rglob(RECORD_NAME)):
        # Repetitions lie in their trial's folder.
        if not any(above != folder and (above / RECORD_NAME).is_file() for above in _above(path)):
            yield path


def _above(path: Path) -> Iterator[Path]:
    """The folders above that of a file."""
    yield from path.parent.parents
