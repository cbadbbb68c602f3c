"""One swept key: what Hydra's sweep grammar says of it, as an Optuna distribution, and back.

Optuna stores a value as what it is (a number, a boolean, null, a string); Hydra wants override
text. Each dimension keeps the text its choices were written as, so that nothing changes meaning
on the way through the storage.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, overload

from hydra.core.override_parser.types import (
    Glob,
    Override,
    QuotedString,
    RangeSweep,
)
from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)

from slicewise.errors import ArgumentError
from sweep.overrides import element_text, override_text

# Optuna stores numbers as floats, which hold integers up to here.
_EXACT_INTEGERS = 2**53
# Values that are put into another order; the list of them is kept.
_SHUFFLED = 1_000_000
# How far into an interval: no number of steps that anybody writes divides it so.
_WITHIN = (math.sqrt(5) - 1) / 2
# Values of a choice that an error shows.
_SHOWN = 12


@dataclass(frozen=True)
class Dimension:
    """One swept key.

    Attributes:
        distribution: What Optuna samples from.
        listed: All values, in the order in which they are run; None where there are infinitely
            many. Shuffling changes this and nothing else.
        texts: For a choice, the override text of each value, by the value's JSON.
        kept: What the study keeps with each value, where that is another than `distribution`:
            Optuna takes a choice into a study only with all options that it ever had.
    """

    distribution: BaseDistribution
    listed: Sequence[Any] | None
    texts: Mapping[str, str]
    kept: BaseDistribution | None = None

    @property
    def stored(self) -> BaseDistribution:
        """The distribution under which the study keeps a value."""
        return self.kept or self.distribution

    def text(self, value: Any) -> str:
        """The value as Hydra override text."""
        return self.texts.get(json.dumps(value)) or override_text(self.on_grid(value))

    def size(self) -> float:
        """The number of values; infinite between two real numbers."""
        distribution = self.distribution
        if isinstance(distribution, IntDistribution):
            return (distribution.high - distribution.low) // distribution.step + 1
        return math.inf if self.listed is None else len(self.listed)

    def value(self, index: int) -> Any:
        """The value at a place from 0 to `size() - 1`, in the order in which they are run."""
        assert self.listed is not None
        return self.listed[index]

    def on_grid(self, value: Any) -> Any:
        """The value itself, or, of steps between real numbers, the one that it stands for.

        Each sampler rounds in its own way.
        """
        if isinstance(self.distribution, FloatDistribution) and self.distribution.step is not None:
            low, step = self.distribution.low, self.distribution.step
            return _decimal(low, step, round((value - low) / step))
        return value

    def sample(self, number: int) -> Any:
        """A value; another one for every number, as far as there are so many.

        Of an endless key first one within, as a sampler would draw it: the ends may be integers.
        """
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[number % len(distribution.choices)]
        assert isinstance(distribution, (FloatDistribution, IntDistribution))
        ends = (distribution.low, distribution.high)
        return ends[number % 2] if self.listed else (self._within(), *ends)[number % 3]

    def _within(self) -> float:
        """A value between the ends that is no round number."""
        distribution = self.distribution
        assert isinstance(distribution, FloatDistribution)
        low, high = distribution.low, distribution.high
        if distribution.log:
            return float(low * (high / low) ** _WITHIN)
        return low + (high - low) * _WITHIN

    def holds(self, value: Any) -> bool:
        """Whether a stored value is one of this dimension's."""
        try:
            self.find(value)
        except ValueError:
            return False
        return True

    def find(self, value: Any) -> Any:
        """The value of this dimension that a stored one is.

        Raises:
            ValueError: It is none of them.
        """
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            for choice in distribution.choices:
                if same_value(choice, value):
                    return choice
            raise ValueError(f"{value!r} is no choice")
        assert isinstance(distribution, (IntDistribution, FloatDistribution))
        found = number_for(distribution, value)
        on_grid = self.on_grid(found)
        inside = distribution.low <= found <= distribution.high
        if isinstance(distribution, IntDistribution):
            inside = inside and (found - distribution.low) % distribution.step == 0
        if not inside or not math.isclose(on_grid, found, rel_tol=1e-9, abs_tol=1e-12):
            raise ValueError(f"{value!r} lies outside")
        return on_grid

    def as_stored(self, stored: BaseDistribution) -> Dimension:
        """This dimension, kept under the distribution that a study has for its key.

        The order of a choice is no part of what it is, but Optuna takes a study's choice only as
        it was first written; of a part of its options, it is kept as the whole.

        Raises:
            ValueError: Optuna would not take this dimension into that study.
        """
        if isinstance(stored, CategoricalDistribution) and self.listed is not None:
            own = {json.dumps(value) for value in self.listed}
            known = {json.dumps(choice) for choice in stored.choices}
            if own == known:
                return replace(self, distribution=stored)
            if isinstance(self.distribution, CategoricalDistribution) and own < known:
                return replace(self, kept=stored)
        check_distribution_compatibility(stored, self.distribution)
        return self


def same_value(one: Any, other: Any) -> bool:
    """Whether two stored values are one: 1 and 1.0 are, 1 and true are not."""
    if _is_number(one) and _is_number(other):
        return bool(one == other)
    return type(one) is type(other) and bool(one == other)


def number_for(distribution: IntDistribution | FloatDistribution, value: Any) -> Any:
    """A value as a distribution of numbers has it, wherever it lies.

    Raises:
        ValueError: It is no number, or a fraction where whole ones are asked for.
    """
    if not _is_number(value) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    if isinstance(distribution, FloatDistribution):
        return float(value)
    if value != int(value):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_dimension(override: Override, is_group: bool = False, seed: str = "") -> Dimension:
    """What an override of Hydra's grammar sweeps over.

    Args:
        override: A sweep; one with `glob` has its config loader.
        is_group: Whether its key is a config group, of which null chooses no option.
        seed: Of `shuffle`.

    Raises:
        ArgumentError: It has no values, or a form that Optuna has no distribution for.
    """
    sweep: Any = override.value()
    try:
        if override.is_choice_sweep():
            dimension = _choice(_elements(override), is_group)
        elif override.is_range_sweep():
            dimension = _range(override)
        else:
            dimension = _interval(create_optuna_distribution_from_override(override))
    except (ValueError, OverflowError, NotImplementedError) as error:
        raise ArgumentError(
            override.get_key_element(),
            override.get_value_string(),
            f"a choice a,b,c, range(...), interval(...), or glob(...) of a group: {error}",
        ) from error
    if getattr(sweep, "shuffle", False):
        if dimension.size() > _SHUFFLED:
            raise ArgumentError(
                override.get_key_element(),
                override.get_value_string(),
                f"at most {_SHUFFLED:,} values to shuffle; a sampler draws from more by chance",
            )
        shuffled = list(dimension.listed or ())
        random.Random(seed).shuffle(shuffled)
        return replace(dimension, listed=shuffled)
    return dimension


def _elements(override: Override) -> list[Any]:
    """What a choice is of, as it was parsed, in the order it was written."""
    value: Any = override.value()
    if not isinstance(value, Glob):
        return list(value.list)
    found = list(override.sweep_iterator())
    if not found:
        assert override.config_loader is not None
        options = ", ".join(override.config_loader.get_group_options(override.key_or_group))
        raise ValueError(f"it matches none of {options}" if options else "there is no such group")
    return found


def _choice(elements: Iterable[Any], is_group: bool = False) -> Dimension:
    texts: dict[str, str] = {}
    choices: dict[Any, None] = {}
    seen = set()
    for element in elements:
        # Not by ==, to which 1, 1.0 and true are one.
        meaning = repr(Override._convert_value(element))
        if meaning in seen:
            continue
        seen.add(meaning)
        text = element_text(element, is_group)
        choice = _stored_value(element, text, choices)
        choices[choice] = None
        texts[json.dumps(choice)] = text
    return Dimension(CategoricalDistribution(list(choices)), list(choices), texts)


def _stored_value(element: Any, text: str, taken: Mapping[Any, None]) -> Any:
    """What the storage keeps for one element of a choice: itself, or its text for a list or map.

    Its text too where it equals another choice, to which Optuna would take it: `1,true`.
    """
    return next(candidate for candidate in stored_forms(element, text) if candidate not in taken)


def stored_forms(element: Any, text: str) -> list[Any]:
    """What a storage may keep for a parsed element: the first that no other element has."""
    value = element.text if isinstance(element, QuotedString) else element
    plain = value is None or isinstance(value, (bool, int, float, str))
    return ([value] if plain else []) + [text, f"{type(value).__name__} {text}"]


def _range(override: Override) -> Dimension:
    value: Any = override.value()
    sweep: RangeSweep = replace(value, shuffle=False)
    if sweep.transformers:
        # A cast can give values that lie anywhere, some of them twice.
        return _choice(sweep)
    distribution = create_optuna_distribution_from_override(replace(override, _value=sweep))
    steps = sweep.range()
    if isinstance(distribution, IntDistribution) and isinstance(steps, range):
        if max(abs(distribution.low), abs(distribution.high)) > _EXACT_INTEGERS:
            return _choice(steps)
        return Dimension(distribution, steps, {})
    if isinstance(distribution, FloatDistribution):
        return Dimension(distribution, _Grid(distribution, falls=sweep.step < 0), {})
    # Decimals that a float distribution does not meet.
    return _choice(distribution.choices)


def _interval(distribution: IntDistribution | FloatDistribution) -> Dimension:
    if isinstance(distribution, IntDistribution):
        return Dimension(distribution, range(distribution.low, distribution.high + 1), {})
    low, high = distribution.low, distribution.high
    if not -float("inf") < low <= high < float("inf"):
        raise ValueError("its ends must be finite")
    return Dimension(distribution, [low] if low == high else None, {})


class _Grid(Sequence[float]):
    """The values of a float range, none of which is computed before it is asked for."""

    def __init__(self, distribution: FloatDistribution, falls: bool) -> None:
        assert distribution.step is not None
        self._low, self._step = distribution.low, distribution.step
        steps = range(round((distribution.high - self._low) / self._step) + 1)
        self._steps = steps[::-1] if falls else steps

    def __len__(self) -> int:
        return len(self._steps)

    @overload
    def __getitem__(self, index: int) -> float: ...
    @overload
    def __getitem__(self, index: slice) -> list[float]: ...
    def __getitem__(self, index: int | slice) -> float | list[float]:
        if isinstance(index, slice):
            return [_decimal(self._low, self._step, step) for step in self._steps[index]]
        return _decimal(self._low, self._step, self._steps[index])


def _decimal(low: float, step: float, number: int) -> float:
    """As Hydra's range counts: 3 steps of 0.1 are 0.3, which as floats they are not."""
    return float(Decimal(str(low)) + number * Decimal(str(step)))


def described(distribution: BaseDistribution) -> str:
    """A distribution as Hydra's grammar would say it."""
    if isinstance(distribution, CategoricalDistribution):
        shown = [override_text(choice) for choice in distribution.choices[:_SHOWN]]
        return ",".join([*shown, "..."] if len(distribution.choices) > _SHOWN else shown)
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    low, high, step = distribution.low, distribution.high, distribution.step
    if step not in (None, 1):
        # Hydra's range ends before its end.
        return f"range({low},{type(high)(Decimal(str(high)) + Decimal(str(step)))},{step})"
    text = f"interval({low},{high})"
    text = f"int({text})" if isinstance(distribution, IntDistribution) else text
    return f"tag(log,{text})" if distribution.log else text
