"""What a report is made of: the study in the storage, and what its trials left on disk.

The storage is what counts. A trial whose directory is on another machine, or gone, is reported
with what the storage knows of it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweep.study.attributes import ATTEMPTS, IDENTITY, REASON, WORKER
from sweep.study.places import trial_folder
from sweep.study.plan import Plan, read_plan
from sweep.study.presence import Heartbeat, read_heartbeats
from sweep.trial.metrics import METRICS_NAME, Metrics
from sweep.trial.record import RECORD_NAME, SEED_FOLDER
from sweep.trial.rows import read_rows
from sweep.view.summary import objective_names, ranked

Curve = list[tuple[int, float]]
# So few complete trials are read rather than looked at.
FEW = 3


@dataclass
class TrialMaterial:
    """One trial.

    Attributes:
        trial: As the storage has it.
        directory: Where its files are.
        record: Its trial.json; empty where it cannot be read.
        curve: What it reported, by step: validation L1 by optimizer step; of a trial that is the
            mean over several seeds, that of the first.
        is_fit: Whether it is this package's own trial, which measures what `Metrics` says.
        on_front: Whether it is on the study's Pareto front; for one direction, whether it is best.
    """

    trial: FrozenTrial
    directory: Path
    record: dict[str, Any]
    curve: Curve
    is_fit: bool
    on_front: bool = False

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def state(self) -> str:
        return self.trial.state.name.lower()

    @property
    def is_complete(self) -> bool:
        return self.trial.state is TrialState.COMPLETE

    @property
    def values(self) -> list[float]:
        """One for each direction; none for a trial that is not complete."""
        return list(self.trial.values or []) if self.is_complete else []

    @cached_property
    def metrics(self) -> Metrics:
        """What the storage, or else trial.json, says of it; of a pruned trial the last loss."""
        if not self.is_fit:
            return Metrics()
        metrics = Metrics.known({**self.record, **self.trial.user_attrs})
        if metrics.valid_l1 is None and self.curve:
            metrics.valid_l1 = self.curve[-1][1]
        metrics.steps = metrics.steps or (self.curve[-1][0] if self.curve else None)
        return metrics

    @property
    def reason(self) -> str:
        return str(self.trial.user_attrs.get(REASON, "unknown"))

    @property
    def attempts(self) -> int:
        """How often its worker died."""
        return int(self.trial.user_attrs.get(ATTEMPTS, 0))

    @property
    def worker(self) -> str | None:
        """Who ran it last."""
        return self.trial.user_attrs.get(WORKER)


@dataclass
class Material:
    """A study, read once.

    Attributes:
        study: Optuna's.
        directory: The study's folder, to which links are relative.
        storage_url: Where the study is; None: in the memory of a process.
        trials: All, by number.
        ranking: Those that are complete or pruned, best first.
        objectives: What the values are called.
        identity: What the study is about: `space` and `config`.
        plan: What its sweep meant to do.
        workers: The signs of all workers it ever had, by name.
        written: When it was read.
    """

    study: optuna.Study
    directory: Path
    storage_url: str | None
    trials: list[TrialMaterial]
    ranking: list[TrialMaterial]
    objectives: Sequence[str]
    identity: dict[str, Any]
    plan: Plan
    workers: dict[str, Heartbeat]
    written: datetime

    @property
    def name(self) -> str:
        return self.study.study_name

    @property
    def application(self) -> str | None:
        """How another application is run whose study it is; None: it is of students."""
        return self.plan.application

    @cached_property
    def directions(self) -> list[StudyDirection]:
        return self.study.directions

    def of(self, *states: TrialState) -> list[TrialMaterial]:
        """The trials in one of these states."""
        return [trial for trial in self.trials if trial.trial.state in states]

    @cached_property
    def complete(self) -> list[TrialMaterial]:
        return self.of(TrialState.COMPLETE)

    @property
    def best(self) -> TrialMaterial | None:
        """The first of the ranking, if it is complete."""
        return self.ranking[0] if self.ranking and self.ranking[0].is_complete else None

    @cached_property
    def keys(self) -> list[str]:
        """The parameters that any trial has, in the order of the space."""
        seen = {key for trial in self.trials for key in trial.trial.params}
        ordered = [key for key in self.identity.get("space", {}) if key in seen]
        return ordered + sorted(seen - set(ordered))

    @cached_property
    def shared(self) -> dict[str, Any]:
        """The part of the configuration that all trials share: what no trial was asked for."""
        config: dict[str, Any] = copy.deepcopy(self.identity.get("config", {}))
        for key in {*self.identity.get("space", {}), *self.keys}:
            _remove(config, key.lstrip("+").partition("@")[0].replace("/", "."))
        return config

    @cached_property
    def students(self) -> list[TrialMaterial]:
        """Complete trials of which both loss and size are known: each a student one could take."""
        return [
            t
            for t in self.complete
            if t.metrics.valid_l1 is not None and t.metrics.student_parameters
        ]

    @cached_property
    def size_front(self) -> list[TrialMaterial]:
        """The students that no other beats in both loss and size, the smallest first."""
        front: list[TrialMaterial] = []
        for student in sorted(
            self.students, key=lambda t: (t.metrics.student_parameters, t.metrics.valid_l1)
        ):
            if not front or (student.metrics.valid_l1 or 0.0) < (front[-1].metrics.valid_l1 or 0.0):
                front.append(student)
        return front


def read_material(study: optuna.Study, directory: Path, storage_url: str | None) -> Material:
    """Reads a study, and the files of its trials."""
    front, plan = _front(study), read_plan(study)
    is_fit = plan.application is None
    trials = [
        _read_trial(trial, trial_folder(study, trial, directory), is_fit, trial.number in front)
        for trial in study.get_trials(deepcopy=False)
    ]
    by_number = {trial.number: trial for trial in trials}
    return Material(
        study=study,
        directory=directory,
        storage_url=storage_url,
        trials=trials,
        ranking=[by_number[t.number] for t in ranked(study) if t.number in by_number],
        objectives=list(objective_names(study)),
        identity=study.user_attrs.get(IDENTITY, {}),
        plan=plan,
        workers=read_heartbeats(study, "worker"),
        written=datetime.now().astimezone(),
    )


def varying(material: Material) -> list[str]:
    """The parameters that complete trials differ in."""
    return [key for key in material.keys if len(_values_of(material, key)) > 1]


def _values_of(material: Material, key: str) -> set[str]:
    return {repr(t.trial.params[key]) for t in material.complete if key in t.trial.params}


def _remove(tree: Any, key: str) -> None:
    """Removes a dotted key; of a group that was chosen, all that the choice brought."""
    first, _, rest = key.partition(".")
    if not isinstance(tree, dict) or first not in tree:
        return
    if rest:
        _remove(tree[first], rest)
    else:
        del tree[first]


def _front(study: optuna.Study) -> set[int]:
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return set()
    if len(study.directions) > 1:
        return {trial.number for trial in study.best_trials}
    return {ranked(study)[0].number}


def _read_trial(trial: FrozenTrial, directory: Path, is_fit: bool, on_front: bool) -> TrialMaterial:
    record, curve = _read_record(directory), sorted(trial.intermediate_values.items())
    if is_fit and record.get("seeds"):
        # What was reported may be the value of each seed.
        curve = _read_curve(directory / SEED_FOLDER.format(next(iter(record["seeds"]))))
    elif is_fit:
        curve = curve or _read_curve(directory)
    return TrialMaterial(trial, directory, record, curve, is_fit, on_front)


def _read_record(directory: Path) -> dict[str, Any]:
    try:
        record = json.loads((directory / RECORD_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _read_curve(directory: Path) -> Curve:
    """The validations in metrics.csv: with several directions the storage has none."""
    try:
        rows = [row for row in read_rows(directory / METRICS_NAME) if "valid_l1" in row]
        return [(int(row["step"]) + 1, float(row["valid_l1"])) for row in rows]
    except (OSError, ValueError, KeyError):
        return []
