"""A progress bar that counts optimizer steps, where a batch of Lightning's is several."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import RichProgressBar


class StepProgressBar(RichProgressBar):
    """Lightning's own bar, in steps of training and batches of validation.

    Where `slicewise.steps` hands over several batches as one, Lightning counts it as one.

    Args:
        arguments: As Lightning's.
    """

    @property
    def total_train_batches(self) -> int | float:
        return super().total_train_batches * _train_at_once(self.trainer)

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
