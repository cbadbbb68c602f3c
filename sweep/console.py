"""What a person sees when something is wrong.

A mistake of the user's is one message and no traceback; anything else is a bug and shows where.
"""

from __future__ import annotations

import re
import sys
import traceback

from hydra.errors import CompactHydraException
from omegaconf import Container
from omegaconf.errors import OmegaConfBaseException

from slicewise.errors import SlicewiseError

MISTAKE = 1
INTERRUPTED = 130


class Interrupted(KeyboardInterrupt):
    """The user stopped the program; the message says how to go on.

    No Exception: to Hydra that would be a job that failed, and it would say so.
    """


def exit_code_of(error: BaseException, show_traceback: bool = False) -> int:
    """Prints an error to standard error and returns the exit code that belongs to it."""
    if isinstance(error, KeyboardInterrupt):
        print(str(error) or "Interrupted.", file=sys.stderr)
        return INTERRUPTED
    message = message_of(error)
    if message is None or show_traceback:
        traceback.print_exception(error)
    if message is not None:
        print(f"Error: {message}", file=sys.stderr)
    return MISTAKE


def message_of(error: BaseException) -> str | None:
    """The message of a user's mistake, or None where the error is a bug."""
    if isinstance(error, SlicewiseError):
        return str(error)
    if isinstance(error, CompactHydraException):
        unknown = _unknown_key(error)
        if unknown is not None:
            return unknown
        cause = (
            f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""
        )
        return f"{error}{cause}"
    return None


def _unknown_key(error: BaseException) -> str | None:
    """Hydra names an unknown key but not the known ones."""
    cause = error.__cause__
    if not isinstance(cause, OmegaConfBaseException) or "is not in struct" not in str(cause):
        return None
    parent = cause.parent_node
    if not isinstance(parent, Container):
        return None
    given = re.search(r"use \+(\S+)", str(error))
    known = [str(key) for key in parent]
    if not known:
        return None
    group = str(cause.full_key).rpartition(".")[0]
    return (
        f"{given[1] if given else cause.full_key}: there is no such key: "
        f"allowed: {', '.join(f'{group}.{key}' if group else key for key in known)}\n"
        "See all of them: python -m sweep --cfg job"
    )
