"""A study copied with all that belongs to its trials, within a storage or into another one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

# What optuna-dashboard keeps of a trial, its note or a file, is under the trial's identifier.
_OF_A_TRIAL = re.compile(r"^(dashboard:(?:artifacts:)?)(\d+):")


def copy_study(
    study: optuna.Study,
    storage: BaseStorage,
    name: str,
    changed: Callable[[FrozenTrial], FrozenTrial] = lambda trial: trial,
    but: Collection[str] = (),
) -> optuna.Study:
    """Copies a study.

    Trials keep their numbers, and get other identifiers. `optuna.copy_study` leaves each note
    under the old one, where it is that of another trial.

    Args:
        study: Which.
        storage: Where the copy goes.
        name: The copy's.
        changed: A trial as the copy has it.
        but: User attributes of the study that the copy does not get.

    Raises:
        DuplicatedStudyError: There is one of that name.
    """
    new = optuna.create_study(study_name=name, storage=storage, directions=study.directions)
    for key, value in study.user_attrs.items():
        if key not in but:
            new.set_user_attr(key, value)
    for trial in study.get_trials(deepcopy=False):
        new.add_trial(changed(trial))
    identifiers = {
        str(old._trial_id): copied._trial_id
        for old, copied in zip(study.get_trials(False), new.get_trials(False), strict=True)
    }

    def renamed(found: re.Match[str]) -> str:
        return f"{found[1]}{identifiers.get(found[2], found[2])}:"

    for key, value in study._storage.get_study_system_attrs(study._study_id).items():
        # Genetic samplers keep trials there by identifiers, and find them again.
        if ":parent:" not in key:
            storage.set_study_system_attr(new._study_id, _OF_A_TRIAL.sub(renamed, key), value)
    return new
