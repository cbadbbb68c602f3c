"""A sampler and a pruner of one's own, for SLICEWISE_TRUSTED."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial


class Hesitant(optuna.samplers.RandomSampler):
    """Keeps something from one call to the next, and draws twice."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(seed)
        self.begun: int | None = None

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self.begun = trial.number

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        assert self.begun == trial.number
        super().sample_independent(study, trial, param_name, param_distribution)
        return super().sample_independent(study, trial, param_name, param_distribution)


class Above(optuna.pruners.BasePruner):
    """Prunes what is above a value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        return step is not None and trial.intermediate_values[step] > self.value


def not_a_sampler(seed: int | None = None) -> str:
    return "a string"


class Stubborn(optuna.samplers.RandomSampler):
    """Suggests one value and no other."""

    def sample_independent(self, *arguments: Any, **named: Any) -> Any:
        return 7


class Lacking(optuna.samplers.RandomSampler):
    """Needs a package that nobody has, once it is asked."""

    def sample_independent(self, *arguments: Any, **named: Any) -> Any:
        import no_such_package  # type: ignore[import-not-found]

        return no_such_package.draw()
