"""Studies as sweeps leave them, without the hours of training: storage, folders, trial.json."""

from __future__ import annotations

import csv
import json
import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.study.attributes import ATTEMPTS, DIRECTORY, IDENTITY, REASON, WORKER
from sweep.study.plan import Plan, write_plan
from sweep.study.shared import quiet_optuna
from sweep.study.storage import open_storage
from sweep.trial.provenance import package_versions

TEACHER_PARAMETERS = 3_548_928
BASELINE = 0.3958
_BEGAN = datetime(2026, 3, 1, 9, 0, 0)
_SPACE = {
    "optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
    "student.qkv_layers": CategoricalDistribution([1, 2, 4]),
    "student.init": CategoricalDistribution(["random", "teacher"]),
}
_STEPS = (200, 400, 600, 800, 1000)


def make_study(
    folder: Path,
    n_trials: int,
    objectives: tuple[str, ...] = ("valid_l1",),
    with_files: bool = True,
    all_fail: bool = False,
    in_memory: bool = False,
    n_parameters: int = 3,
) -> optuna.Study:
    """Makes the study `mine` in a folder's `multirun`, of trials run by two workers.

    Args:
        folder: Where `multirun` is.
        n_trials: How many; every fifth is pruned and every seventh fails.
        objectives: Names of the values.
        with_files: Whether the trials left their directories.
        all_fail: Whether no trial got anywhere.
        in_memory: Whether the storage is this process's memory, for many trials.
        n_parameters: From the fourth on, each is asked of one trial in three, as of one family.
    """
    quiet_optuna()
    home = folder / "multirun" / "mine"
    home.mkdir(parents=True)
    study = optuna.create_study(
        study_name="mine",
        storage=InMemoryStorage()
        if in_memory
        else open_storage(f"sqlite:///{folder}/multirun/studies.db"),
        directions=["minimize"] * len(objectives),
    )
    study.set_metric_names(list(objectives))
    space = {key: json.loads(distribution_to_json(d)) for key, d in _SPACE.items()}
    teacher = {"_target_": "slicewise.TeacherSlice", "first_layer": 0, "num_layers": 2}
    shared = {"teacher": teacher, "data": {"batch_size": 32, "seq_length": 128}, "seed": 0}
    study.set_user_attr(IDENTITY, {"space": space, "config": shared})
    command = "python -m sweep -m student.qkv_layers=1,2,4 study=mine"
    write_plan(study, Plan(n_trials, str(home), command, "TPESampler", "MedianPruner"))
    trials = [
        _trial(home, number, objectives, all_fail, n_parameters) for number in range(n_trials)
    ]
    study.add_trials(trials)
    if with_files:
        for trial in trials:
            _write_files(home, trial, objectives)
    return study


def _trial(
    home: Path, number: int, objectives: tuple[str, ...], all_fail: bool, n_parameters: int
) -> FrozenTrial:
    lr = 10 ** (-4 + 3 * (number * 0.618 % 1))
    layers = (1, 2, 4)[number % 3]
    state = TrialState.COMPLETE
    if all_fail or number % 7 == 6:
        state = TrialState.FAIL
    elif number % 5 == 4:
        state = TrialState.PRUNED
    loss = 0.2 + 0.02 * abs(math.log10(lr) + 2.5) + 0.03 / layers + 0.0001 * (number % 11)
    size = 800_000 + 300_000 * layers
    values = {"valid_l1": loss, "student_parameters": float(size), "seconds": 30.0 + number % 4}
    started = _BEGAN + timedelta(seconds=20 * number)
    attributes: dict[str, Any] = {
        WORKER: f"abc123/{number % 2}-ffff",
        DIRECTORY: str(home / str(number)),
    }
    if state is TrialState.FAIL:
        attributes[REASON] = f"student.value_dim={number % 2}: allowed: <more> & more"
    else:
        attributes |= {"student_parameters": size, "teacher_parameters": TEACHER_PARAMETERS}
    if state is TrialState.COMPLETE:
        attributes |= {"baseline_ratio": BASELINE / loss, "seconds": values["seconds"]}
    if number == 3:
        attributes[ATTEMPTS] = 1
    reached = {TrialState.COMPLETE: 5, TrialState.PRUNED: 2, TrialState.FAIL: 0}[state]
    curve = {step: loss + 60.0 / step for step in _STEPS[:reached]}
    if reached == 5:
        curve[_STEPS[-1]] = loss
    params = {"optimizer.lr": lr, "student.qkv_layers": layers, "student.init": "random"}
    more = {
        f"student.part_{n}_dim": 8 * (1 + number % 5)
        for n in range(3, n_parameters)
        if number % 3 == n % 3
    }
    trial = create_trial(
        state=state,
        params=params | more,
        distributions={**_SPACE, **dict.fromkeys(more, IntDistribution(8, 64, step=8))},
        values=[values[name] for name in objectives] if state is TrialState.COMPLETE else None,
        user_attrs=attributes,
        intermediate_values=curve if len(objectives) == 1 else {},
    )
    trial.datetime_start = started
    trial.datetime_complete = started + timedelta(seconds=35)
    trial.number = number
    return trial


def _write_files(home: Path, trial: FrozenTrial, objectives: tuple[str, ...]) -> None:
    place = home / str(trial.number)
    place.mkdir()
    complete = trial.state is TrialState.COMPLETE
    loss = BASELINE / trial.user_attrs["baseline_ratio"] if complete else None
    record = {
        "study": "mine",
        "number": trial.number,
        "state": trial.state.name,
        "params": trial.params,
        "values": trial.values,
        "valid_l1": loss,
        "baselines": {"zero": 0.4421, "position_mean": BASELINE} if complete else {},
        "best_baseline": "position_mean" if complete else None,
        "text_cosine": 0.97 if complete else None,
        "teacher": "all-MiniLM-L6-v2",
        "steps": 1000 if complete else 0,
        "threads": 1,
        "hardware": "1 x cpu: a processor",
        "versions": package_versions(),
        "reason": trial.user_attrs.get(REASON),
        **{
            key: trial.user_attrs.get(key)
            for key in ("student_parameters", "teacher_parameters", "baseline_ratio", "seconds")
        },
    }
    (place / "trial.json").write_text(json.dumps(record))
    with (place / "metrics.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "train_l1", "valid_l1"])
        for step, value in trial.intermediate_values.items() or ([(1000, loss)] if loss else []):
            rows.writerow([step - 10, value, ""])
            rows.writerow([step - 1, "", value])
