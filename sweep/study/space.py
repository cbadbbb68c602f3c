"""The search space: all that is swept, and all that is fixed."""

from __future__ import annotations

import copy
import json
import math
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf._utils import split_key
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import FrozenTrial, Trial

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.command_line import study_override
from sweep.overrides import element_text, override_text
from sweep.study.dimension import Dimension, described, read_dimension, same_value

# Points that a rehearsal may need to tell a mistake of all from one of a few.
_SAMPLES = 3
# Points that show what `custom` asks in one case or another.
_QUESTIONS = 50

CustomSearchSpace = Callable[[Any, Trial], None]
Point = tuple[str, ...]

# What stands for `custom` among the dimensions where a space is described.
CUSTOM = "custom_search_space"


@dataclass(frozen=True)
class Era:
    """Trials of a study that were run while keys were fixed that are swept by now.

    Attributes:
        until: The number of the first trial after them.
        values: What these keys had, as a storage would keep it.
    """

    until: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """How a study's earlier trials are read, which were of another space.

    Attributes:
        eras: What keys had that were not swept then, the earliest first.
        fixed: What keys have that are no longer swept, in each form that a storage may keep.
    """

    eras: Sequence[Era] = ()
    fixed: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def values_at(self, number: int) -> dict[str, Any]:
        """What keys had in a trial that did not suggest them."""
        values: dict[str, Any] = {}
        for era in self.eras:
            if number < era.until:
                values = {**era.values, **values}
        return values


@dataclass(frozen=True)
class SearchSpace:
    """What a study searches.

    Attributes:
        dimensions: The swept keys, in the order they were given.
        fixed: Overrides with one value, by key; part of every trial.
        fixed_overrides: Overrides that no later one replaces (`~key`, `extend_list`), as they
            were given.
        custom: Suggests further parameters for a trial, from the configuration and the values
            it has; None where there is no `custom_search_space`.
        order: All of them in the order they were given, in which Hydra applies them: keys, and
            whole overrides of `fixed_overrides`.
        history: How trials of an earlier space are read; None where there are none.
    """

    dimensions: Mapping[str, Dimension]
    fixed: Mapping[str, str]
    fixed_overrides: Sequence[str] = ()
    custom: CustomSearchSpace | None = None
    order: Sequence[str] = ()
    history: History | None = None

    @classmethod
    def parse(
        cls,
        arguments: Sequence[str],
        custom: CustomSearchSpace | None = None,
        loader: ConfigLoader | None = None,
        seed: int | None = None,
    ) -> SearchSpace:
        """Reads Hydra overrides; a later one for the same key replaces an earlier one.

        Args:
            arguments: The overrides.
            custom: What suggests further parameters.
            loader: Knows the config groups, for `glob` and for null as none of a group's options.
            seed: Of `shuffle`.

        Raises:
            SlicewiseError: A sweep has no values, or a form that Optuna has no distribution for;
                or another override leaves it nothing to decide.
        """
        dimensions: dict[str, Dimension] = {}
        fixed: dict[str, str] = {}
        fixed_overrides: list[str] = []
        order: list[str] = []
        read: dict[str, Override] = {}
        for argument in arguments:
            override = _read(argument, loader, seed)
            if override.is_delete() or override.is_list_extend():
                if override.is_sweep_override():
                    raise SlicewiseError(f"{argument}: a deletion cannot be swept; delete one")
                fixed_overrides.append(argument)
                order.append(argument)
                read[argument] = override
                continue
            key = override.get_key_element()
            if key in read:
                dimensions.pop(key, None)
                fixed.pop(key, None)
                order.remove(key)
                del read[key]
            order.append(key)
            read[key] = override
            is_group = _is_group(override, loader)
            if override.is_sweep_override():
                dimensions[key] = read_dimension(override, is_group, f"{seed} {key}")
            else:
                fixed[key] = element_text(override._value, is_group)
        for key in dimensions:
            _check_that_it_decides(key, read, loader)
        return cls(dimensions, fixed, fixed_overrides, custom, order)

    def size(self) -> float:
        """The number of points; infinite for intervals of real numbers and custom spaces."""
        sizes = [dimension.size() for dimension in self.dimensions.values()]
        if self.custom is not None or math.inf in sizes:
            return math.inf
        return math.prod(sizes)

    def points(self) -> Iterator[dict[str, Any]]:
        """All points of a finite space, the last key changing fastest."""
        return (self.point_at(index) for index in range(int(self.size())))

    def point_at(self, index: int) -> dict[str, Any]:
        """One of a finite space's points, by its place in their order."""
        point = {}
        for key, dimension in reversed(list(self.dimensions.items())):
            index, place = divmod(index, int(dimension.size()))
            point[key] = dimension.value(place)
        return {key: point[key] for key in self.dimensions}

    def samples(self, config: Any) -> Iterator[dict[str, Any]]:
        """A few points that differ in every key that has several values, to try things out on."""
        for trial in self._sampled(config):
            yield dict(trial.params)

    def decided(self, config: Any) -> list[str]:
        """The keys that have a value of a trial's own: those swept, and those that `custom` adds.

        What `custom` asks in some cases alone may be left out.
        """
        keys = dict.fromkeys(self.dimensions)
        if self.custom is not None:
            keys |= dict.fromkeys(key for point in self.samples(config) for key in point)
        return list(keys)

    def with_asked(self, config: Any) -> SearchSpace:
        """This space, with what `custom` asks among its dimensions, to check points by."""
        if self.custom is None:
            return self
        asked: dict[str, Dimension] = {}
        for trial in self._sampled(config, _QUESTIONS):
            asked |= {key: Dimension(d, None, {}) for key, d in trial.distributions.items()}
        return replace(self, dimensions={**asked, **self.dimensions})

    def _sampled(self, config: Any, samples: int = _SAMPLES) -> Iterator[Trial]:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for number in range(samples):
            study.enqueue_trial({k: d.sample(number) for k, d in self.dimensions.items()})
            trial = study.ask()
            try:
                self.suggest(config, trial)
            except Exception:  # Of anybody's function. Trials will say so, each for itself.
                continue
            yield trial

    def suggest(self, config: Any, trial: Trial) -> dict[str, Any]:
        """Asks the trial for a value of every dimension, then of what `custom` adds."""
        for key, dimension in self.dimensions.items():
            trial._suggest(key, dimension.stored)
        if self.custom is not None:
            # As the official sweeper: the callable finds the fixed overrides there.
            for key, text in self.fixed.items():
                trial.set_user_attr(key, text)
            try:
                self.custom(config, trial)
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                raise SlicewiseError(
                    f"hydra.sweeper.custom_search_space={_name_of(self.custom)}: "
                    f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
                ) from error
        return trial.params

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The Hydra overrides of a trial with these values."""
        overlap = sorted(set(params) & set(self.fixed))
        if overlap:
            raise SlicewiseError(
                f"{', '.join(overlap)}: both fixed on the command line and suggested by "
                "custom_search_space; remove one"
            )
        texts = {key: f"{key}={text}" for key, text in self.fixed.items()}
        texts |= {override: override for override in self.fixed_overrides}
        texts |= {key: self.override(key, value) for key, value in params.items()}
        # What `custom` suggests comes last, and so does what was fixed since.
        late = [key for key in texts if key not in self.order]
        return [texts[key] for key in [*self.order, *late] if key in texts]

    def override(self, key: str, value: Any) -> str:
        """The Hydra override that gives a key a value."""
        dimension = self.dimensions.get(key)
        return f"{key}={override_text(value) if dimension is None else dimension.text(value)}"

    def point(self, params: Mapping[str, Any]) -> Point | None:
        """A key under which equal points are equal; None where a value is missing."""
        if any(key not in params for key in self.dimensions):
            return None
        return tuple(
            json.dumps(dimension.on_grid(params[key])) for key, dimension in self.dimensions.items()
        )

    def point_of(self, trial: FrozenTrial) -> Point | None:
        """The point that a trial has, or, enqueued by hand, will have; None where it has none."""
        values = self.values_of(trial)
        return None if values is None else self.point(values)

    def values_of(self, trial: FrozenTrial) -> dict[str, Any] | None:
        """The values that a trial has in this space; None where it lies outside."""
        given = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if self.history is None:
            return given
        values = {**self.history.values_at(trial.number), **given}
        found = {}
        try:
            for key, dimension in self.dimensions.items():
                if key in values:
                    found[key] = dimension.find(values[key])
        except ValueError:
            return None
        for key, forms in self.history.fixed.items():
            if key in values and not any(same_value(form, values[key]) for form in forms):
                return None
        return found

    def had(self, number: int) -> dict[str, Any]:
        """The values of this space that a trial had before their keys were searched."""
        before = {} if self.history is None else self.history.values_at(number)
        return {
            key: dimension.find(before[key])
            for key, dimension in self.dimensions.items()
            if key in before and dimension.holds(before[key])
        }

    def holds(self, trial: FrozenTrial) -> bool:
        """Whether a trial lies in this space, as far as it is known."""
        return self.history is None or self.values_of(trial) is not None

    def shown(self, trial: FrozenTrial) -> FrozenTrial | None:
        """A trial as it would be, had it been of this space; None where it lies outside."""
        values = self.values_of(trial)
        if values is None or self.history is None:
            return trial if self.history is None else None
        gone = {*self.dimensions, *self.history.fixed}
        shown = copy.copy(trial)
        shown.params = values | {k: v for k, v in trial.params.items() if k not in gone}
        shown.distributions = {key: self.dimensions[key].distribution for key in values} | {
            key: d for key, d in trial.distributions.items() if key not in gone
        }
        if shown.distributions != trial.distributions:
            # CMA-ES keeps its state there, which is of the other space.
            shown.system_attrs = {
                key: value for key, value in trial.system_attrs.items() if "cma" not in key
            }
        return shown

    def check_custom(self, stored: Mapping[str, BaseDistribution], study: str, config: Any) -> None:
        """Refuses what `custom` adds where Optuna would not take it into a study.

        Args:
            stored: Of the study's trials, by key.
            study: Its name.
            config: For `custom`.

        Raises:
            ArgumentError: It would not.
        """
        if self.custom is None or not stored:
            return
        for trial in self._sampled(config):
            for key in trial.distributions.keys() & stored.keys() - self.dimensions.keys():
                own = trial.distributions[key]
                try:
                    Dimension(own, None, {}).as_stored(stored[key])
                except ValueError as error:
                    raise ArgumentError(
                        key,
                        described(own),
                        f"{described(stored[key])}, as {study_override(study)} has it ({error})",
                        f"Another search is another study: {study_override()}",
                    ) from error

    def describe(self) -> dict[str, Any]:
        """The space as JSON values, to compare with another's."""
        described: dict[str, Any] = {
            key: json.loads(distribution_to_json(dimension.distribution))
            for key, dimension in self.dimensions.items()
        }
        if self.custom is not None:
            described[CUSTOM] = _name_of(self.custom)
        return described


def _read(argument: str, loader: ConfigLoader | None, seed: int | None) -> Override:
    """Parses one override; a list that it shuffles has the same order every time."""
    state = random.getstate()
    random.seed(f"{seed} {argument}")
    try:
        [override] = OverridesParser.create(config_loader=loader).parse_overrides([argument])
    finally:
        random.setstate(state)
    return override


def _is_group(override: Override, loader: ConfigLoader | None) -> bool:
    return loader is not None and bool(loader.get_group_options(override.key_or_group))


def _check_that_it_decides(
    key: str, overrides: Mapping[str, Override], loader: ConfigLoader | None
) -> None:
    """Refuses a sweep over what another override sets after it, or deletes.

    Args:
        key: What is swept.
        overrides: All, in their order.
        loader: Knows the config groups.
    """
    swept = overrides[key]
    is_group = _is_group(swept, loader)
    path = split_key(swept.key_or_group)
    after = False
    for name, other in overrides.items():
        after = after or name == key
        if other is swept or other.is_list_extend() or other.package != swept.package:
            continue
        other_path = split_key(other.key_or_group)
        same = other_path == path
        # A map is merged into what is there; options of groups are chosen before anything is set.
        above = path[: len(other_path)] == other_path and not (
            _is_map(other.value()) or _is_group(other, loader)
        )
        if (after and (same or above)) or (same and is_group and other.is_delete()):
            raise SlicewiseError(
                f"{swept.input_line} and {other.input_line}: the second leaves nothing for the "
                "sweep to decide; remove one"
            )


def _name_of(function: CustomSearchSpace) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _is_map(value: Any) -> bool:
    """Whether it is a map, or a choice among others of which one is."""
    return any(isinstance(one, dict) for one in getattr(value, "list", [value]))
