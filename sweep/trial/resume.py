"""Going on with a fit where it stopped: its checkpoint, in the trial's own directory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from sweep.trial.active import active_trial
from sweep.trial.checkpoint import CHECKPOINT
from sweep.trial.lockstep import agreed
from sweep.trial.metrics_file import MetricsFile, save_rows
from sweep.trial.outcome import TrialLost


class BetweenSteps(Callback):
    """Calls `between_steps` wherever a checkpoint would miss nothing.

    Not while gradients accumulate, which are no part of it. Not between a batch and its
    validation, which Lightning would take for done when it goes on. After an epoch's last batch,
    only at the epoch's end: from before it Lightning would go on past all ends. Not after the last
    of `max_steps`, where little is left to do.
    """

    once_for_several_steps = True

    def between_steps(self, trainer: lightning.Trainer) -> None:
        """The fit rests."""

    def once_logged(self, trainer: lightning.Trainer) -> None:
        """Lightning has logged the step since: before the next one, and at an epoch's end."""

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: object,
        batch_idx: int,
    ) -> None:
        self.once_logged(trainer)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        loop = trainer.fit_loop.epoch_loop
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        if not (
            loop._should_accumulate()
            or loop._should_check_val_fx(fetcher)
            or loop._is_training_done
        ):
            self.between_steps(trainer)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self.between_steps(trainer)

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.global_step != trainer.max_steps:
            self.between_steps(trainer)
        self.once_logged(trainer)


class ResumePoint(BetweenSteps):
    """Saves the state of the fit from time to time: student, optimizer, place in the data.

    The teacher is no part of it. A fit that resumes ends with the weights of one that never
    stopped, to the bit, and with its rows: a checkpoint takes its place once Lightning has logged
    the step that it was saved after, and that row is on the disk.

    Args:
        every_seconds: Between two checkpoints.
    """

    def __init__(self, every_seconds: float = 30.0) -> None:
        self.every_seconds = every_seconds
        self._step = 0
        self._saved = time.monotonic()
        # A checkpoint that has not taken its place.
        self._unfinished: Path | None = None

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._saved = time.monotonic()
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.drop_after(self._step)

    def between_steps(self, trainer: lightning.Trainer) -> None:
        if agreed(lambda: time.monotonic() - self._saved >= self.every_seconds):
            self.save(trainer)

    def once_logged(self, trainer: lightning.Trainer) -> None:
        self._finish(trainer)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        self._finish(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Saves now; the old checkpoint stays until the new one is whole, and its step logged.

        Raises:
            TrialLost: The trial has been given to another worker.
        """
        active = active_trial()
        if active is not None and agreed(active.is_lost, may_wait=True):
            raise TrialLost
        self._step = trainer.global_step
        path = Path(trainer.default_root_dir) / CHECKPOINT
        self._unfinished = path.with_suffix(f".{os.getpid()}")
        trainer.save_checkpoint(self._unfinished, weights_only=False)
        self._saved = time.monotonic()

    def _finish(self, trainer: lightning.Trainer) -> None:
        """Has the checkpoint that was saved last take its place, if it has not."""
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is None:
            return
        # Rows past the checkpoint can be dropped; missing ones before it would stay missing.
        save_rows(trainer.loggers)
        if trainer.is_global_zero:
            unfinished.replace(unfinished.with_name(CHECKPOINT.name))

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step = state_dict["step"]
