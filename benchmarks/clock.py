"""When the steps of a fit were taken: a Lightning callback for the benchmarks of whole sweeps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

CLOCK_NAME = "clock.json"


class Clock(Callback):
    """Writes when the first step began and the last one ended, as seconds since the epoch.

    And the seconds of all validations, and of those that lie between two steps; each ends with its
    losses fetched from the device.

    Args:
        directory: The trial's.
    """

    once_for_several_steps = True

    def __init__(self, directory: str) -> None:
        self._path = Path(directory) / CLOCK_NAME
        self._began: float | None = None
        self._ended = 0.0
        self._validation = 0.0
        self._validating = self._between = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        if self._began is None:
            self._began = time.time()

    def on_train_batch_end(self, *_: Any) -> None:
        self._ended, self._between = time.time(), self._validating

    def on_validation_start(self, *_: Any) -> None:
        self._validation = time.time()

    def on_validation_end(self, *_: Any) -> None:
        self._validating += time.time() - self._validation

    def on_train_end(self, *_: Any) -> None:
        times = {"began": self._began, "ended": self._ended}
        times |= {"validating": self._validating, "between": self._between}
        self._path.write_text(json.dumps(times))
