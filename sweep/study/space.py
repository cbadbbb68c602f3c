"""The search space: all that is swept, and all that is fixed."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import distribution_to_json
from optuna.trial import Trial

from slicewise.errors import SlicewiseError
from sweep.overrides import override_text
from sweep.study.dimension import Dimension, read_dimension

# Points that a rehearsal may need to tell a mistake of all from one of a few.
_SAMPLES = 3

CustomSearchSpace = Callable[[Any, Trial], None]
Point = tuple[str, ...]


@dataclass(frozen=True)
class SearchSpace:
    """What a study searches.

    Attributes:
        dimensions: The swept keys, in the order they were given.
        fixed: Overrides with one value, by key; part of every trial.
        fixed_overrides: Overrides without a value (`~key`), as they were given.
        custom: Suggests further parameters for a trial, from the configuration and the values
            it has; None where there is no `custom_search_space`.
    """

    dimensions: Mapping[str, Dimension]
    fixed: Mapping[str, str]
    fixed_overrides: Sequence[str] = ()
    custom: CustomSearchSpace | None = None

    @classmethod
    def parse(
        cls, arguments: Sequence[str], custom: CustomSearchSpace | None = None
    ) -> SearchSpace:
        """Reads Hydra overrides; a later one for the same key replaces an earlier one.

        Raises:
            SlicewiseError: A sweep has no values, or a form that Optuna has no distribution for.
        """
        dimensions: dict[str, Dimension] = {}
        fixed: dict[str, str] = {}
        fixed_overrides: list[str] = []
        for override in OverridesParser.create().parse_overrides(list(arguments)):
            if override.is_delete() or override.is_list_extend():
                fixed_overrides.append(str(override.input_line))
                continue
            key = override.get_key_element()
            dimensions.pop(key, None)
            fixed.pop(key, None)
            if override.is_sweep_override():
                dimensions[key] = read_dimension(override)
            else:
                fixed[key] = override.get_value_element_as_str()
        return cls(dimensions, fixed, fixed_overrides, custom)

    def size(self) -> float:
        """The number of points; infinite for intervals of real numbers and custom spaces."""
        if self.custom is not None:
            return math.inf
        sizes = [dimension.values() for dimension in self.dimensions.values()]
        return math.prod(math.inf if values is None else len(values) for values in sizes)

    def points(self) -> Iterator[dict[str, Any]]:
        """All points of a finite space, the last key changing fastest."""
        values = [dimension.values() or [] for dimension in self.dimensions.values()]
        for point in itertools.product(*values):
            yield dict(zip(self.dimensions, point, strict=True))

    def samples(self, config: Any) -> Iterator[dict[str, Any]]:
        """A few points that differ in every key that has several values, to try things out on."""
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for number in range(_SAMPLES):
            study.enqueue_trial({k: d.sample(number) for k, d in self.dimensions.items()})
            yield dict(self.suggest(config, study.ask()))

    def suggest(self, config: Any, trial: Trial) -> dict[str, Any]:
        """Asks the trial for a value of every dimension, then of what `custom` adds."""
        for key, dimension in self.dimensions.items():
            trial._suggest(key, dimension.distribution)
        if self.custom is not None:
            # As the official sweeper: the callable finds the fixed overrides there.
            for key, text in self.fixed.items():
                trial.set_user_attr(key, text)
            self.custom(config, trial)
        return trial.params

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """The Hydra overrides of a trial with these values."""
        overlap = sorted(set(params) & set(self.fixed))
        if overlap:
            raise SlicewiseError(
                f"{', '.join(overlap)}: both fixed on the command line and suggested by "
                "custom_search_space; remove one"
            )
        swept = [
            f"{key}={self.dimensions[key].text(value)}"
            if key in self.dimensions
            else f"{key}={override_text(value)}"
            for key, value in params.items()
        ]
        fixed = [f"{key}={text}" for key, text in self.fixed.items()]
        return [*swept, *fixed, *self.fixed_overrides]

    def point(self, params: Mapping[str, Any]) -> Point | None:
        """A key under which equal points are equal; None where a value is missing."""
        if any(key not in params for key in self.dimensions):
            return None
        return tuple(json.dumps(params[key]) for key in self.dimensions)

    def describe(self) -> dict[str, Any]:
        """The space as JSON values, to compare with another's."""
        described: dict[str, Any] = {
            key: json.loads(distribution_to_json(dimension.distribution))
            for key, dimension in self.dimensions.items()
        }
        if self.custom is not None:
            described["custom_search_space"] = (
                f"{self.custom.__module__}.{self.custom.__qualname__}"
            )
        return described
