"""python -m sweep.studies: what a storage holds; removes a study with its folder, or copies it."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from datetime import datetime
from pathlib import Path

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.trial import TrialState
from rich import box
from rich.console import Console
from rich.table import Table

from slicewise.errors import SlicewiseError
from sweep.console import exit_code_of
from sweep.passwords import without_password
from sweep.study.copying import copy_study
from sweep.study.places import study_folder
from sweep.study.plan import (
    DEFAULT_STORAGE,
    find_study,
    is_finished,
    read_plan,
    reason_stopped,
    write_plan,
)
from sweep.study.presence import seems_swept, working_sweeps
from sweep.study.shared import load_study, quiet_optuna
from sweep.study.storage import absolute_url, existing_file, open_storage, storage_file
from sweep.view.summary import objective_names, ranked
from sweep.view.words import counted, metric_shown


def show(storage_url: str, console: Console) -> None:
    """Prints a line for each study of a storage, the latest last.

    Raises:
        SlicewiseError: There is no such storage.
    """
    quiet_optuna()
    existing_file(storage_url)
    storage = open_storage(absolute_url(storage_url))
    names = optuna.get_all_study_names(storage)
    if not names:
        console.print("No study yet: python -m sweep -m ...")
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("study", "state", "best", "trials", "last", "size"):
        right = heading in ("best", "size")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for study in sorted((load_study(name, storage) for name in names), key=_last):
        table.add_row(study.study_name, *_cells(study))
    console.print(table)


def remove(name: str, storage_url: str, sure: bool) -> None:
    """Removes a study, with all that its trials left, after two questions.

    Args:
        name: The study's.
        storage_url: Of its storage.
        sure: Ask nothing.

    Raises:
        SlicewiseError: There is no such study, a sweep works on it, or the answer was no.
    """
    study = find_study(name, storage_url)
    if working_sweeps(study):
        raise SlicewiseError(f"study={study.study_name}: a sweep works on it; stop it first")
    storage, folder = study._storage, _own_folder(study)
    number = len(study.get_trials(deepcopy=False))
    what = f"study {study.study_name} with {number} trial{'' if number == 1 else 's'}"
    what += f" and {folder} ({_size(folder)})" if folder is not None else ""
    if folder is None and (kept := study_folder(study)).is_dir():
        what += f", but not {kept}, which holds more than the study"
    if not sure:
        _ask(f"Remove {what}? [y/N] ", ("y", "yes"))
        _ask("It cannot be brought back. Its name, to confirm: ", (study.study_name,))
    optuna.delete_study(study_name=study.study_name, storage=storage)
    if folder is not None:
        shutil.rmtree(folder)
    print(f"Removed {what}.")


def copy(name: str, storage_url: str, target_url: str) -> None:
    """Copies a study to another storage; its trials' folders stay where they are.

    Raises:
        SlicewiseError: There is no such study, or one of that name in the other storage.
    """
    study = find_study(name, storage_url)
    target, shown = open_storage(absolute_url(target_url)), without_password(target_url)
    try:
        copied = copy_study(study, target, study.study_name)
    except DuplicatedStudyError as error:
        remove_it = ["--remove", study.study_name, "--storage", shown]
        raise SlicewiseError(
            f"--to={shown}: study={study.study_name} is in it already; remove that first: "
            f"python -m sweep.studies {shlex.join(remove_it)}"
        ) from error
    plan = read_plan(study)
    # From there the way to the folder is another.
    folder = str(study_folder(study))
    plan.earlier, plan.directory, plan.beside_storage = plan.before(folder), folder, None
    write_plan(copied, plan)
    print(f"Copied study {study.study_name} with {len(study.trials)} trials to {shown}.")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.studies",
        description="What a storage holds: each study, how far it is, its best, how large.",
    )
    parser.add_argument("--storage", default=DEFAULT_STORAGE, help="URL (default: %(default)s)")
    do = parser.add_mutually_exclusive_group()
    do.add_argument("--remove", metavar="STUDY", help="remove it, with its folder; asks twice")
    do.add_argument("--copy", metavar="STUDY", help="copy it to the storage --to")
    parser.add_argument("--to", metavar="URL", help="of another storage")
    parser.add_argument("--yes", action="store_true", help="remove without asking")
    options = parser.parse_args(arguments)
    try:
        if (options.copy is None) != (options.to is None):
            raise SlicewiseError("--copy STUDY and --to URL belong together")
        if options.remove is not None:
            remove(options.remove, options.storage, options.yes)
        elif options.copy is not None:
            copy(options.copy, options.storage, options.to)
        else:
            show(options.storage, Console(highlight=False))
    except (Exception, KeyboardInterrupt) as error:
        return exit_code_of(error)
    return 0


def _cells(study: optuna.Study) -> list[str]:
    trials = study.get_trials(deepcopy=False)
    counts = {state: sum(t.state is state for t in trials) for state in TrialState}
    best = "-"
    if counts[TrialState.COMPLETE]:
        values = zip(objective_names(study), ranked(study)[0].values, strict=True)
        best = ", ".join(f"{name} {metric_shown(name, value)}" for name, value in values)
    last = _last(study)
    when = "-" if last == datetime.min else f"{last:%Y-%m-%d %H:%M}"
    folder = study_folder(study)
    size = _size(folder) if folder.is_dir() else "-"
    return [_state(study), best, counted(counts) or "none", when, size]


def _state(study: optuna.Study) -> str:
    if seems_swept(study):
        return "running"
    if reason_stopped(study) is not None:
        return "stopped"
    return "finished" if is_finished(study) else "unfinished"


def _last(study: optuna.Study) -> datetime:
    """When something last began or ended."""
    trials = study.get_trials(deepcopy=False)
    times = [time for t in trials for time in (t.datetime_start, t.datetime_complete) if time]
    return max(times, default=datetime.min)


def _own_folder(study: optuna.Study) -> Path | None:
    """The study's folder, where it is there, and nothing but the study's."""
    folder, here = study_folder(study), Path.cwd()
    file = storage_file(study._storage)
    shared = file is not None and len(optuna.get_all_study_names(study._storage)) > 1
    holds_storage = file is not None and file.absolute().is_relative_to(folder)
    if not folder.is_dir() or here.is_relative_to(folder) or (shared and holds_storage):
        return None
    names = set(optuna.get_all_study_names(study._storage)) - {study.study_name}
    others = (study_folder(load_study(name, study._storage)) for name in names)
    return None if any(other.is_relative_to(folder) for other in others) else folder


def _size(folder: Path) -> str:
    size = float(sum(p.lstat().st_size for p in folder.rglob("*") if not p.is_dir()))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _ask(question: str, yes: tuple[str, ...]) -> None:
    """Goes on after the right answer alone.

    Raises:
        SlicewiseError: It was another, or none.
    """
    try:
        answer = input(question)
    except EOFError:
        answer = ""
    if answer.strip() not in yes:
        raise SlicewiseError("nothing is removed; without questions: --yes")


if __name__ == "__main__":
    sys.exit(main())
