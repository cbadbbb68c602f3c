"""Monitors the study beside a worker's trials: does the sweep live, who has died."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from sweep.study.attributes import WORKER, worker_of
from sweep.study.presence import (
    SWEEP_HEARTBEAT_SECONDS,
    HeartbeatMonitor,
    process_is_gone,
    process_is_here,
    read_heartbeats,
)
from sweep.trial.active import StudyTrial

log = logging.getLogger(__name__)

# How long a worker may take to stop whose sweep has ended: within ten seconds all is quiet.
_ORPHAN_SECONDS = 6.0


class Lookout:
    """Monitors the study while trials run: is the sweep there, who died, are our trials ours?"""

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        name: str,
        sweep: str,
        heartbeat: float,
    ) -> None:
        self.stop = threading.Event()
        self._study = study
        self._storage = storage
        self._name = name
        self._sweep = sweep
        self._workers = HeartbeatMonitor(heartbeat)
        self._sweeps = HeartbeatMonitor(max(heartbeat, SWEEP_HEARTBEAT_SECONDS))
        self._dead: set[str] = set()
        self._orphaned: float | None = None
        self._active: list[StudyTrial] = []

    def check(self) -> None:
        """One round."""
        self._dead = self._workers.dead(read_heartbeats(self._study, "worker"))
        sweeps = read_heartbeats(self._study, "sweep")
        dead_sweeps = self._sweeps.dead(sweeps)
        sweep = sweeps[self._sweep]
        # A process of this machine is seen to live, even if it is too busy to show itself, or
        # suspended by Ctrl-Z.
        lives = sweep.state == "alive" and process_is_here(sweep)
        if sweep.stop or (self._sweep in dead_sweeps and not lives):
            if self._orphaned is None:
                self._orphaned = time.monotonic()
                log.warning("The sweep has ended; this worker stops")
            self.stop.set()
            if time.monotonic() - self._orphaned > _ORPHAN_SECONDS:
                # Between two batches lies a long validation, or an import: its trial is put back
                # as that of any dead worker.
                log.warning("No batch has ended since; this worker ends")
                logging.shutdown()
                os._exit(1)
        for active in list(self._active):
            asked = time.monotonic()
            stored = self._storage.get_trial(active.trial._trial_id)
            if worker_of(stored.user_attrs.get(WORKER, "")) != self._name:
                active.abandoned.set()
            elif stored.state is TrialState.RUNNING:
                active.confirm(asked)

    def dead_workers(self) -> set[str]:
        """Workers that no longer live; those of this machine as of this moment."""
        signs = read_heartbeats(self._study, "worker")
        gone = {
            name for name, sign in signs.items() if sign.state != "alive" or process_is_gone(sign)
        }
        return (self._dead | gone) - {self._name}

    @contextlib.contextmanager
    def over(self, active: StudyTrial) -> Iterator[None]:
        """Watches over one trial."""
        self._active.append(active)
        try:
            yield
        finally:
            self._active.remove(active)
