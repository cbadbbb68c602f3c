"""Optuna's successive halving, whose first rung is the first report.

To Optuna the first rung is a hundredth of a trial's steps. A fit is validated some ten times, so
its first validation lies beyond several rungs at once, and it must be among the best of each: with
ten validations of 40 steps one trial of 16 goes on, with five of 200 one of 64, by the loss that
says least of how a fit ends (benchmarks/results/search_foretold.md).

Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020.
"""

from __future__ import annotations

import optuna
from optuna import pruners
from optuna.trial import FrozenTrial


class SuccessiveHalvingPruner(pruners.SuccessiveHalvingPruner):
    """Optuna's; `min_resource=auto` is the step of the first report.

    Args:
        min_resource: The first rung's step.
        others: As Optuna's.

    Example:
        >>> import optuna
        >>> from sweep.study.rungs import SuccessiveHalvingPruner
        >>> study = optuna.create_study(pruner=SuccessiveHalvingPruner(reduction_factor=2))
        >>> for loss in (0.5, 0.4, 0.6):
        ...     trial = study.ask()
        ...     trial.report(loss, step=40)
        ...     print(trial.should_prune())
        False
        False
        True
    """

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        if self._min_resource is None:
            self._min_resource = _first_report(study, trial)
        return super().prune(study, trial)


def _first_report(study: optuna.Study, trial: FrozenTrial) -> int | None:
    """The first step at which any trial has reported, from 1 on; None: none has."""
    trials = [*study.get_trials(deepcopy=False), trial]
    first = [min(known.intermediate_values) for known in trials if known.intermediate_values]
    return max(1, min(first)) if first else None
