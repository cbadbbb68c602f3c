"""What a study keeps beside Optuna's own: user attributes, seen in dashboards too."""

from __future__ import annotations

from optuna.trial import TrialState

# Of the study.
IDENTITY = "slicewise"
PLAN = "plan"
STOPPED = "stopped"
ERAS = "fixed_before"

# Of a trial.
WORKER = "worker"
ATTEMPTS = "attempts"
REASON = "reason"
IMPOSSIBLE = "impossible"
DIRECTORY = "directory"

# States that count towards the budget.
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
