"""The fit: a student learns the hidden states of a teacher slice.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from slicewise.baselines import Baselines
from slicewise.capturing import hold_rates_on
from slicewise.data.batch import Batch
from slicewise.logged import log_value
from slicewise.losses import Loss, l1_loss, settled
from slicewise.students.base import Student
from slicewise.teacher import TeacherSlice
from slicewise.validation import ValidationLosses, batch_losses, losses_by

OptimizerFactory = Callable[[Iterable[Parameter]], Optimizer]
SchedulerFactory = Callable[..., LRScheduler]
Targets = Callable[[Batch], Tensor]


class Distiller(LightningModule):
    """Trains `student` to return what `teacher` returns, by L1 loss unless told otherwise.

    Learning a teacher's hidden states, and not its answers, is what FitNets began (Romero et al.
    2015, https://arxiv.org/abs/1412.6550) and TinyBERT did to BERT (Jiao et al. 2020,
    https://arxiv.org/abs/1909.10351), there by squared errors; the article's loss is L1.

    Logs `train_l1` for each step, and for each validation `valid_l1` and the baselines' losses
    on the same batches as `baseline/<name>`. By another loss, `train_loss` in the place of
    `train_l1`, and `valid_loss` and `baseline_loss/<name>` besides.

    Args:
        teacher: Frozen; it moves with the fit from device to device, but is no part of the
            module: no optimizer, checkpoint or gradient bucket ever sees it.
        student: What learns.
        seq_length: T, for the baselines.
        optimizer: Called with the student's parameters; unless given AdamW (Loshchilov and Hutter
            2019, https://arxiv.org/abs/1711.05101) with the article's learning rate of 1e-3 and
            weight decay of 1e-4.
        scheduler: Called with the optimizer and `total_steps=`, the length of the fit; stepped
            after every optimizer step. A constant learning rate unless given.
        targets: Gives the teacher's output for a batch; by asking the teacher unless given.
        seed: Of the dropout: every step seeds it anew from this and the number of its batch, so
            that a fit that stopped and went on ends where one that never stopped does.
        loss: What is learned by (`slicewise.losses`).

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from slicewise import Distiller
        >>> from slicewise.data.noise import NoiseDataModule
        >>> from slicewise.students.low_rank import LowRank
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> student = LowRank(**{**LowRank.sizes_from(teacher), "rank": 4})
        >>> trainer = Trainer(
        ...     accelerator="cpu",
        ...     max_epochs=1,
        ...     logger=False,
        ...     enable_checkpointing=False,
        ...     enable_progress_bar=False,
        ...     enable_model_summary=False,
        ... )
        >>> data = NoiseDataModule(24, batch_size=2, seq_length=5, train_batches=4)
        >>> trainer.fit(Distiller(teacher, student, seq_length=5), datamodule=data)
        >>> sorted(trainer.callback_metrics)  # doctest: +NORMALIZE_WHITESPACE
        ['baseline/input', 'baseline/position_mean', 'baseline/running_average', 'baseline/zero',
         'train_l1', 'valid_l1']

        Several steps in one batch of Lightning's, and CUDA graphs of them:
        `slicewise.steps.new_distiller`.
    """

    def __init__(
        self,
        teacher: TeacherSlice,
        student: Student,
        seq_length: int,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        targets: Targets | None = None,
        seed: int = 0,
        loss: Loss = l1_loss,
    ) -> None:
        super().__init__()
        # In a tuple, where nn.Module does not look for submodules.
        self._outside = (teacher,)
        self.student = student
        self.seq_length = seq_length
        self.baselines = Baselines(seq_length, teacher.hidden_size)
        self.optimizer_factory = optimizer or _article_optimizer
        self.scheduler_factory = scheduler
        self.targets = targets or self._ask_teacher
        self.seed = seed
        self.loss = settled(loss)
        self.train_name = "train_l1" if self.loss is l1_loss else "train_loss"
        # Called where the fit may rest, or has to wait for its device: other fits of this process,
        # each on a stack of its own, may go on meanwhile.
        self.pause: Callable[[], None] = _go_on
        self._losses = ValidationLosses()
        # From the tensors of a validation batch to its losses.
        self._evaluate: Callable[..., tuple[Tensor, ...]] = self._losses_of

    def __getstate__(self) -> dict[str, Any]:
        # What is recorded for a device goes with the weights that it reads.
        return {**super().__getstate__(), "_evaluate": self._losses_of}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """With its own weights, as callbacks make one to average them, and of the same teacher."""
        for shared in (self.teacher, self.optimizer_factory, self.scheduler_factory, self.pause):
            memo[id(shared)] = shared
        if self.targets != self._ask_teacher:
            memo[id(self.targets)] = self.targets
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call]
        return copied

    @property
    def teacher(self) -> TeacherSlice:
        return self._outside[0]

    @property
    def total_steps(self) -> float:
        """Optimizer steps of the whole fit; infinite where nothing but time ends it."""
        steps: float = self.trainer.estimated_stepping_batches
        return steps

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        prediction: Tensor = self.student(hidden_states, attention_mask)
        return prediction

    def setup(self, stage: str) -> None:
        device = self.trainer.strategy.root_device
        self.teacher.to(device)
        # Lightning's `deterministic` also fills all memory that is about to be written to.
        deterministic: Any = torch.utils.deterministic
        deterministic.fill_uninitialized_memory = False
        if stage == "fit":
            ranks = (self.trainer.global_rank, self.trainer.world_size)
            self.baselines = Baselines(self.seq_length, self.teacher.hidden_size, *ranks)
        self.baselines.to(device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.seed_step(self.trainer.fit_loop.epoch_loop.total_batch_idx)

    def seed_step(self, step: int) -> None:
        """Seeds the dropout of this rank's batch in a step, counted over all epochs."""
        # The batch's number over all ranks, which take turns.
        number = step * self.trainer.world_size + self.trainer.global_rank
        # Python's hash of integers is the same in every process.
        seed = hash((self.seed, number, 0)) % 2**63
        # Not torch.manual_seed: for each kind of device that is not there it formats a traceback,
        # which takes as long as a small step on a GPU.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index].manual_seed(seed)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # After all callbacks: nothing of the step is left to do.
        self.pause()

    def on_train_start(self) -> None:
        if self.device.type == "cuda":
            for optimizer in self.trainer.optimizers:
                hold_rates_on(self.device, optimizer)

    def on_validation_start(self) -> None:
        self.baselines.gather()
        self._losses = ValidationLosses()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["baselines"] = self.baselines.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.baselines.load_state_dict(checkpoint["baselines"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        target_BTH, real_BT = self.targets(batch), batch.real_tokens()
        self.baselines.update(target_BTH, real_BT)
        prediction_BTH = self(batch.hidden_states, batch.attention_mask)
        loss = self.loss(prediction_BTH, target_BTH, real_BT)
        self.log(self.train_name, loss, prog_bar=True, batch_size=len(target_BTH))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._validate(batch)

    def on_validation_epoch_end(self) -> None:
        several = self.trainer.world_size > 1
        means_M = self._losses.means(several)
        if not several:
            if self.device.type == "cuda":
                self.pause()
            # All at once; whoever reads one of them waits for nothing.
            means_M = means_M.cpu()
        for name, loss in zip(losses_by(self.loss), means_M, strict=True):
            shown = name == "valid_l1"
            if several:
                self.log(name, loss, prog_bar=shown, sync_dist=True, batch_size=1)
            else:
                log_value(self, name, loss, prog_bar=shown)

    def let_go(self) -> None:
        """Gives up what only a fit that goes on needs; for one that was broken off, of which
        Lightning tells callbacks alone."""

    def _validate(self, batch: Batch) -> None:
        """Takes the losses of one validation batch into those of the validation."""
        inputs = (batch.hidden_states, batch.attention_mask, self.targets(batch))
        constants = (self.baselines.mean_TH, self.baselines.running_TH)
        self._losses.add(*self._evaluate(*inputs, *constants))

    @torch.no_grad()
    def _losses_of(self, *tensors: Any) -> tuple[Tensor, Tensor]:
        """`batch_losses` of the student with its weights of the moment."""
        return batch_losses(self.student, self.loss, *tensors)

    def _ask_teacher(self, batch: Batch) -> Tensor:
        target_BTH: Tensor = self.teacher(batch.hidden_states, batch.attention_mask)
        return target_BTH

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_factory(self.student.parameters())
        # A fused optimizer would unscale gradients itself, after they are clipped, so Lightning
        # refuses to clip for it. This way Lightning unscales them, before.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        if self.scheduler_factory is None:
            return optimizer
        scheduler = self.scheduler_factory(optimizer, total_steps=int(self.total_steps))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def _go_on() -> None:
    """Where no other fit waits."""


def _article_optimizer(parameters: Iterable[Parameter]) -> Optimizer:
    return AdamW(parameters, lr=1e-3, weight_decay=1e-4)
