"""Something that a process has one of."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple


class Setting(NamedTuple):
    """Something that a process has one of, and any code may set.

    Attributes:
        get: Reads it.
        set: Sets it.
        same: Whether two values are one; where they are, nothing is set.
    """

    get: Callable[[], Any]
    set: Callable[[Any], None]
    same: Callable[[Any, Any], bool] = operator.eq

    @classmethod
    def attribute(cls, owner: Any, name: str) -> Setting:
        """An attribute of a module; each has its own object there, such as an open file."""
        get = functools.partial(getattr, owner, name)
        return cls(get, functools.partial(setattr, owner, name), operator.is_)
