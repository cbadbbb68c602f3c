"""The command line of this program, as it can be typed again."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator

from sweep.overrides import override_text
from sweep.passwords import take_passwords

# What is said once, and not again.
_ONCE = ("study", "+resume", "++resume")

# Of a program that runs studies as its parts: what was typed, and the name of the whole.
_whole: tuple[list[str], str] | None = None


@contextlib.contextmanager
def part_of(study_name: str, typed: list[str]) -> Iterator[None]:
    """While it lasts, what goes on with any study is the command that goes on with a whole.

    Args:
        study_name: Of the whole.
        typed: The arguments that began it.
    """
    global _whole
    before, _whole = _whole, (typed, study_name)
    try:
        yield
    finally:
        _whole = before


def command_of_study(study_name: str) -> str:
    """The command that goes on with a study, or a fit: the one that began it, with its name."""
    typed, study_name = _whole or (sys.argv[1:], study_name)
    # An application of one's own has its command line as it was typed.
    given = take_passwords([a for a in typed if a.partition("=")[0] not in _ONCE])
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {module.parent or module.name}" if module else f"python {sys.argv[0]}"
    return f"{program} {shlex.join([*given, f'study={override_text(study_name)}'])}"
