"""What a trial is to try: a function of the seed, the trial's number and what the study holds.

No process adds to it what it has drawn before. So workers with one seed do not draw the same
points, and a study that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
)
from optuna.trial import FrozenTrial, TrialState
from optuna.trial._trial import _LazyTrialSystemAttrs

from sweep.study.space import Point, SearchSpace

# Draws that may hit a point already taken, before chance alone chooses.
_REDRAWS = 10
# Of chance, where at least three of four points are free.
_CHANCES = 100
_SEEDS = 2**32
# Odd, so that as many numbers of trials as there are seeds have different ones.
_STRIDE = 0x9E3779B1


class TrialSampler(BaseSampler):
    """Chooses the point of a trial, with a sampler that is made anew for each.

    A space of no more points than the budget is run whole, in order. In a larger one no point
    comes twice: where the sampler suggests one that a trial has already, it is asked again, and at
    last chance chooses. Of what a space's `custom` part adds, points may come twice.

    Args:
        make: Makes the sampler, from a seed.
        seed: The study's.
        space: What is searched.
        n_trials: The budget.
        warm: Trials of other studies that it learns from; as if of this space.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        seed: int,
        space: SearchSpace,
        n_trials: int,
        warm: Sequence[FrozenTrial] = (),
    ) -> None:
        self.warm = warm
        self._make = make
        self._seed = seed
        self.space = self._space = space
        self._in_order = space.size() <= n_trials
        self._first_free = 0
        # Points of trials; those of the first `_settled` will not change.
        self._taken: set[Point] = set()
        self._settled = 0
        self._draw: _Draw | None = None

    def reseed_rng(self) -> None:
        """Nothing to do: no two processes draw for one trial."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        dimensions = {key: d.stored for key, d in self._space.dimensions.items()}
        if self._in_order:
            return dimensions
        self._draw = self._new_draw(_whole(study), trial)
        return self._draw.relative_space | dimensions

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A value for every dimension, and for what else the sampler chooses together."""
        study = _whole(study)
        self._take(study)
        fixed = trial.system_attrs.get("fixed_params", {})
        # A trial of an earlier space that goes on is what it was, also in what is free by now.
        enqueued = self._space.had(trial.number) | self._of_dimensions(fixed)
        # Stored already by a worker that died over it; as a rule just what is chosen here.
        stored = self._of_dimensions(trial.params)
        return self._choose(study, trial, enqueued) | stored

    def _choose(
        self, study: optuna.Study, trial: FrozenTrial, given: dict[str, Any]
    ) -> dict[str, Any]:
        """A point with these values, enqueued by hand; a free one where there is one."""
        if self._in_order and (point := self._next_in_order(given)) is not None:
            return point
        drawn: dict[str, Any] = {}
        for attempt in range(1 + _REDRAWS):
            if attempt or self._draw is None:
                self._draw = self._new_draw(study, trial, attempt)
            drawn = self._draw.values(given)
            if self._space.custom is not None or self._space.point(drawn) not in self._taken:
                return drawn
        # The sampler keeps to what it knows.
        assert self._draw is not None
        held = self._of_dimensions(self._draw.held) | given
        return drawn | (self._any_point(study, trial, held) or {})

    def _of_dimensions(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key in self._space.dimensions}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """A value for what `custom` suggests, after the dimensions."""
        assert self._draw is not None
        self._draw.catch_up(trial)
        return self._draw.value(param_name, param_distribution)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        if self._in_order:
            return
        if self._draw is not None and self._draw.number == trial.number:
            sampler = self._draw.sampler
        else:
            sampler = self._make(self._trial_seed(trial))
        sampler.after_trial(study, trial, state, values)

    def _new_draw(self, study: optuna.Study, trial: FrozenTrial, attempt: int = 0) -> _Draw:
        return _Draw(self._make, self._trial_seed(trial, attempt), self._space, study, trial)

    def _trial_seed(self, trial: FrozenTrial, attempt: int = 0) -> int:
        """Another for every trial."""
        first = random.Random(f"{self._seed} {attempt}").getrandbits(32)
        return (first + _STRIDE * trial.number) % _SEEDS

    def _take(self, study: optuna.Study) -> None:
        """Notes the points of all trials; one keeps its point for good, also while it waits."""
        # Those outside the space, too, which samplers are not shown: trials keep their places.
        trials = optuna.Study._get_trials(study, deepcopy=False, use_cache=True)
        for trial in trials[self._settled :]:
            point = self._space.point_of(trial)
            if point is not None:
                self._taken.add(point)
        while self._settled < len(trials) and trials[self._settled].state.is_finished():
            self._settled += 1

    def _next_in_order(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """The first free point that holds what is given; free until its trial is stored."""
        before_all_free = True
        for index in range(self._first_free, int(self._space.size())):
            point = self._space.point_at(index)
            if (key := self._space.point(point)) in self._taken:
                continue
            if before_all_free:
                self._first_free = index
                before_all_free = False
            if key == self._space.point({**point, **given}):
                return point
        return None

    def _any_point(
        self, study: optuna.Study, trial: FrozenTrial, held: dict[str, Any]
    ) -> dict[str, Any] | None:
        """A free point by chance, None where there is none that holds these values."""
        space, size, taken = self._space, self._space.size(), self._taken
        seed = self._trial_seed(trial, 1 + _REDRAWS)
        if len(taken) * 4 < size:
            sampler = RandomSampler(seed)
            for _ in range(_CHANCES):
                point = {
                    key: d.on_grid(sampler.sample_independent(study, trial, key, d.distribution))
                    for key, d in space.dimensions.items()
                }
                if space.point(point | held) not in taken:
                    return point | held
            return None
        points = [space.point_at(index) for index in range(int(size))]
        free = [
            point
            for point in points
            if (key := space.point(point)) not in taken and key == space.point(point | held)
        ]
        return random.Random(seed).choice(free) if free else None


def _whole(study: optuna.Study) -> optuna.Study:
    """The study itself, where Hyperband hands out a bracket of it.

    To samplers that has all trials, too, but as the storage has them.
    """
    found: optuna.Study = getattr(study, "_study", study)
    return found


class _Draw:
    """One trial's values from a sampler of its own, before any of them is stored.

    Args:
        make: Makes the sampler, from a seed.
        seed: The trial's.
        space: What is searched.
        study: As samplers see it.
        trial: Which one.

    Attributes:
        number: The trial's.
        sampler: The sampler.
        relative_space: What it chooses together.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        seed: int,
        space: SearchSpace,
        study: optuna.Study,
        trial: FrozenTrial,
    ) -> None:
        self.number = trial.number
        self._make = functools.partial(make, seed)
        self.sampler = self._make()
        self._space = space
        self._study = study
        self._together: set[str] = set()
        # As it was when nothing was stored, also where a worker has died over it since.
        self._trial = copy.deepcopy(trial)
        self._trial.params, self._trial.distributions = {}, {}
        self.sampler.before_trial(study, self._trial)
        self.relative_space = self.sampler.infer_relative_search_space(study, self._trial)

    @property
    def held(self) -> dict[str, Any]:
        """Values that the sampler was told to keep to."""
        if isinstance(self.sampler, PartialFixedSampler):
            return dict(self.sampler._fixed_params)
        return {}

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A value for every dimension, and for what else the sampler chooses together.

        Args:
            given: Values that dimensions have already, enqueued by hand.
        """
        if isinstance(self.sampler, BaseGASampler):
            # Who is first in a generation chooses its parents, and stores them. Chosen by another
            # sampler, they cost ours no random numbers, whether they are stored already or not.
            parents: Any = self._make()
            generation = parents.get_trial_generation(self._study, self._trial)
            parents.get_parent_population(self._study, generation)
        values = self.sampler.sample_relative(self._study, self._trial, self.relative_space)
        self._together = set(values)
        # Samplers note things in the storage on the way, and look there for them.
        attributes: Any = _LazyTrialSystemAttrs(self._trial._trial_id, self._study._storage)
        self._trial.system_attrs = attributes
        for key, dimension in self._space.dimensions.items():
            if dimension.size() == 1:
                values[key] = dimension.value(0)
            elif key not in values:
                values[key] = self.value(key, dimension.distribution)
            values[key] = given.get(key, dimension.on_grid(values[key]))
            self._note(key, dimension.distribution, values[key])
        return values

    def value(self, name: str, distribution: BaseDistribution) -> Any:
        """A value for one parameter, given those noted before."""
        value = self.sampler.sample_independent(self._study, self._trial, name, distribution)
        self._note(name, distribution, value)
        return value

    def catch_up(self, trial: FrozenTrial) -> None:
        """Draws again what is stored and was not drawn here, for the sake of what follows."""
        for name, distribution in trial.distributions.items():
            if name not in self._trial.distributions:
                if name not in self._together and not distribution.single():
                    self.value(name, distribution)
                self._note(name, distribution, trial.params[name])

    def _note(self, name: str, distribution: BaseDistribution, value: Any) -> None:
        self._trial.distributions[name] = distribution
        self._trial.params[name] = value


class NumberedQMCSampler(QMCSampler):
    """Takes that point of its sequence which has the trial's number.

    Optuna counts in the study, and would count a trial twice that lost its worker while it was
    drawn. All trials share a seed here, which makes the sequence.
    """

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._number = trial.number
        return super().sample_relative(study, trial, search_space)

    def _find_sample_id(
        self, study: optuna.Study, search_space: dict[str, BaseDistribution]
    ) -> int:
        return self._number
