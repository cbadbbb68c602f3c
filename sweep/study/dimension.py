"""One swept key: what Hydra's sweep grammar says of it, as an Optuna distribution, and back.

Optuna stores a value as what it is (a number, a boolean, null, a string); Hydra wants override
text. Each dimension keeps the text its choices were written as, so that nothing changes meaning
on the way through the storage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Override, QuotedString, Transformer
from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.overrides import override_text


@dataclass(frozen=True)
class Dimension:
    """One swept key.

    Attributes:
        distribution: What Optuna samples from.
        texts: For a choice, the override text of each value, by the value's JSON.
    """

    distribution: BaseDistribution
    texts: Mapping[str, str]

    def text(self, value: Any) -> str:
        """The value as Hydra override text."""
        return self.texts.get(json.dumps(value)) or override_text(value)

    def sample(self, number: int) -> Any:
        """A value; another one for every number, as far as there are so many."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[number % len(distribution.choices)]
        assert isinstance(distribution, (FloatDistribution, IntDistribution))
        return (distribution.low, distribution.high)[number % 2]

    def values(self) -> list[Any] | None:
        """All values, or None where there are infinitely many."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return list(distribution.choices)
        if isinstance(distribution, IntDistribution):
            return list(range(distribution.low, distribution.high + 1, distribution.step))
        if isinstance(distribution, FloatDistribution) and distribution.step is not None:
            count = round((distribution.high - distribution.low) / distribution.step) + 1
            return [distribution.low + i * distribution.step for i in range(count)]
        return None


def read_dimension(override: Override) -> Dimension:
    if override.is_choice_sweep():
        texts: dict[str, str] = {}
        choices = []
        for element in override.sweep_iterator(transformer=Transformer.identity):
            plain = element is None or isinstance(element, bool)
            text = override_text(element) if plain else Override._get_value_element_as_str(element)
            choice = _stored_value(element, text)
            if json.dumps(choice) not in texts:
                choices.append(choice)
                texts[json.dumps(choice)] = text
        if not choices:
            raise SlicewiseError(f"{override.input_line}: a sweep needs at least one value")
        return Dimension(CategoricalDistribution(choices), texts)
    try:
        distribution = create_optuna_distribution_from_override(override)
    except (ValueError, NotImplementedError) as error:
        raise ArgumentError(
            override.get_key_element(),
            str(override.input_line).partition("=")[2],
            f"a choice a,b,c, range(...) or interval(...): {error}",
        ) from error
    return Dimension(distribution, {})


def _stored_value(element: Any, text: str) -> Any:
    """What the storage keeps for one element of a choice: itself, or its text for a list or map."""
    if isinstance(element, QuotedString):
        return element.text
    if element is None or isinstance(element, (bool, int, float, str)):
        return element
    return text
