"""Says how far a fit is, while it runs; `sweep.watch` reads it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from slicewise.distiller import Distiller
from slicewise.fetched import Fetched
from sweep.trial.pulse import Pulse, remove_pulse
from sweep.trial.task import Part


class LiveProgress(Callback):
    """Keeps `progress.json` in a trial's directory, on rank 0, until the fit ends or stops.

    Args:
        directory: The trial's.
        every_seconds: Between two writes. A GPU's loss is fetched first, and written after one of
            the next batches: to wait for it would leave the GPU without work.
        part: Which of the trial's fits it is.
    """

    once_for_several_steps = True

    def __init__(
        self, directory: Path, every_seconds: float = 0.5, *, part: Part | None = None
    ) -> None:
        self.directory = directory
        self.every_seconds = every_seconds
        self._part = part or Part(0, 1)
        self._pulse = Pulse(0, None)
        self._loss: Fetched | None = None
        self._began = self._wrote = time.monotonic()

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        total = _total_steps(trainer, pl_module)
        self._began = self._wrote = time.monotonic()
        self._pulse = Pulse(
            trainer.global_step,
            int(total) if math.isfinite(total) else None,
            part=self._part.index,
            parts=self._part.count,
        )
        self._write(trainer)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: object,
        batch_idx: int,
    ) -> None:
        now = time.monotonic()
        seconds = now - self._wrote
        if seconds < self.every_seconds:
            return
        self._loss = self._loss or _loss_of(outputs)
        if self._loss is not None and not self._loss.is_there():
            return
        pulse, before = self._pulse, self._pulse.steps_per_second
        rate = (trainer.global_step - pulse.step) / seconds
        # Half of what was: it neither jumps nor lags for long.
        pulse.steps_per_second = rate if before is None else (before + rate) / 2
        pulse.step = trainer.global_step
        pulse.loss = None if self._loss is None else self._loss.wait().item()
        self._loss = None
        self._write(trainer)

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._pulse.validating = True
        self._write(trainer)

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        # The seconds that it took are no part of the steps' speed.
        self._wrote = time.monotonic()
        self._pulse.step = trainer.global_step
        self._pulse.validating = False

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        self._end(trainer)

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        self._end(trainer)

    def _write(self, trainer: lightning.Trainer) -> None:
        self._wrote = time.monotonic()
        self._pulse.seconds = self._wrote - self._began
        if trainer.is_global_zero:
            self._pulse.write(self.directory)

    def _end(self, trainer: lightning.Trainer) -> None:
        if trainer.is_global_zero:
            remove_pulse(self.directory)


def _total_steps(trainer: lightning.Trainer, module: lightning.LightningModule) -> float:
    # Lightning counts batches, each of which may be several steps of a distiller.
    return (
        module.total_steps if isinstance(module, Distiller) else trainer.estimated_stepping_batches
    )


def _loss_of(outputs: Any) -> Fetched | None:
    """The loss out of what a training step returned."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        return None
    return Fetched.behind(loss)
