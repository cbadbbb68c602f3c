"""python -m sweep.compress budget.parameters=0.33: a smaller model of the teacher's encoder.

Four stages, each skipped where it is done: library, choose, heal, export.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.application import check_given_name
from sweep.command_line import command_of_study, part_of, without_unread
from sweep.compress import application
from sweep.compress.stages import of_library, run_job, run_study
from sweep.console import Interrupted, exit_code_of
from sweep.devices import started_by_torchrun
from sweep.overrides import override_text, read_overrides
from sweep.passwords import take_passwords
from sweep.resolvers import register_resolvers
from sweep.streams import settle_streams

# Hydra's options that say where configurations lie; all others show something, and run nothing.
_PLACES = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
_MULTIRUN = ("-m", "--multirun")
_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")


# Kernels of the shapes that came last that torch's CPU libraries keep, instead of a thousand each:
# texts have many lengths and layers many widths, and a healing would need twice the memory.
_KERNELS_KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


def main() -> int:
    register_resolvers()
    for name, number in _KERNELS_KEPT.items():
        os.environ.setdefault(name, number)
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        sys.argv = [sys.argv[0], *without_unread(take_passwords(sys.argv[1:]))]
        if started_by_torchrun() and os.environ["RANK"] != "0":
            from sweep.ranks import torchrun

            torchrun.follow()
            return 0
        arguments = sys.argv[1:]
        if _shows_something(arguments):
            run_job(application.run, arguments)
        else:
            compress(arguments)
    except (Exception, KeyboardInterrupt) as error:
        return exit_code_of(error, show_traceback)
    return 0


def compress(arguments: Sequence[str]) -> None:
    """Runs the stages one after the other, or what is left of them.

    Args:
        arguments: Of the command line.

    Raises:
        SlicewiseError: Something cannot be run; says what.
        Interrupted: The user stopped it; the message holds the command that goes on.
    """
    if any(argument in _MULTIRUN for argument in arguments):
        raise SlicewiseError(
            "-m: python -m sweep.compress runs its own studies, of one budget\n"
            "Another budget for the same library: python -m sweep.compress study=NAME budget..."
        )
    check_given_name(arguments)
    _check_folders(arguments)
    from sweep.compress import jobs

    first = run_job(jobs.prepare, arguments)
    study, overrides = first.study, [*_without_study(arguments), _named(first.study)]
    with part_of(study, list(arguments)):
        try:
            run_study(
                application.run,
                f"{study}/{application.LIBRARY}",
                "candidate",
                first.candidates,
                [*of_library(overrides, first.fits), *first.of_library],
            )
            healing = run_job(jobs.choose, overrides)
            run_study(application.run, healing.study, "plan", healing.plans, overrides)
            run_job(jobs.export, overrides)
        except KeyboardInterrupt as error:
            raise Interrupted(f"Stopped. To go on: {command_of_study(study)}") from error


def _shows_something(arguments: Sequence[str]) -> bool:
    options = [a.partition("=")[0] for a in arguments if a.startswith("-") and len(a) > 1]
    return any(option not in (*_PLACES, *_MULTIRUN) for option in options)


def _check_folders(arguments: Sequence[str]) -> None:
    """Refuses folders of Hydra's: each stage looks for what the one before has left."""
    for override in read_overrides(arguments):
        if override.key_or_group in _FOLDERS:
            folder = str(override.input_line).partition("=")[2]
            allowed = "multirun/NAME, which study=NAME chooses: stages look there for each other"
            raise ArgumentError(
                override.key_or_group, folder, allowed, "python -m sweep.compress study=NAME ..."
            )


def _without_study(arguments: Sequence[str]) -> list[str]:
    return [argument for argument in arguments if argument.partition("=")[0] != "study"]


def _named(study: str) -> str:
    return f"study={override_text(study)}"


if __name__ == "__main__":
    settle_streams()
    # Python would look for garbage in all that is loaded before it ends: a second.
    atexit.register(gc.freeze)
    sys.exit(main())
