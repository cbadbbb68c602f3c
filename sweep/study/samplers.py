"""Optuna's samplers and pruners, and those of your own, made from their configuration."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import secrets
from collections.abc import Container, Sequence
from typing import Any

import optuna
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.study.attributes import DIRECTORY, FINISHED, IMPOSSIBLE
from sweep.study.space import SearchSpace
from sweep.study.suggestions import NumberedQMCSampler, TrialSampler
from sweep.trust import check_trusted, trusted_targets

Node = dict[str, Any]

SAMPLER_KEY = "hydra.sweeper.sampler"
PRUNER_KEY = "hydra.sweeper.pruner"
# What may be named here, besides what may be anywhere.
_OPTUNA = ("optuna.samplers.*", "optuna.pruners.*", "hydra_plugins.hydra_optuna_sweeper.*")
_SEEDS = 2**32


class LearningStudy(optuna.Study):
    """Optuna's study as its samplers see it here.

    Samplers look at complete and pruned trials, so one that finds the best students just below a
    bound would suggest what lies beyond it again and again. Here impossible trials are shown to
    it as pruned ones without a value: the worst there is.

    A running trial is shown once all its values are stored. So who draws them once more, in place
    of a worker that died over it, sees what that one saw.

    Where the space is no longer that in which the study began, trials are shown as they would be
    in today's; those that lie outside are not. Those of other studies that the sampler is to learn
    from come first; pruners, which call `get_trials`, are not shown these.
    """

    def __init__(
        self,
        study_name: str,
        storage: BaseStorage,
        sampler: TrialSampler | None = None,
        pruner: BasePruner | None = None,
    ) -> None:
        super().__init__(study_name, storage, sampler, pruner)
        self._space = sampler.space if sampler is not None else None
        self._warm = list(sampler.warm) if sampler is not None else []
        self._shown: dict[tuple[int, TrialState], FrozenTrial | None] = {}

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        warm = [trial for trial in self._warm if states is None or trial.state in states]
        return warm + self._own_trials(deepcopy, states, use_cache)

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._own_trials(deepcopy, states, use_cache=False)

    def _own_trials(
        self, deepcopy: bool, states: Container[TrialState] | None, use_cache: bool
    ) -> list[FrozenTrial]:
        trials = self._known_trials(deepcopy, states, use_cache)
        if self._space is None or self._space.history is None:
            return trials
        return [shown for trial in trials if (shown := self._in_space(trial)) is not None]

    def _in_space(self, trial: FrozenTrial) -> FrozenTrial | None:
        """The trial as it would be in today's space; of one that has ended, once and for all."""
        assert self._space is not None
        if not trial.state.is_finished():
            return self._space.shown(trial)
        # An impossible one also comes as a pruned one.
        key = trial.number, trial.state
        if key not in self._shown:
            self._shown[key] = self._space.shown(trial)
        return self._shown[key]

    def _known_trials(
        self, deepcopy: bool, states: Container[TrialState] | None, use_cache: bool
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, states, use_cache)
        if states is None:
            return trials
        if TrialState.RUNNING in states:
            drawn = (t.state is not TrialState.RUNNING or DIRECTORY in t.user_attrs for t in trials)
            trials = [trial for trial, is_drawn in zip(trials, drawn, strict=True) if is_drawn]
        if any(state not in states for state in FINISHED):
            return trials
        failed = super()._get_trials(deepcopy, (TrialState.FAIL,), use_cache)
        for trial in failed:
            if trial.user_attrs.get(IMPOSSIBLE) and trial.params:
                shown = copy.copy(trial)
                shown.state = TrialState.PRUNED
                trials.append(shown)
        return sorted(trials, key=lambda trial: trial.number)

    def stop(self) -> None:
        """Asked for by samplers that have nothing left to suggest; the budget decides that."""


def seeded(node: Node) -> Node:
    """The configuration of a sampler with a seed for all workers, drawn where it has none.

    Raises:
        SlicewiseError: It names code that is not trusted, or not there.
    """
    _check_targets(SAMPLER_KEY, node)
    seed = _first_seed(node)
    found: Node = _with_seed(_own_qmc(node), secrets.randbelow(_SEEDS) if seed is None else seed)
    return found


def new_sampler(
    node: Node, space: SearchSpace, n_trials: int, warm: Sequence[FrozenTrial] = ()
) -> TrialSampler:
    """The sampler of a worker.

    Args:
        node: Configuration of Optuna's sampler, or of one of your own: it is made anew for each
            trial, with a `seed` that follows from the trial's number where it takes one.
        space: What is searched.
        n_trials: The budget.
        warm: Trials of other studies that it learns from.

    Raises:
        SlicewiseError: It names code that is not trusted, or not there.
    """
    node = seeded(node)
    # One that takes no seed draws as it likes.
    seed = _first_seed(node) or 0
    made = functools.partial(sampler_of_trial, node)
    return TrialSampler(made, seed, space, n_trials, warm)


def new_pruner(node: Node) -> BasePruner:
    """The pruner of a worker.

    Raises:
        SlicewiseError: It names code that is not trusted, or not there, or does not take these
            arguments.
    """
    _check_targets(PRUNER_KEY, node)
    pruner: BasePruner = _instance(PRUNER_KEY, node, BasePruner)
    return pruner


def sampler_line(
    name: str, node: Node, space: SearchSpace, n_trials: int, directions: int, workers: int
) -> str:
    """Which sampler chooses the points of a study, and why, in a line.

    Args:
        name: Its option of `hydra/sweeper/sampler`.
        node: Its configuration.
        space: What is searched.
        n_trials: The budget.
        directions: How many.
        workers: How many ask it at a time.
    """
    size, budget = space.size(), f"hydra.sweeper.n_trials={n_trials}"
    if size <= n_trials:
        return f"Sampler: none is asked; each of {size} points is run once, in order ({budget})"
    searched = f"{size:,} points, more than" if math.isfinite(size) else "a space without end,"
    if get_object(node["_target_"]) is GridSampler:
        return f"Sampler: random instead of {name}: {searched} {budget}"
    reasons = {
        "multivariate": "one objective" if directions == 1 else "several objectives",
        "group": "questions depend on answers",
        "constant_liar": f"{workers} workers at a time",
    }
    if workers == 1:
        del reasons["constant_liar"]
    used = [f"{option} ({why})" for option, why in reasons.items() if node.get(option)]
    if node.get("n_startup_trials"):
        used.append(f"random for the first {node['n_startup_trials']} trials")
    options = f", {', '.join(used)}" if used else ""
    return f"Sampler: {name}{options}: {searched} {budget}"


def sampler_of_trial(node: Node, seed: int) -> BaseSampler:
    """The sampler that is made for one trial.

    Args:
        node: As `seeded` gives it.
        seed: The trial's.

    Raises:
        SlicewiseError: It does not take these arguments.
    """
    if node.get("_partial_") and get_object(node["_target_"]) is GridSampler:
        # A grid is what a finite space gets anyway; one larger than the budget is drawn from at
        # random, as the official sweeper's is.
        return RandomSampler(seed)
    sampler: BaseSampler = _instance(
        SAMPLER_KEY, _with_seed(node, seed, but=QMCSampler), BaseSampler
    )
    return sampler


def _instance(group: str, node: Node, kind: type) -> Any:
    try:
        made = instantiate(node, _execution_whitelist_=(*_OPTUNA, *trusted_targets()))
    except (InstantiationException, TypeError, ValueError) as error:
        raise SlicewiseError(f"{group}: {error.__cause__ or error}") from error
    if not isinstance(made, kind):
        allowed = f"a subclass of {kind.__module__.rpartition('.')[0]}.{kind.__name__}"
        raise ArgumentError(f"{group}._target_", node["_target_"], allowed)
    return made


def _check_targets(group: str, node: Any) -> None:
    """Every `_target_` in a configuration must be trusted, and be there."""
    if isinstance(node, dict):
        if "_target_" in node:
            check_trusted(group, str(node["_target_"]), (*_OPTUNA, *trusted_targets()))
            try:
                get_object(node["_target_"])
            except (ImportError, AttributeError, ValueError, InstantiationException) as error:
                raise SlicewiseError(f"{group}._target_={node['_target_']}: {error}") from error
        for key, value in node.items():
            _check_targets(f"{group}.{key}", value)


def _first_seed(node: Any) -> Any:
    """The seed of a sampler, or of one that it is made of."""
    if not isinstance(node, dict):
        return None
    own = node.get("seed") if "_target_" in node else None
    others = (_first_seed(value) for value in node.values())
    return own if own is not None else next((seed for seed in others if seed is not None), None)


def _with_seed(node: Any, seed: Any, but: type | None = None) -> Any:
    """The configuration of a sampler, and of those that it is made of, with this seed.

    Args:
        node: The configuration.
        seed: Whatever takes one gets it.
        but: Samplers of this class keep theirs.
    """
    if not isinstance(node, dict):
        return node
    changed = {key: _with_seed(value, seed, but) for key, value in node.items()}
    if "_target_" not in node:
        return changed
    target = get_object(node["_target_"])
    keeps = but is not None and inspect.isclass(target) and issubclass(target, but)
    if not keeps and ("seed" in node or "seed" in inspect.signature(target).parameters):
        changed["seed"] = seed
    return changed


def _own_qmc(node: Any) -> Any:
    """The configuration with our QMC sampler for Optuna's, of which all trials share the seed.

    What it leaves to another sampler is drawn with a seed of the trial's.
    """
    if not isinstance(node, dict):
        return node
    changed = {key: _own_qmc(value) for key, value in node.items()}
    if "_target_" in node and get_object(node["_target_"]) is QMCSampler:
        changed["_target_"] = f"{NumberedQMCSampler.__module__}.{NumberedQMCSampler.__name__}"
        if changed.get("independent_sampler") is None:
            changed["independent_sampler"] = {"_target_": "optuna.samplers.RandomSampler"}
    return changed


def _with(node: Any, key: str, value: Any) -> Any:
    """The configuration with another value wherever there is such a key."""
    if not isinstance(node, dict):
        return node
    return {name: value if name == key else _with(old, key, value) for name, old in node.items()}
