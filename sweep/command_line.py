"""The command line of the program that runs, as it can be typed again."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sweep.overrides import override_text
from sweep.passwords import take_passwords

# The package that this program is.
_OWN = "sweep"
# Its second program, with a configuration of its own.
_COMPRESSION = "sweep.compress"
# Names the studies of other applications.
STUDY_NAME = "hydra.sweeper.study_name"
# What is said once, and not again.
_ONCE = ("study", "+resume", "++resume")

# Another application that is served.
_application: str | None = None

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
    # Another front door to this program has its command line as it was typed.
    given = take_passwords([a for a in typed if a.partition("=")[0] not in _ONCE])
    named = f"study={override_text(study_name)}"
    return f"{program_text(program())} {shlex.join([*given, named])}"


def speak_for(application: str | None) -> None:
    """Has messages name what the user types of another application from now on.

    Args:
        application: What one types to run it, without its arguments; None: this package's own.
    """
    global _application
    _application = application


def study_override(name: str = "NAME") -> str:
    """The override that chooses a study by its name."""
    key = "study" if _application is None else STUDY_NAME
    return f"{key}={override_text(name)}"


def help_command() -> str:
    """The application that runs, of which flags show the configuration or the help."""
    if _application is None and program() == ["-m", _COMPRESSION]:
        return f"python -m {_COMPRESSION}"
    return _application or f"python -m {_OWN}"


def is_own() -> bool:
    """Whether it is a program of this package that runs, and no other application."""
    return _application is None


def program() -> list[str]:
    """What Python was told to run: a script, or `-m` and a module."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return [sys.argv[0]]
    return ["-m", spec.name.removesuffix(".__main__")]


def program_text(program: Sequence[str]) -> str:
    """What one types to run a program, without its arguments."""
    script = program[0]
    if len(program) == 1 and not script.endswith(".py"):
        # A command that an installation has made.
        found = shutil.which(Path(script).name)
        is_on_path = found is not None and os.path.realpath(found) == os.path.realpath(script)
        return shlex.quote(Path(script).name if is_on_path else script)
    return shlex.join(["python", *program])


def without_unread(arguments: list[str]) -> list[str]:
    """Arguments without the overrides that `--hydra-help` would refuse: it reads no configuration.

    Example:
        >>> without_unread(["experiment=tiny", "~search", "--hydra-help"])
        ['--hydra-help']
    """
    if "--hydra-help" not in arguments:
        return arguments
    return [a for a in arguments if not _is_override(a) or a.lstrip("+~").startswith("hydra")]


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))
