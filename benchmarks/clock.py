"""When the steps of a fit were taken: a Lightning callback for benchmarks/gap.py."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import Callback

CLOCK_NAME = "clock.json"


class Clock(Callback):
    """Writes when the first step began and the last one ended, as seconds since the epoch.

    Args:
        directory: The trial's.
    """

    def __init__(self, directory: str) -> None:
        self._path = Path(directory) / CLOCK_NAME
        self._began: float | None = None
        self._ended = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        if self._began is None:
            self._began = time.time()

    def on_train_batch_end(self, *_: Any) -> None:
        self._ended = time.time()

    def on_train_end(self, *_: Any) -> None:
        self._path.write_text(json.dumps({"began": self._began, "ended": self._ended}))
