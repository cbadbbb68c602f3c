"""What is wrong with a sampler or a pruner shows before the sweep starts, not in every trial.

Samplers load what they need when they need it, and look at a study when they are first asked: so
they are asked, in a study made up for it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
from hydra.utils import get_object
from optuna.distributions import FloatDistribution
from optuna.pruners import BasePruner
from optuna.samplers import GridSampler, RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, create_trial

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.study.dimension import Dimension
from sweep.study.samplers import (
    PRUNER_KEY,
    SAMPLER_KEY,
    LearningStudy,
    Node,
    new_pruner,
    sampler_of_trial,
    seeded,
)
from sweep.study.space import SearchSpace
from sweep.study.suggestions import TrialSampler

# Ended trials: enough to learn from.
_ENDED = 4
# Each with as many reports.
_STEPS = (1, 2, 3)
# Arguments by which samplers and pruners wait for something, and what makes them begin.
_BEGINS = {"n_startup_trials": 1, "n_startup_steps": 0, "n_warmup_steps": 0}


def check_samplers(
    sampler: Node, pruner: Node, space: SearchSpace, n_trials: int, directions: Sequence[str]
) -> None:
    """Has the sampler and the pruner do their work once.

    Args:
        sampler, pruner: Their configurations.
        space: What is searched.
        n_trials: The budget.
        directions: The study's.

    Raises:
        SlicewiseError: They need a package that is not installed, do not take these arguments, or
            cannot serve such a space or study.
    """
    node = seeded(sampler)
    if get_object(node["_target_"]) is GridSampler and math.isinf(space.size()):
        endless = [key for key, d in space.dimensions.items() if math.isinf(d.size())]
        allowed = f"tpe, random, ... for a space without end ({', '.join(endless)})"
        if space.custom is not None:
            allowed = "tpe, random, ... with custom_search_space"
        raise ArgumentError("hydra/sweeper/sampler", "grid", allowed)
    name = str(sampler["_target_"]).rpartition(".")[2]
    with _mistakes_of(SAMPLER_KEY, name):
        sampler_of_trial(node, 0)
    # As it is, too: what it waits for may be what is wrong.
    new_pruner(pruner)
    dimensions = dict(space.dimensions)
    if space.custom is not None:
        dimensions["of custom_search_space"] = Dimension(FloatDistribution(0.0, 1.0), None, {})
    elif space.size() <= n_trials:
        # Run whole, in order: the sampler will not be asked.
        dimensions = {}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        _ask(node, name, new_pruner(_at_once(pruner)), SearchSpace(dimensions, {}), directions)
    finally:
        optuna.logging.set_verbosity(verbosity)


def _ask(
    node: Node, name: str, pruner: BasePruner, space: SearchSpace, directions: Sequence[str]
) -> None:
    """Asks for a trial after some have ended, and whether to prune it, and tells how it ended."""
    storage = InMemoryStorage()
    make = functools.partial(sampler_of_trial, _at_once(node))
    optuna.create_study(study_name="check", storage=storage, directions=list(directions))  # type: ignore[arg-type]
    study = LearningStudy("check", storage, TrialSampler(make, 0, space, 0), pruner)
    one_direction = len(directions) == 1
    for number in range(_ENDED):
        study.add_trial(
            create_trial(
                values=[float(number)] * len(directions),
                params=_drawn(space, number),
                distributions={key: d.distribution for key, d in space.dimensions.items()},
                intermediate_values=dict.fromkeys(_STEPS, float(number)) if one_direction else {},
            )
        )
    with _mistakes_of(SAMPLER_KEY, name):
        trial = Trial(study, storage.create_new_trial(study._study_id))
        space.suggest(None, trial)
    with _mistakes_of(PRUNER_KEY, type(pruner).__name__):
        if one_direction:
            for step in _STEPS:
                trial.report(0.5, step)
            trial.should_prune()
    with _mistakes_of(SAMPLER_KEY, name):
        study.tell(trial, [0.0] * len(directions))


def _drawn(space: SearchSpace, seed: int) -> dict[str, Any]:
    """A point by chance."""
    study = optuna.create_study(sampler=RandomSampler(seed))
    return space.suggest(None, study.ask())


@contextlib.contextmanager
def _mistakes_of(key: str, name: str) -> Iterator[None]:
    """Reports what a sampler or pruner cannot do as a mistake in its configuration."""
    group = key.replace(".", "/")
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        raise SlicewiseError(
            f"{group}: {name} needs the package {package}, which is not installed: "
            f"pip install {package}"
        ) from error
    except (ValueError, TypeError, NotImplementedError) as error:
        raise SlicewiseError(f"{group}: {name}: {error}") from error
    except (AssertionError, RuntimeError, ArithmeticError, LookupError) as error:
        # What was not asked whether it may be so: a division by a setting, an empty population.
        raise SlicewiseError(f"{group}: {name}: {type(error).__name__}: {error}") from error


def _at_once(node: Any) -> Any:
    """The configuration of what does not wait for so many trials, or steps, before it begins."""
    if not isinstance(node, dict):
        return node
    changed = {key: _at_once(value) for key, value in node.items()}
    if "_target_" in node:
        known = inspect.signature(get_object(node["_target_"])).parameters
        changed |= {key: value for key, value in _BEGINS.items() if key in known or key in node}
    return changed
