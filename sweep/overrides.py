"""Values as text of Hydra's override grammar."""

from __future__ import annotations

import json
import re
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

_PLAIN_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_WORDS_WITH_A_MEANING = ("null", "true", "false", "nan", "inf")


def override_text(value: Any) -> str:
    """A plain value as override text that Hydra reads as the same value."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        plain = _PLAIN_WORD.fullmatch(value) and value.lower() not in _WORDS_WITH_A_MEANING
        return value if plain else QuotedString(value, Quote.double).with_quotes()
    return repr(value)
