"""The command line of this program, as it can be typed again."""

from __future__ import annotations

import shlex
import sys

from sweep.overrides import override_text

# What is said once, and not again.
_ONCE = ("study", "+resume", "++resume")


def command_of_study(study_name: str) -> str:
    """The command that goes on with a study, or a fit: the one that began it, with its name."""
    given = [a for a in sys.argv[1:] if a.partition("=")[0] not in _ONCE]
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {module.parent or module.name}" if module else f"python {sys.argv[0]}"
    return f"{program} {shlex.join([*given, f'study={override_text(study_name)}'])}"
