"""What a study keeps beside Optuna's own: user attributes, seen in dashboards too."""

from __future__ import annotations

from optuna.trial import TrialState

# Of the study.
IDENTITY = "slicewise"
PLAN = "plan"
STOPPED = "stopped"
ERAS = "fixed_before"
# The sweep whose workers go on with one trial at a time.
ONE_BY_ONE = "one_by_one"

# Of a trial.
WORKER = "worker"
ATTEMPTS = "attempts"
REASON = "reason"
IMPOSSIBLE = "impossible"
# Of a failure: it would be none other the next time.
DIVERGED = "diverged"
DIRECTORY = "directory"

# Of a trial, in the attributes of Optuna's own, by its names (RetryHeartbeatStaleTrialCallback): of
# which that failed it is another try, and of which that one was.
FAILED_TRIAL = "failed_trial"
RETRY_HISTORY = "retry_history"

# States that count towards the budget.
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def name_beside(worker: str, place: int) -> str:
    """The name that a trial bears of a worker that runs several: each is claimed by itself.

    Example:
        >>> name_beside("3f8a21/0-c0de", 2), worker_of("3f8a21/0-c0de:2"), worker_of("w")
        ('3f8a21/0-c0de:2', '3f8a21/0-c0de', 'w')
    """
    return f"{worker}:{place}"


def worker_of(name: str) -> str:
    """The worker that runs the trial which bears a name."""
    return name.partition(":")[0]
