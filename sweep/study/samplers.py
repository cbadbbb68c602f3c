"""Optuna's samplers and pruners, made anew in each worker, and the study as they see it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Container
from typing import Any

import optuna
from hydra.utils import instantiate
from optuna.trial import FrozenTrial, TrialState

from slicewise.errors import ArgumentError
from sweep.study.attributes import FINISHED, IMPOSSIBLE
from sweep.study.space import SearchSpace


class LearningStudy(optuna.Study):
    """Optuna's study, whose sampler also learns from points that cannot be run.

    Samplers look at complete and pruned trials, so one that finds the best students just below a
    bound would suggest what lies beyond it again and again. Here impossible trials are shown to
    it as pruned ones without a value: the worst there is.
    """

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        if states is None or any(state not in states for state in FINISHED):
            return trials
        failed = super()._get_trials(deepcopy, (TrialState.FAIL,), use_cache)
        for trial in failed:
            if trial.user_attrs.get(IMPOSSIBLE) and trial.params:
                shown = copy.copy(trial)
                shown.state = TrialState.PRUNED
                trials.append(shown)
        return sorted(trials, key=lambda trial: trial.number)


def new_sampler(
    node: dict[str, Any], space: SearchSpace, n_trials: int
) -> optuna.samplers.BaseSampler:
    """The sampler, made anew in each worker.

    A grid is what a finite space gets anyway; one larger than the budget is drawn from at random,
    as the official sweeper's grid is.
    """
    whitelist = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")
    sampler: Any = instantiate(node, _execution_whitelist_=whitelist)
    if isinstance(sampler, functools.partial):
        if space.size() == float("inf"):
            endless = [key for key, d in space.dimensions.items() if d.values() is None]
            raise ArgumentError(
                "hydra/sweeper/sampler",
                "grid",
                "tpe, random, ... for a space without end "
                f"({', '.join(endless) or 'custom_search_space'})",
            )
        return optuna.samplers.RandomSampler(seed=node.get("seed"))
    assert isinstance(sampler, optuna.samplers.BaseSampler)
    return sampler


def new_pruner(node: dict[str, Any]) -> optuna.pruners.BasePruner:
    pruner: optuna.pruners.BasePruner = instantiate(
        node, _execution_whitelist_=("optuna.pruners.*",)
    )
    return pruner
