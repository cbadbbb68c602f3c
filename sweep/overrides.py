"""Values as text of Hydra's override grammar."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    Glob,
    ListExtensionOverrideValue,
    Override,
    Quote,
    QuotedString,
    Sweep,
)
from hydra.errors import HydraException

_PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS_WITH_A_MEANING = ("null", "true", "false", "nan", "inf")
# Hydra's word for none of a group's options.
_NO_OPTION = "[]"


def read_overrides(arguments: Sequence[str]) -> list[Override]:
    """The overrides among arguments; what Hydra's grammar does not take is left to Hydra."""
    read = []
    for argument in arguments:
        with contextlib.suppress(HydraException):
            read.append(OverridesParser.create().parse_override(argument))
    return read


def element_text(element: Any, is_group: bool = False) -> str:
    """A parsed element as override text that Hydra reads as the same value.

    Hydra's own text forgets that a string was one, where a cast or a function has taken its
    quotes: of `str(1)`, or of `choice('1',2)`.

    Args:
        element: As Hydra's parser gives it.
        is_group: Whether it is for a config group, of which null chooses no option.

    Raises:
        ValueError: A function stands in it where a value belongs.
    """
    if element is None and is_group:
        return _NO_OPTION
    if isinstance(element, QuotedString):
        return element.with_quotes()
    if isinstance(element, list):
        return f"[{','.join(map(element_text, element))}]"
    if isinstance(element, dict):
        pairs = (
            f"{Override._get_value_element_as_str(key)}:{element_text(value)}"
            for key, value in element.items()
        )
        return f"{{{','.join(pairs)}}}"
    if isinstance(element, (Sweep, Glob, ListExtensionOverrideValue)):
        raise ValueError("no function but of plain values may stand inside")
    if isinstance(element, str):
        text = Override._get_value_element_as_str(element)
        return text if _reads_as(text, element) else override_text(element)
    return override_text(element)


def override_text(value: Any) -> str:
    """A value as override text that Hydra reads as the same value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (list, dict)):
        return element_text(value)
    if isinstance(value, str):
        plain = _PLAIN_WORD.fullmatch(value) and value.lower() not in _WORDS_WITH_A_MEANING
        return value if plain else QuotedString(value, Quote.double).with_quotes()
    return repr(value)


def _reads_as(text: str, value: str) -> bool:
    try:
        return bool(OverridesParser.create().parse_rule(text, "value") == value)
    except HydraException:
        return False
