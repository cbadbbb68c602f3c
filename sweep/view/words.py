"""How values are put into words, on a terminal as on a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import TrialState

from sweep.trial.metrics import metric_named

_LISTED_NUMBERS = 12


def short_keys(keys: Sequence[str]) -> list[str]:
    """The keys without their groups, where that leaves them different."""
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]


def in_words(values: Mapping[str, Any], separator: str = ", ") -> str:
    """Keys and their values."""
    return separator.join(f"{key}={shown(value)}" for key, value in values.items())


def point(params: Mapping[str, Any], separator: str = ", ") -> str:
    """What a trial was asked, by short keys."""
    names = short_keys(list(params))
    return in_words(dict(zip(names, params.values(), strict=True)), separator)


def counted(counts: Mapping[TrialState, int]) -> str:
    """How many trials are in each state; nothing where there are none."""
    return ", ".join(f"{n} {state.name.lower()}" for state, n in counts.items() if n)


def listed(numbers: Sequence[int]) -> str:
    """The numbers of trials, the first of them where they are many."""
    shown_ones = ", ".join(map(str, numbers[:_LISTED_NUMBERS]))
    left = len(numbers) - _LISTED_NUMBERS
    return f"{shown_ones} and {left} more" if left > 0 else shown_ones


def shown(value: Any) -> str:
    """A parameter's value, for people."""
    if isinstance(value, float):
        whole = value.is_integer() and 1e4 <= abs(value) < 1e15
        return f"{int(value):,}" if whole else f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def metric_shown(name: str, value: float) -> str:
    """What a metric came to; of a name that is in no table, the number."""
    metric = metric_named(name)
    return shown(value) if metric is None else metric.shown(value)
