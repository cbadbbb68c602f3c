"""Trials that failed: which may end otherwise the next time, and other tries of them."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.study.attributes import DIVERGED, FAILED_TRIAL, IMPOSSIBLE, RETRY_HISTORY


def failures(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those that failed, and of which there is no other try."""
    tried_again = {trial.system_attrs.get(FAILED_TRIAL) for trial in trials}
    return [
        trial
        for trial in trials
        if trial.state is TrialState.FAIL and trial.number not in tried_again
    ]


def may_end_otherwise(failed: FrozenTrial) -> bool:
    """Whether it lacked what can be had by now: room on a disk, a file, code without an error.

    What is impossible with its values, or diverged, would be so again.
    """
    return not failed.user_attrs.get(IMPOSSIBLE) and not failed.user_attrs.get(DIVERGED)


def another_try(failed: FrozenTrial) -> FrozenTrial:
    """A trial that waits with the values of one that failed, as Optuna makes it of a dead one's."""
    earlier = failed.system_attrs.get(RETRY_HISTORY, [])
    return create_trial(
        state=TrialState.WAITING,
        system_attrs={
            "fixed_params": failed.params,
            FAILED_TRIAL: failed.number,
            RETRY_HISTORY: [*earlier, failed.number],
        },
    )
