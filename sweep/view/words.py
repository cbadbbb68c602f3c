"""How values are put into words, on a terminal as on a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_LISTED_NUMBERS = 12


def short_keys(keys: Sequence[str]) -> list[str]:
    """The keys without their groups, where that leaves them different."""
    last = [key.rpartition(".")[2] for key in keys]
    return [short if last.count(short) == 1 else key for key, short in zip(keys, last, strict=True)]


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
