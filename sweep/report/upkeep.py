"""Notes and pictures of studies, kept where optuna-dashboard finds them: in their storage.

Written by who looks, not by who works: a note takes some milliseconds of the storage, and a trial
pays for none. What has been written stays for any other dashboard over the same storage.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from optuna_dashboard import save_note, save_plotly_graph_object
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from optuna_dashboard._note import get_note_from_system_attrs

from sweep.passwords import without_password
from sweep.report.figures import FRONTS, draw
from sweep.report.material import Material, read_material
from sweep.report.notes import is_signed, study_note, trial_note
from sweep.study.attributes import IDENTITY, PLAN, STOPPED
from sweep.study.places import study_folder
from sweep.study.presence import seems_swept
from sweep.study.storage import is_outage

log = logging.getLogger(__name__)

# While a sweep runs, pictures are drawn again when the study has grown by so much: one may be some
# hundred kB, and a journal keeps each that was ever written.
_GROWTH = 1.2
# Trials of a study that get a note, the best first: whoever asks for a study's attributes is given
# the notes of all.
_NOTES = 500
# Seconds between two looks at a storage, and how much of the time may be spent on it.
_PAUSE = 5.0
_SHARE = 0.05


class Upkeep:
    """Writes what has become new in a storage's studies.

    Nothing is written that is there already. A note that somebody has changed is theirs.

    Args:
        storage: The studies'.
        storage_url: For the commands that notes name.
        ended: Set when nothing more is to be written.
        writing: Held while something is: half a note would pass for one that somebody has changed.
    """

    def __init__(
        self,
        storage: BaseStorage,
        storage_url: str,
        ended: threading.Event | None = None,
        writing: threading.Lock | None = None,
    ) -> None:
        self._storage = storage
        self._ended = threading.Event() if ended is None else ended
        self._writing = threading.Lock() if writing is None else writing
        self._url = without_password(storage_url)
        # Of each study: how it stood when it was last written, and how many trials were drawn.
        self._written: dict[int, Any] = {}
        self._drawn: dict[int, int] = {}

    def refresh(self) -> None:
        """Looks at all studies once."""
        for name in optuna.get_all_study_names(self._storage):
            try:
                # With a sampler of its own: Optuna's default looks at all trials for each note.
                study = optuna.load_study(
                    study_name=name, storage=self._storage, sampler=RandomSampler()
                )
                self._refresh(study)
            except Exception as error:
                if is_outage(error):
                    raise
                # One that was removed meanwhile, or is of another version of this package.
                log.warning("No notes of study %s: %s", name, without_password(repr(error)))

    def keep_fresh(self) -> None:
        """Looks again and again, until it is told to end."""
        while not self._ended.is_set():
            began = time.monotonic()
            try:
                self.refresh()
            except Exception as error:
                log.warning("No notes for now: %s", without_password(repr(error)))
            self._ended.wait(max(_PAUSE, (time.monotonic() - began) / _SHARE))

    def _refresh(self, study: optuna.Study) -> None:
        trials = study.get_trials(deepcopy=False)
        if not trials or not {IDENTITY, PLAN}.intersection(study.user_attrs):
            # Not begun, or not a sweep's.
            return
        finished, is_swept = sum(t.state.is_finished() for t in trials), seems_swept(study)
        state = (finished, is_swept, study.user_attrs.get(STOPPED), study.user_attrs.get(PLAN))
        if self._written.get(study._study_id) == state:
            return
        material = read_material(study, study_folder(study), self._url)
        kept = self._storage.get_study_system_attrs(study._study_id)
        self._keep_note(study, None, study_note(material), kept)
        if finished >= _GROWTH * self._drawn.get(study._study_id, 0) or not is_swept:
            self._keep_pictures(study, material, kept)
            self._drawn[study._study_id] = finished
        for trial in [*material.ranking, *material.of(TrialState.FAIL)][:_NOTES]:
            if self._ended.is_set():
                return
            # Where its folder cannot be read, what was written where it could says more.
            again = bool(trial.record)
            note = trial_note(material, trial)
            self._keep_note(study, trial.trial._trial_id, note, kept, again)
        self._written[study._study_id] = state

    def _keep_note(
        self,
        study: optuna.Study,
        trial_id: int | None,
        note: str,
        kept: Mapping[str, Any],
        again: bool = True,
    ) -> None:
        """Writes a note where there is none, or another of ours.

        Args:
            study: Which.
            trial_id: Of a trial of it; None: the study's own note.
            note: Signed.
            kept: The study's system attributes.
            again: Whether also over another of ours.
        """

        def is_ours(attributes: Mapping[str, Any]) -> bool:
            there = get_note_from_system_attrs(attributes, trial_id)
            unchanged = there["version"] == 0 or (again and is_signed(there["body"]))
            return unchanged and there["body"] != note

        # Once more before it is written: somebody may have edited it while others were.
        if is_ours(kept) and is_ours(study._storage.get_study_system_attrs(study._study_id)):
            owner = study if trial_id is None else optuna.Trial(study, trial_id)
            self._write(save_note, owner, note)

    def _keep_pictures(
        self, study: optuna.Study, material: Material, kept: Mapping[str, Any]
    ) -> None:
        there = get_plotly_graph_objects(kept)
        for picture in draw(material, FRONTS):
            picture.figure.update_layout(title=picture.title, margin={"t": 100})
            if there.get(picture.name) != picture.figure.to_json():
                self._write(
                    save_plotly_graph_object, study, picture.figure, graph_object_id=picture.name
                )

    def _write(self, save: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        with self._writing:
            if not self._ended.is_set():
                save(*arguments, **named)
