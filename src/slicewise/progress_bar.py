"""A progress bar that counts optimizer steps, where a batch of Lightning's is several."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import RichProgressBar


class StepProgressBar(RichProgressBar):
    """Lightning's own bar, in batches of training and of validation, each of which is a step.

    Where `slicewise.steps` hands over several batches as one, Lightning counts it as one. And where
    the number of steps ends a fit, the last epoch has only those that are left.

    Args:
        arguments: As Lightning's.
    """

    @property
    def total_train_batches(self) -> int | float:
        trainer = self.trainer
        batches = trainer.num_training_batches * _train_at_once(trainer)
        if trainer.max_steps == -1:
            return batches
        each = trainer.accumulate_grad_batches
        before = trainer.current_epoch * math.ceil(batches / each)
        return min(batches, (trainer.max_steps - before) * each)

    @property
    def total_val_batches_current_dataloader(self) -> int | float:
        return super().total_val_batches_current_dataloader * _valid_at_once(self.trainer)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        last = (batch_idx + 1) * _train_at_once(trainer) - 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, last)

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        last = (batch_idx + 1) * _valid_at_once(trainer) - 1
        super().on_validation_batch_end(trainer, pl_module, outputs, batch, last, dataloader_idx)


def _train_at_once(trainer: lightning.Trainer) -> int:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return getattr(data, "at_once", None) or 1


def _valid_at_once(trainer: lightning.Trainer) -> int:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return getattr(data, "valid_at_once", None) or 1
