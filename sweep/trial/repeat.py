"""Another application's trial once more: by its own command, as Hydra repeats jobs.

The application runs in a process of its own, `python -m sweep.trial.repeat`, in the working
directory of its sweep. That wraps its task function, to keep what it returns: Hydra throws it away.
"""

from __future__ import annotations

import dataclasses
import functools
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction

from slicewise.errors import SlicewiseError
from sweep.overrides import override_text
from sweep.trial.application_record import ApplicationRecord, outcome_of, read_record
from sweep.trial.outcome import End
from sweep.trial.provenance import commit_of, imported_versions


def repeat(trial: Path, record: ApplicationRecord, target: Path) -> ApplicationRecord:
    """Runs a trial once more.

    Args:
        trial: Its directory.
        record: What it recorded.
        target: The directory of the repetition.

    Returns:
        What the repetition recorded.

    Raises:
        SlicewiseError: It cannot be repeated; what the application said of it was printed.
    """
    if not (trial / ".hydra" / "overrides.yaml").is_file():
        raise SlicewiseError(f"{trial} cannot be repeated: it has no .hydra/overrides.yaml")
    command = [
        *(sys.executable, "-m", __name__, str(trial.absolute()), *record.program),
        *record.places,
        f"--experimental-rerun={trial.absolute()}",
        f"hydra.run.dir={override_text(str(target.absolute()))}",
    ]
    done = subprocess.run(command, cwd=_folder(trial, record), check=False)
    why = f"{record.application.text} ended with exit code {done.returncode}, see above"
    if done.returncode == 0 and target.is_dir():
        repeated = read_record(target)
        if isinstance(repeated, ApplicationRecord) and repeated.end == End.COMPLETE.value:
            return repeated
        why = repeated.reason or repeated.state
    raise SlicewiseError(f"{trial} was not repeated: {why}")


def _folder(trial: Path, record: ApplicationRecord) -> Path:
    """Where the application is started: where its sweep was, or, if that is gone, here."""
    script = record.program[0]
    folders = (Path(record.folder), Path.cwd())
    for folder in folders:
        if folder.is_dir() and (script == "-m" or (folder / script).is_file()):
            return folder
    raise SlicewiseError(
        f"{trial} cannot be repeated: there is no {script} in {folders[0]}, where it was run, nor "
        "here"
    )


# The side of the application.


def main(arguments: list[str]) -> None:
    """Runs an application whose task function leaves a record.

    Args:
        arguments: The directory of the trial that is repeated; the program; its arguments.
    """
    original = read_record(Path(arguments[0]))
    assert isinstance(original, ApplicationRecord)
    hydra_main = hydra.main

    def recording_main(*args: Any, **settings: Any) -> Callable[[TaskFunction], Any]:
        decorate = hydra_main(*args, **settings)
        return lambda task: decorate(_recording(task, original))

    # Both are the same function, and a module that hides behind it.
    for module in (hydra, sys.modules["hydra.main"]):
        vars(module)["main"] = recording_main
    if arguments[1] == "-m":
        sys.argv = arguments[2:]
        runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments[1:]
        sys.path[0] = str(Path(arguments[1]).absolute().parent)
        runpy.run_path(arguments[1], run_name="__main__")


def _recording(task: TaskFunction, original: ApplicationRecord) -> TaskFunction:
    """The task, which leaves the record of a repetition when it has returned."""

    @functools.wraps(task)
    def run(config: Any) -> Any:
        directory = Path(HydraConfig.get().runtime.output_dir)
        began = time.monotonic()
        result = task(config)
        outcome = outcome_of(result, len(original.metrics))
        dataclasses.replace(
            original,
            state=outcome.end.state.name,
            end=outcome.end.value,
            values=list(outcome.values) or None,
            seconds=round(time.monotonic() - began, 3),
            versions=imported_versions(),
            git_commit=commit_of(Path(sys.argv[0]).absolute().parent),
            reason=outcome.reason or None,
            traceback=None,
        ).write(directory)
        return result

    return run


if __name__ == "__main__":
    main(sys.argv[1:])
