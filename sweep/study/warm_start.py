"""Trials of finished studies that a sampler learns from, and that use no budget."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence

import optuna
from omegaconf import DictConfig
from optuna.samplers import BaseGASampler, BaseSampler, CmaEsSampler, QMCSampler, RandomSampler
from optuna.trial import FrozenTrial

from slicewise.errors import ArgumentError
from sweep.study.attributes import FINISHED
from sweep.study.dimension import described
from sweep.study.growth import history_of
from sweep.study.space import SearchSpace

KEY = "hydra.sweeper.warm_start"
# What learns from nothing, or from trials alone that it has suggested itself.
_LEARN_NOTHING = (RandomSampler, QMCSampler, BaseGASampler, CmaEsSampler)


def trials_of(
    others: Sequence[optuna.Study],
    metrics: Sequence[str] | None,
    directions: Sequence[str],
    space: SearchSpace,
    config: DictConfig,
    is_group: Callable[[str], bool],
) -> list[FrozenTrial]:
    """The finished trials of other studies that lie in a space, as if they had been of it.

    Their numbers are below 0, the last one's -1.

    Args:
        others: The studies.
        metrics: What the values are called of the study that is to learn; None: they have no names.
        directions: Its directions, `minimize` or `maximize`.
        space: What it searches.
        config: The sweep's configuration.
        is_group: Whether a key is a config group.

    Raises:
        ArgumentError: One measures something else, or none of its trials lies in the space.
    """
    found: list[FrozenTrial] = []
    for other in others:
        sought = [direction.name.lower() for direction in other.directions]
        if other.metric_names != metrics or sought != list(directions):
            what = ", ".join(metrics or ["as many values"])
            allowed = f"a study that measures {what}, in the same directions"
            raise ArgumentError(KEY, other.study_name, allowed)
        trials = other.get_trials(deepcopy=False, states=FINISHED)
        history = history_of(other, space, config, is_group)
        seen = dataclasses.replace(space, history=history)
        shown = [one for trial in trials if (one := seen.shown(trial)) is not None]
        whole = [one for one in shown if all(key in one.params for key in space.dimensions)]
        if not whole:
            searched = {key: described(d.distribution) for key, d in space.dimensions.items()}
            raise ArgumentError(
                KEY,
                other.study_name,
                f"a study of the same space: none of its {len(trials)} finished trials has "
                + ", ".join(f"{key}={text}" for key, text in searched.items()),
            )
        found += whole
    for number, trial in enumerate(found, start=-len(found)):
        found[number] = copy.copy(trial)
        found[number].number = found[number]._trial_id = number
    return found


def check_that_it_learns(sampler: BaseSampler, name: str, others: Sequence[str]) -> None:
    """Refuses a sampler that would not look at others' trials.

    Raises:
        ArgumentError: It is one.
    """
    if isinstance(sampler, _LEARN_NOTHING):
        raise ArgumentError(
            KEY,
            f"[{','.join(others)}]",
            f"null with hydra/sweeper/sampler={name}, which does not learn from others' trials; "
            "tpe and gp do",
        )
