"""`debug=profile`: where the time of a fit goes."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path

import torch.profiler
from pytorch_lightning.profilers import PyTorchProfiler, SimpleProfiler

log = logging.getLogger(__name__)

FOLDER = "profile"


class Profilers(PyTorchProfiler):
    """Lightning's profiler and torch's in one, as a Trainer takes one.

    Lightning's sums up what the Trainer called and for how long, over the whole fit
    (`fit-lightning.txt`). Torch's records every operation of three steps of the training and of
    the validation, after two each that warm up: `fit-torch.txt`, and a trace of each for a viewer.

    Args:
        directory: The trial's; all is written to `profile/` in it.
    """

    def __init__(self, directory: str) -> None:
        self.folder = Path(directory) / FOLDER
        super().__init__(
            dirpath=self.folder,
            filename="torch",
            # As by default; a schedule of one's own is kept where a validation is shorter.
            schedule=torch.profiler.schedule(wait=1, warmup=1, active=3),
            on_trace_ready=self._export,
            # The table is about both.
            acc_events=True,
        )
        self._lightnings = SimpleProfiler(dirpath=self.folder, filename="lightning")

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lightnings.setup(stage, local_rank, log_dir)
        super().setup(stage, local_rank, log_dir)

    def start(self, action_name: str) -> None:
        self._lightnings.start(action_name)
        super().start(action_name)

    def stop(self, action_name: str) -> None:
        super().stop(action_name)
        # Torch's own stops what is still open once more, when it is torn down.
        if action_name in self._lightnings.current_actions:
            self._lightnings.stop(action_name)

    def describe(self) -> None:
        """Writes the tables, and says how all is opened."""
        stage = self._stage
        super().describe()
        self._lightnings.describe()
        if stage != "fit" or self.local_rank != 0:
            return
        log.info("Where the time went: less %s", self._shown("fit-*.txt"))
        log.info(
            "Step by step: python -m webbrowser https://ui.perfetto.dev, and open there %s",
            self._shown("*_step*.json"),
        )

    def _export(self, profiler: torch.profiler.profile) -> None:
        """Writes the trace of the steps that have just been recorded."""
        assert self._schedule is not None
        step = "training_step" if self._schedule.is_training else "validation_step"
        # Of one rank its name alone.
        rank = "" if self._local_rank is None else f"-{self._local_rank}"
        profiler.export_chrome_trace(str(self.folder / f"{step}{rank}.json"))

    def _shown(self, pattern: str) -> str:
        found = sorted(os.path.relpath(path) for path in self.folder.glob(pattern))
        return " ".join(map(shlex.quote, found))
