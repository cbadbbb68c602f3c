"""What a person sees when something is wrong.

A mistake of the user's is one message and no traceback; anything else is a bug and shows where.
"""

from __future__ import annotations

import difflib
import errno
import logging
import re
import sys
import traceback
from collections.abc import Sequence

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.errors import (
    CompactHydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import Container
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from slicewise.errors import SlicewiseError
from sweep.command_line import help_command, is_own
from sweep.overrides import read_overrides

MISTAKE = 1
INTERRUPTED = 130
_GRAMMAR = "https://hydra.cc/docs/advanced/override_grammar/basic"
# OmegaConf's words for it, of a plain node and of one that has a class.
_NO_KEY = re.compile(r"Key '.*' (is not in struct|not in '\w+')")
_LEXER = "LexerNoViableAltException: "
# Optuna's, by its name: nothing here waits for optuna to be loaded.
_STORAGE_ERROR = "StorageInternalError"
# What a disk says that is full, or that may only be read.
_TAKES_NOTHING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# logging's words where the file of a log cannot be opened.
_NO_LOG = "Unable to configure handler"
# Hydra's modules that read flags, make folders, and choose options of groups.
_HYDRAS_FLAGS = "hydra._internal.utils"
_HYDRAS_FOLDERS = "hydra.core.utils"
_HYDRAS_GROUPS = "hydra._internal.defaults_list"
# Options that plugins bring, and the extras that install them.
_EXTRAS = {
    "hydra/launcher=joblib": "joblib",
    "hydra/launcher=ray": "ray",
    "hydra/launcher=submitit_local": "slurm",
    "hydra/launcher=submitit_slurm": "slurm",
}


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
    refused = _refused_by_disk(error)
    if refused is not None:
        return _unwritable(refused)
    if isinstance(error, CompactHydraException) and isinstance(error.__cause__, SlicewiseError):
        return str(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(error, MissingConfigException):
        return _unknown_option(error)
    if isinstance(error, CompactHydraException):
        return _unknown_key(error) or _misused_group(str(error)) or _with_cause(error)
    if isinstance(error, MissingMandatoryValue):
        return _missing(error)
    if isinstance(error, ValueError):
        return _no_option(error)
    if isinstance(error, OSError):
        return _no_folder(error)
    if type(error).__name__ == _STORAGE_ERROR and error.__cause__ is not None:
        return _no_storage(error.__cause__)
    return None


def warn_of(log: logging.Logger, what: str, error: Exception) -> None:
    """Logs what failed and is no reason to fail for: in one line, unless the error is a bug.

    Args:
        log: Whose.
        what: "Could not write the report".
        error: Why: a disk that is full, say.
    """
    reason = error.strerror or str(error) if isinstance(error, OSError) else message_of(error)
    if reason is None:
        log.warning(what, exc_info=error)
    else:
        log.warning("%s: %s", what, reason.partition("\n")[0])


def _refused_by_disk(error: BaseException) -> OSError | None:
    """What a disk has said that takes nothing, or the file of a log; None where it is another."""
    if isinstance(error, OSError) and error.errno in _TAKES_NOTHING:
        return error
    is_log = isinstance(error, ValueError) and str(error).startswith(_NO_LOG)
    return error.__cause__ if is_log and isinstance(error.__cause__, OSError) else None


def _unwritable(error: OSError) -> str:
    place = "a file" if error.filename is None else error.filename
    return (
        f"{place} cannot be written to: {error.strerror}\n"
        "What was done is kept: the same command goes on."
    )


def _no_storage(cause: BaseException) -> str:
    """Of a database that takes nothing: a full disk, a file that may only be read."""
    reason = str(getattr(cause, "orig", cause)).partition("\n")[0]
    return (
        f"the study's storage cannot be written to: {reason}\n"
        "What was done is kept: the same command goes on."
    )


def _with_cause(error: BaseException) -> str:
    cause = error.__cause__
    return f"{error}\n{cause}" if isinstance(cause, OmegaConfBaseException) else str(error)


def _unreadable(error: OverrideParseException) -> str:
    """What Hydra's grammar does not take, without the rest of the command line."""
    lines = error.message.splitlines()
    said = [line for line in lines if not line.startswith(("Error ", "See https://"))]
    if said and said[0].startswith(_LEXER):
        # A caret in the next line points at what is wrong.
        place = said[1].index("^") - len(_LEXER)
        said = [f"no {error.override[place]!r} at this place"]
    return (
        f"{error.override}: allowed: what Hydra's grammar takes: {' '.join(said).strip()}\n"
        "Quote a value with other characters, for Hydra and for the shell: 'KEY=\"VALUE\"'; "
        f"the grammar: {_GRAMMAR}"
    )


def _unknown_option(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    # Of one in a list, group=[one,another], Hydra names no others.
    options = error.options or _options_of(error, group)
    if not group or not options:
        return str(error)
    message = f"{group}={option}: allowed: {', '.join(options)}"
    extra = _EXTRAS.get(f"{group}={option}")
    if extra:
        return f"{message}\n{option} is not installed: pip install 'slicewise[{extra}]'"
    return f"{message}{_did_you_mean(option, options, f'{group}={{}}')}"


def _options_of(error: BaseException, group: str) -> list[str]:
    """The options of a group, from where Hydra looked for one of them."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals["__name__"] == _HYDRAS_GROUPS and "repo" in frame.f_locals:
            found: list[str] = frame.f_locals["repo"].get_group_options(group, ObjectType.CONFIG)
            return found
    return []


def _unknown_key(error: BaseException) -> str | None:
    """Hydra names an unknown key but not the known ones."""
    cause = error.__cause__
    if not isinstance(cause, OmegaConfBaseException) or not _NO_KEY.search(str(cause)):
        return None
    parent = cause.parent_node
    if not isinstance(parent, Container):
        return None
    given = re.search(r"use \+(.+)", str(error))
    known = [str(key) for key in parent]
    if not known:
        return None
    text = given[1] if given else str(cause.full_key)
    group, _, key = str(cause.full_key).rpartition(".")
    above = f"{group}." if group else ""
    allowed = ", ".join(f"{above}{key}" for key in known)
    value = text.partition("=")[2]
    hint = _of_some_options(text, group)
    hint = hint or _did_you_mean(key, known, f"{above}{{}}={value}")
    part = "hydra" if group.startswith("hydra.") else "job"
    return f"{text}: there is no such key: allowed: {allowed}{hint}\n{_see_all(part)}"


def _of_some_options(text: str, group: str) -> str:
    """How to set a key that only some options of a swept group have."""
    given = read_overrides(sys.argv[1:])
    swept = next((o for o in given if o.key_or_group == group and o.is_sweep_override()), None)
    if swept is None:
        return ""
    key = text.partition("=")[0]
    whole = next((o.input_line for o in given if o.get_key_element() == key), text)
    return (
        f"\nWhere only some of {swept.input_line} have it: ++{whole} "
        "(a point of the others cannot be run)"
    )


def _misused_group(text: str) -> str | None:
    forced = re.search(r"force-add of config groups is not supported: '\++(.*)'", text)
    if forced:
        return f"++{forced[1]}: allowed: {forced[1]}, which chooses an option of a group"
    # A part of Hydra's own that names the option of another, which has none.
    none = re.search(r"resolving interpolation '\$\{(hydra/.*?)\}'", text)
    if none:
        return _choose(none[1].replace("/", "."))
    double = re.search(r"Multiple values for (.*?)\..*'(.*)' from 'command line'", text, re.DOTALL)
    if double:
        choose = f"{double[1]}={double[2]}"
        return f"+{choose}: allowed: {choose}, as {double[1]} has an option already"
    unused = re.search(r"^Could not override '(.*)'\. No match .* use \+(.*)$", text, re.DOTALL)
    if unused and is_own():
        # To add it to the configuration, as Hydra says, would change nothing, or not be possible.
        return (
            f"{unused[2]}: {help_command()} chooses nothing of it: see {help_command()} --cfg job"
        )
    if "'BasicSweeperConf'" in text:
        return "hydra/sweeper=basic: allowed: optuna_workers, optuna, which keep a study"
    if text.startswith("Could not delete"):
        return f"{text}\n{_see_all()}"
    return None


def _no_option(error: ValueError) -> str | None:
    """Hydra has a plain ValueError for what cannot be a group's option, and names no group."""
    last = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][-1:]
    if last and last[0].f_globals["__name__"] == _HYDRAS_FLAGS:
        return str(error)
    for frame, _ in traceback.walk_tb(error.__traceback__):
        override = frame.f_locals.get("override")
        if frame.f_globals["__name__"] == _HYDRAS_GROUPS and isinstance(override, Override):
            key = override.key_or_group
            message = f"{override.input_line}: allowed: {', '.join(_options_of(error, key))}"
            # A sweeper without a sampler would not start.
            none = "" if key.startswith("hydra/") else f"; or [] for none of them: {key}=[]"
            return message + none
    return None


def _no_folder(error: OSError) -> str | None:
    """Hydra makes the folder of a single job, and does not say whose name it had."""
    places = [frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [place for place in places if place not in ("pathlib", "omegaconf.omegaconf")]
    if own[-1:] == [_HYDRAS_FLAGS]:
        return f"--experimental-rerun: allowed: a folder that a job has left: {error}"
    if own[-1:] != [_HYDRAS_FOLDERS]:
        return None
    return f"hydra.run.dir={error.filename}: allowed: a folder that can be made: {error.strerror}"


def _missing(error: MissingMandatoryValue) -> str:
    """Hydra does not say how what is missing is chosen: as a rule, as an option of a group."""
    return _choose(str(error.full_key))


def _choose(key: str) -> str:
    group = key.replace(".", "/") if key.startswith("hydra.") else key
    return f"{key}: missing; choose one of {group}=..., see {help_command()} --help"


def _see_all(part: str = "job") -> str:
    return f"See all of them: {help_command()} --cfg {part}"


def _did_you_mean(word: str, known: Sequence[str], command: str) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"\nDid you mean {command.format(near[0])}?" if near else ""
