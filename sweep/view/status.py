"""How a study stands at this moment, out of its storage and its trials' progress files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweep.study.attributes import FINISHED, WORKER, worker_of
from sweep.study.places import study_folder, trial_folder
from sweep.study.plan import read_plan, reason_stopped
from sweep.study.presence import Heartbeat, HeartbeatMonitor, process_is_gone, read_heartbeats
from sweep.trial.pulse import Pulse, read_pulse, read_wait
from sweep.view.summary import objective_names, ranked

# Enough to know how long a trial takes, few enough to notice when that changes.
_LAST_TRIALS = 20
# A shorter part of a fit says little about the whole.
_TELLING_FRACTION = 0.02
# Below a study's folder, a folder for each worker, as the sweeper has it.
WORKERS = "workers"


@dataclass
class WorkerStatus:
    """A worker that lives, and one of the trials that it runs.

    Attributes:
        label: Its number, with its host where there are several.
        trial: What it runs; None between two trials.
        pulse: How far that is; None where no file of it can be read here.
        waits_for: What takes it long besides; None: nothing does.
    """

    label: str
    trial: FrozenTrial | None
    pulse: Pulse | None
    waits_for: str | None = None


@dataclass
class Status:
    """A study at one moment.

    Attributes:
        name: The study's.
        counts: Trials in each state.
        n_trials: Finished trials that there will be; None: unknown.
        best: The best complete trial; the first of the front for several directions.
        objectives: What its values are called.
        workers: Those that live.
        reported: What a running trial reports.
        seconds_left: Until the budget is met; None: no saying.
        is_running: Whether a sweep works on it.
        exhausted: Whether the last sweep has left no point to try.
        stopped: What ended it before its budget was met; None: nothing did.
    """

    name: str
    counts: dict[TrialState, int]
    n_trials: int | None
    best: FrozenTrial | None
    objectives: Sequence[str]
    workers: list[WorkerStatus]
    reported: str
    seconds_left: float | None
    is_running: bool
    exhausted: bool = False
    stopped: str | None = None

    @property
    def finished(self) -> int:
        """Complete and pruned: what counts towards the budget."""
        return sum(self.counts[state] for state in FINISHED)

    @property
    def is_finished(self) -> bool:
        """Whether the budget is met, or nothing is left to try."""
        enough = self.n_trials is not None and self.finished >= self.n_trials
        return enough or self.exhausted


class StudyMonitor:
    """Reads the status of one study, again and again.

    Args:
        study: Which; used by one thread at a time.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        # Of participants elsewhere one only sees whether their signs are renewed.
        seconds = read_plan(study).heartbeat or 5.0
        self._monitors = {kind: HeartbeatMonitor(seconds) for kind in ("sweep", "worker")}

    def status(self) -> Status:
        """The status now."""
        study = self._study
        trials = study.get_trials(deepcopy=False)
        counts = {state: sum(t.state is state for t in trials) for state in TrialState}
        plan = read_plan(study)
        n_trials, objectives = plan.n_trials, objective_names(study)
        complete = counts[TrialState.COMPLETE] > 0
        workers = self._workers(trials)
        return Status(
            name=study.study_name,
            counts=counts,
            n_trials=n_trials,
            best=ranked(study)[0] if complete else None,
            objectives=objectives,
            workers=workers,
            reported="loss" if plan.application is None else objectives[0],
            seconds_left=_seconds_left(trials, workers, n_trials),
            is_running=bool(self._living("sweep")),
            exhausted=plan.exhausted,
            stopped=reason_stopped(study),
        )

    def _workers(self, trials: Sequence[FrozenTrial]) -> list[WorkerStatus]:
        running: dict[str, list[FrozenTrial]] = {}
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                running.setdefault(worker_of(trial.user_attrs.get(WORKER, "")), []).append(trial)
        signs = self._living("worker")
        hosts = {sign.hostname for sign in signs.values()}
        statuses = []
        for name in sorted(signs, key=_place):
            label = str(_place(name)[1])
            if len(hosts) > 1:
                label += f" {signs[name].hostname}"
            waits_for = read_wait(study_folder(self._study) / WORKERS / str(_place(name)[1]))
            # A row for each of those that it runs side by side.
            for trial in running.get(name, []):
                pulse = read_pulse(trial_folder(self._study, trial))
                statuses.append(WorkerStatus(label, trial, pulse, waits_for))
            if name not in running:
                statuses.append(WorkerStatus(label, None, None, waits_for))
        return statuses

    def _living(self, kind: str) -> dict[str, Heartbeat]:
        signs = read_heartbeats(self._study, kind)
        dead = self._monitors[kind].dead(signs)
        return {
            name: sign
            for name, sign in signs.items()
            if sign.state == "alive" and name not in dead and not process_is_gone(sign)
        }


def _place(worker: str) -> tuple[str, int | str]:
    """The sweep of a worker, and its number there."""
    sweep, _, rest = worker.partition("/")
    number = rest.partition("-")[0]
    return sweep, int(number) if number.isdigit() else rest


def _seconds_left(
    trials: Sequence[FrozenTrial], workers: Sequence[WorkerStatus], n_trials: int | None
) -> float | None:
    """What the trials still to run will take, if they take as long as the last ones did."""
    running = [worker for worker in workers if worker.trial is not None]
    if n_trials is None or not running:
        return None
    left = [_seconds_of_rest(worker.pulse) for worker in running]
    each = _typical_seconds(trials, running)
    if each is None:
        return None
    rests = [
        max(0.0, each - _age(worker)) if rest is None else rest
        for worker, rest in zip(running, left, strict=True)
    ]
    finished = sum(trial.state in FINISHED for trial in trials)
    to_come = max(0, n_trials - finished - len(running))
    return max(max(rests), (sum(rests) + to_come * each) / len(workers))


def _typical_seconds(
    trials: Sequence[FrozenTrial], running: Sequence[WorkerStatus]
) -> float | None:
    ended = [t for t in trials if t.state in FINISHED and t.duration is not None]
    if ended:
        last = sorted(ended, key=_end)[-_LAST_TRIALS:]
        return statistics.mean(t.duration.total_seconds() for t in last if t.duration)
    wholes = [
        worker.pulse.seconds + _seconds_before(worker.pulse) + rest
        for worker in running
        if worker.pulse is not None and (rest := _seconds_of_rest(worker.pulse)) is not None
    ]
    return statistics.mean(wholes) if wholes else None


def _seconds_before(pulse: Pulse) -> float:
    """What the trial's fits before this one took, at its present speed."""
    return pulse.part * (pulse.total or 0) / (pulse.steps_per_second or math.inf)


def _seconds_of_rest(pulse: Pulse | None) -> float | None:
    """What is left of a trial's fits at the present speed."""
    if pulse is None or pulse.total is None or not pulse.steps_per_second:
        return None
    if (pulse.fraction or 0.0) < _TELLING_FRACTION:
        return None
    to_come = (pulse.parts - pulse.part - 1) * pulse.total
    return (max(0, pulse.total - pulse.step) + to_come) / pulse.steps_per_second


def _age(worker: WorkerStatus) -> float:
    started = worker.trial.datetime_start if worker.trial else None
    return (datetime.now() - started).total_seconds() if started else 0.0


def _end(trial: FrozenTrial) -> Any:
    return trial.datetime_complete
