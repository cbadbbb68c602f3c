"""The exponential moving average of a student's weights, instead of its last ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from slicewise.distiller import Distiller
from slicewise.errors import ArgumentError


class WeightAverage(Callback):
    """Validates, and ends, with averaged weights; trains with the others.

    Averages of the iterates of a descent have less noise than its last one (Polyak and Juditsky
    1992, https://doi.org/10.1137/0330046). This one follows the weights from the first step on; it
    forgets as fast as the number of steps allows, `min(decay, (1 + n) / (10 + n))` after n, so that
    short fits do not end near where they began (as TensorFlow's `ExponentialMovingAverage` does
    with `num_updates`).

    Lightning's `EMAWeightAveraging` copies the whole module, teacher and all.

    Args:
        decay: Weight of the average against one step's weights; 0.99 unless given: the average is
            that of the last hundred steps or so.

    Raises:
        ArgumentError: `decay` is not from 0 to below 1.

    Example:
        >>> from slicewise.data.noise import NoiseDataModule
        >>> from slicewise.students.approx import ApproximateAttention
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=8, num_attention_heads=2, intermediate_size=16)
        >>> student = ApproximateAttention(8, num_attention_heads=2, attention_hidden_size=4)
        >>> data = NoiseDataModule(8, batch_size=2, seq_length=4, train_batches=8, valid_batches=1)
        >>> trainer = lightning.Trainer(
        ...     max_epochs=1, accelerator="cpu", callbacks=[WeightAverage(decay=0.9)], logger=False,
        ...     enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(Distiller(teacher, student, seq_length=4), datamodule=data)
        >>> trainer.global_step  # The student now has the average of eight steps' weights.
        8
    """

    once_for_several_steps = True

    def __init__(self, decay: float = 0.99) -> None:
        if not 0 <= decay < 1:
            raise ArgumentError("decay", decay, "a number from 0 to below 1")
        self.decay = decay
        self._steps = 0
        self._average: dict[str, Tensor] = {}
        self._fit: tuple[lightning.Trainer, lightning.LightningModule] | None = None

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._fit = (trainer, pl_module)
        device = pl_module.device
        if not self._average:
            self._average = {name: p.detach().clone() for name, p in _weights(pl_module)}
        self._average = {name: p.to(device) for name, p in self._average.items()}

    def on_before_zero_grad(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: Optimizer,
    ) -> None:
        # Called after each step also where a batch has several (`slicewise.steps`).
        self._update()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        self._update()

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._swap(pl_module)

    def on_validation_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        # Before `on_validation_end`, where a checkpoint may be saved.
        self._swap(pl_module)

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._swap(pl_module)
        self._average, self._fit = {}, None

    def state_dict(self) -> dict[str, Any]:
        # A checkpoint may be saved by a callback that is called before this one.
        self._update()
        return {"steps": self._steps, "average": dict(self._average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._steps, self._average = state_dict["steps"], state_dict["average"]

    @torch.no_grad()
    def _update(self) -> None:
        """Takes in the weights after a step, once; not while gradients are being accumulated."""
        if self._fit is None or self._fit[0].global_step == self._steps:
            return
        self._steps = self._fit[0].global_step
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        weights = dict(_weights(self._fit[1]))
        averages = [self._average[name] for name in weights]
        # On a GPU one launch instead of one for each.
        torch._foreach_lerp_(averages, list(weights.values()), 1 - decay)

    @torch.no_grad()
    def _swap(self, pl_module: lightning.LightningModule) -> None:
        for name, weight in _weights(pl_module):
            if name in self._average:
                kept = weight.clone()
                weight.copy_(self._average[name])
                self._average[name].copy_(kept)


def _weights(pl_module: lightning.LightningModule) -> Iterator[tuple[str, Tensor]]:
    assert isinstance(pl_module, Distiller)
    return pl_module.student.named_parameters()
