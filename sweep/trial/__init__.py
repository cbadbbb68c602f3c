"""One trial; and what the task function of any Hydra application may tell its study of it.

In the task function::

    from sweep import trial

    for epoch in range(config.epochs):
        loss = train(epoch)
        trial.report(epoch, loss)
        if trial.should_prune():
            raise optuna.TrialPruned

Where no trial of a study runs (a single job, another sweeper), a report goes nowhere and nothing is
pruned, so the same function serves both. Imports nothing heavy.
"""

from __future__ import annotations

import operator
from typing import SupportsFloat, SupportsIndex

__all__ = ["report", "should_prune"]


def report(step: SupportsIndex, value: SupportsFloat) -> None:
    """Reports an intermediate value of the trial that runs, for the study's pruner.

    It is also where a trial stops when its sweep is stopped.

    Args:
        step: How far the trial is; trials are compared at the same step. An integer of at least 0.
        value: What the study looks for, as it is at this step.

    Raises:
        TypeError: The step is no integer: Optuna's own order is the other one.
        TrialStopped: The sweep stops, or the trial is another worker's by now. Somebody will run
            it again: let it through.
    """
    from sweep.trial.active import active_trial
    from sweep.trial.outcome import TrialLost, TrialStopped

    try:
        at = operator.index(step)
    except TypeError:
        raise TypeError(f"report(step, value): the step is {step!r}, not an integer") from None
    try:
        reached = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"report(step, value): the value is {value!r}, not a number") from None
    active = active_trial()
    if active is None:
        return
    if active.abandoned.is_set():
        raise TrialLost
    active.report(reached, at)
    if active.stop.is_set():
        raise TrialStopped(f"stopped at step {at}")


def should_prune() -> bool:
    """Whether the study's pruner ends the trial here: then `raise optuna.TrialPruned`.

    Never where nothing has been reported, nor with several directions.
    """
    from sweep.trial.active import active_trial

    active = active_trial()
    return active is not None and active.should_prune()
