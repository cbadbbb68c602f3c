"""Where a study and its trials lie on disk, wherever they have been moved to meanwhile.

What a study remembers are paths of the machine and the day on which its sweep ran. A folder that
has been moved or copied together with its SQLite storage is found beside it.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from sweep.study.attributes import DIRECTORY
from sweep.study.plan import Plan, read_plan
from sweep.study.storage import storage_file


def study_folder(study: optuna.Study) -> Path:
    """The folder of a study, as far as it is known."""
    plan = read_plan(study)
    database = storage_file(study._storage)
    if plan.beside_storage is not None and database is not None:
        return (database.parent / plan.beside_storage).absolute()
    remembered = _remembered(study, plan)
    if remembered is None:
        return Path("multirun", study.study_name).absolute()
    if not remembered.is_dir() and database is not None:
        moved = (database.parent / remembered.name).absolute()
        return moved if moved.is_dir() else remembered
    return remembered


def trial_folder(study: optuna.Study, trial: FrozenTrial, folder: Path | None = None) -> Path:
    """The folder of a trial.

    Args:
        study: Its study.
        trial: Which.
        folder: The study's; `study_folder` unless given.
    """
    folder = study_folder(study) if folder is None else folder
    remembered = trial.user_attrs.get(DIRECTORY)
    if remembered is None:
        return folder / str(trial.number)
    path, plan = Path(remembered), read_plan(study)
    for before in (_remembered(study, plan), *map(Path, plan.earlier)):
        if before is not None and path.is_relative_to(before):
            # Wherever the study's folder is now.
            return folder / path.relative_to(before)
    return path


def beside_storage(study: optuna.Study, folder: Path) -> str | None:
    """The study's folder as seen from its SQLite file, where it lies beside or below it."""
    database = storage_file(study._storage)
    if database is None or not folder.is_relative_to(database.absolute().parent):
        return None
    return str(folder.relative_to(database.absolute().parent))


def rerun_command(place: Path, start: Path | None = None) -> str:
    """The command that repeats a trial, for a shell in the folder `start`, by default this one."""
    return shlex.join(["python", "-m", "sweep.rerun", os.path.relpath(place, start)])


def _remembered(study: optuna.Study, plan: Plan) -> Path | None:
    """The study's folder when its sweep ran."""
    if plan.directory is not None:
        return Path(plan.directory)
    for trial in study.get_trials(deepcopy=False):
        if DIRECTORY in trial.user_attrs:
            return Path(trial.user_attrs[DIRECTORY]).parent
    return None
