"""One trial as Hydra runs it: what an earlier run has left, or else a fit, then its record.

Who fits is another matter: this process (`sweep.trial.fit`), a gang of ranks (`sweep.ranks.gang`),
or ranks that were started from outside (`sweep.ranks.torchrun`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from omegaconf import DictConfig

from slicewise.errors import SlicewiseError
from sweep.command_line import command_of_study
from sweep.console import Interrupted
from sweep.signals import stop_on_signals
from sweep.trial.active import ActiveTrial, activated, active_trial
from sweep.trial.outcome import DiskFull, End, Outcome
from sweep.trial.record import TrialRecord, recorded_outcome
from sweep.trial.task import Task


class Share(NamedTuple):
    """What became of a fit, or of one rank's share of it."""

    outcome: Outcome
    record: TrialRecord


Fit = Callable[[Task, ActiveTrial], Share]


def run_trial(config: DictConfig, fit: Fit, fitted_by: str) -> float | tuple[float, ...]:
    """Runs one trial in Hydra's output directory, and leaves its record there.

    Args:
        config: The application's configuration; Hydra's own is taken from `HydraConfig`.
        fit: Who fits, or has others fit.
        fitted_by: Dotted path of the function that fits in the end; see `Task.fit`.

    Returns:
        The objective's values; a float where there is one.

    Raises:
        SlicewiseError: The configuration cannot be run, and nothing has been trained; or a disk is
            full, and it can be continued.
        optuna.TrialPruned: The study's pruner ended the trial.
        TrialStopped: The trial was asked to stop; it can be continued.
        Interrupted: The user stopped a fit that is in no study; it can be continued.
        RankDied: A rank is gone, or the ranks lost each other; it can be continued.
        FitFailed: The loss is not a number.
        Exception: Whatever else the fit raised.
    """
    active = active_trial()
    if active is not None:
        return _run(config, fit, fitted_by, active).result()
    single = ActiveTrial(threading.Event())
    with stop_on_signals(single.stop), activated(single):
        outcome = _run(config, fit, fitted_by, single)
    if outcome.end is End.STOPPED:
        raise Interrupted(f"Stopped. To go on: {command_of_study(config.study)}")
    if outcome.end is End.NO_SPACE:
        raise SlicewiseError(DiskFull(outcome.reason).told())
    return outcome.result()


def _run(config: DictConfig, fit: Fit, fitted_by: str, active: ActiveTrial) -> Outcome:
    task = Task.current(config, active, fitted_by)
    outcome = recorded_outcome(task.directory, active)
    if outcome is None:
        outcome, record = fit(task, active)
        if outcome.end.is_final and not active.is_lost():
            record.conclude(task.directory)
        active.attributes |= record.attributes()
    return outcome
