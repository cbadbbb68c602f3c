"""Several training steps in one batch of Lightning's, each a single launch on a GPU.

Between two batches Lightning does about as much as a GPU does in a step of a small student. So it
is handed several batches as one, and the steps are taken here, by what Lightning calls manual
optimization; losses, weights and logged rows are those of a fit that takes them one by one.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as lightning
import torch
from pytorch_lightning.accelerators import CUDAAccelerator
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.trainer.connectors.checkpoint_connector import _CheckpointConnector
from torch import Tensor
from torch.optim import Optimizer

from slicewise.capturing import (
    FitFacts,
    settings_of,
    why_not_captured,
    why_one_by_one,
    why_update_outside,
)
from slicewise.cuda_graph import Captured, on_side_stream, own_stream
from slicewise.data.batch import Batch, BatchIndex
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.distiller import Distiller
from slicewise.errors import ArgumentError
from slicewise.fetched import Fetched
from slicewise.hooks import at_each_validation_batch
from slicewise.logged import log_value
from slicewise.targets import CachedTargets

log = logging.getLogger(__name__)

# Above it, Lightning's part is too small to matter, and a fit would be long in stopping.
_MOST_AT_ONCE = 64
_SCHEDULED = "its schedule changes more than the learning rate"
# Shapes of students for which one process keeps compiled code.
_MAX_SHAPES = 64


class _Parts(NamedTuple):
    """What a step is made of; not modules of the distiller, whose weights would count twice.

    Attributes:
        teacher: (B, T, H) and mask to the target, (B, T, H).
        student: The same to the prediction.
        loss: Of prediction and target, over the tokens that count.
        step: (B, T, H), mask, and target if it is known, to loss and target.
    """

    teacher: Callable[..., Tensor]
    student: Callable[..., Tensor]
    loss: Callable[..., Tensor]
    step: Callable[..., tuple[Tensor, ...]]


class _Rows(NamedTuple):
    """Losses that are to be logged.

    Attributes:
        epoch: Of all of them.
        steps: Of each, its step.
        losses: Of each, on its way from the device.
    """

    epoch: int
    steps: list[int]
    losses: Fetched

    @classmethod
    def of(cls, epoch: int, losses: dict[int, Tensor]) -> _Rows | None:
        """Has them fetched, all at once; None where there are none."""
        if not losses:
            return None
        return cls(epoch, list(losses), Fetched.behind(torch.stack(list(losses.values()))))


class ManualDistiller(Distiller):
    """A `Distiller` whose batches are several: the indices of those it is to take steps on.

    Callbacks are called once for all steps of a batch, but for `on_before_zero_grad`, which sees
    the weights after each step.

    Args:
        arguments: As `Distiller` takes them.
        at_once: Steps in a batch of Lightning's.
        capture: Whether the steps run as CUDA graphs; see `slicewise.cuda_graph`.
        compile: Whether student and teacher are compiled by `torch.compile`.
        gradient_clip_val: As the Trainer's, which takes none with manual optimization.
        gradient_clip_algorithm: As the Trainer's.
    """

    def __init__(
        self,
        *arguments: Any,
        at_once: int = 1,
        capture: bool = False,
        compile: bool = False,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)
        if named.get("targets") is None:
            self.targets = CachedTargets(self._ask_teacher, keep_valid=False)
        self.automatic_optimization = False
        self.at_once = at_once
        self.capture = capture
        self.compiles = compile
        self.gradient_clip_val = gradient_clip_val or 0.0
        self.gradient_clip_algorithm = gradient_clip_algorithm or "norm"
        self._steps_in_graph = False
        self._recorded_settings: list[dict[str, Any]] | None = None
        self._parts: _Parts | None = None
        self._teachers_stream: torch.cuda.Stream | None = None
        self._unlogged: _Rows | None = None

    def __getstate__(self) -> dict[str, Any]:
        own = ("_parts", "_teachers_stream", "_unlogged")
        return {**super().__getstate__(), **dict.fromkeys(own)}

    @property
    def total_steps(self) -> float:
        trainer = self.trainer
        total: float = trainer.estimated_stepping_batches  # Loads what counts the batches.
        if trainer.max_epochs is None or trainer.max_epochs == -1:
            return total
        steps = trainer.num_training_batches * self.at_once * max(trainer.max_epochs, 1)
        return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.capture:
            reason = why_update_outside(self._optimizer())
            if reason is not None:
                log.info("Captured steps end before the optimizer's update: %s", reason)
        self._record(with_optimizer=self.capture and _make_capturable(self._optimizer()))

    def _record(self, with_optimizer: bool) -> None:
        """Prepares the steps from here on; a graph is recorded after some of them.

        Args:
            with_optimizer: Whether the graph holds the optimizer's step too. It goes on with the
                settings that it was recorded with, but for the learning rate.
        """
        self._steps_in_graph = with_optimizer
        self._recorded_settings = settings_of(self._optimizer()) if with_optimizer else None
        teacher: Callable[..., Tensor] = self.teacher
        student: Callable[..., Tensor] = self.student
        loss: Callable[..., Tensor] = self.loss
        step: Callable[..., tuple[Tensor, ...]] = self._step
        if self.compiles:
            # Students of a sweep differ: each shape is compiled by itself.
            torch._dynamo.config.recompile_limit = _MAX_SHAPES
            teacher, student = torch.compile(teacher), torch.compile(student)
            loss = torch.compile(loss)
        if self.capture:
            step = Captured(step, "the training step")
        self._parts = _Parts(teacher, student, loss, step)

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self._log_rows()

    def on_train_epoch_end(self) -> None:
        self._log_rows()

    def on_train_end(self) -> None:
        self._log_rows()
        self._end_own_work()
        # A graph keeps its memory as long as it is there.
        self._parts = None

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.capture:
            # Anew in each run of the Trainer, after which the weights may be elsewhere.
            self._evaluate = Captured(self._losses_of, "a validation's batch", warm_up=1)

    def teardown(self, stage: str) -> None:
        self._end_own_work()
        self._evaluate = self._losses_of

    def let_go(self) -> None:
        self._end_own_work()
        # Else Python's search for garbage finds the graphs, whenever it comes to it.
        self._parts, self._evaluate = None, self._losses_of

    def _end_own_work(self) -> None:
        """Before graphs go: the seed that they read lies in memory which the next one may have."""
        if self.device.type == "cuda":
            # A GPU that refuses all work has said so already, or will.
            with contextlib.suppress(RuntimeError):
                torch.cuda.current_stream(self.device).synchronize()

    def validation_step(self, batch: Batch | tuple[BatchIndex, ...], batch_idx: int) -> None:
        if isinstance(batch, Batch):
            self._validate(batch)
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        for index in batch:
            self._validate(data.kept_batch(index, self.device))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        self._log_rows()
        checkpoint["at_once"] = self.at_once

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Each step sets its seed itself."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The pause is where the steps are launched."""

    def on_validation_model_zero_grad(self) -> None:
        """Lightning's gives up the gradients, which a graph will write to again."""

    def training_step(  # type: ignore[override]
        self, batch: tuple[BatchIndex, ...], batch_idx: int
    ) -> Tensor:
        trainer: Any = self.trainer
        loop = trainer.fit_loop.epoch_loop
        optimizer, scheduler = self._optimizer(), self.lr_schedulers()
        taken = loop.manual_optimization.optim_step_progress
        first = loop.total_batch_idx * self.at_once
        logged: dict[int, Tensor] = {}
        for step, index in enumerate(batch, first):
            loss = self._take_step(index, step)
            if self.capture and not self._steps_in_graph:
                optimizer.step()
            taken.increment_ready()
            taken.increment_completed()
            if scheduler is not None:
                scheduler.step()  # type: ignore[union-attr]
                if self._recorded_settings not in (None, settings_of(optimizer)):
                    log.info("Captured steps end before the optimizer's update: %s", _SCHEDULED)
                    self._record(with_optimizer=False)
            for callback in trainer.callbacks:
                callback.on_before_zero_grad(trainer, self, optimizer)
            if self._is_logged(step):
                logged[step] = loss.clone()
        rows = _Rows.of(self.current_epoch, logged)
        # The steps are launched, and the device works.
        self.pause()
        # The number of the step, by which loggers go and the intervals between rows.
        loop._batches_that_stepped += self.at_once - 1
        # Those of the batch before: a device that had to be waited for would then have no work.
        self._log_rows()
        self._unlogged = rows
        # A bar is told the number, which waits for the device.
        has_bar = trainer.progress_bar_callback is not None
        log_value(self, self.train_name, loss, prog_bar=has_bar, logger=False)
        return loss.clone()

    def _take_step(self, index: BatchIndex, step: int) -> Tensor:
        """Makes a batch and learns from it; returns the loss, until the next step."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        batch = data.kept_batch(index, self.device)
        targets = self.targets
        shared = targets if isinstance(targets, CachedTargets) else None
        known = shared.find(batch) if shared is not None else targets(batch)
        self.seed_step(step)
        assert self._parts is not None
        loss, target_BTH = self._parts.step(batch.hidden_states, batch.attention_mask, known)
        self.baselines.count()
        if known is None and shared is not None:
            shared.keep(batch, target_BTH)
        return loss

    def _step(
        self, hidden_states: Tensor, attention_mask: Tensor | None, target: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """One step on (B, T, H); returns its loss and the target as it is kept, which the teacher
        makes where it is not known."""
        assert self._parts is not None
        optimizer = self._optimizer()
        # An update that is launched by itself reads the gradients where they lie, whichever of the
        # graphs has run: all of them write to one place.
        optimizer.zero_grad(set_to_none=self._steps_in_graph or not self.capture)
        # A graph runs teacher and student at once: neither fills a GPU.
        pending = None if target is not None else self._start_teacher(hidden_states, attention_mask)
        if self.device.type == "cuda" and (pending is not None or not self._is_recording):
            # A student may write to what it is given, and the teacher, or another fit on a stream
            # of its own, reads it meanwhile.
            own_mask = None if attention_mask is None else attention_mask.clone()
            prediction_BTH = self._parts.student(hidden_states.clone(), own_mask)
        else:
            prediction_BTH = self._parts.student(hidden_states, attention_mask)
        if pending is not None:
            (target,) = pending()
            assert isinstance(self.targets, CachedTargets)
            target = self.targets.rounded(target)
        assert target is not None
        learned_BTH = target.float()
        real_BT = None if attention_mask is None else attention_mask[:, 0, 0] >= 0
        loss = self._parts.loss(prediction_BTH, learned_BTH, real_BT)
        self.baselines.add(learned_BTH, real_BT)
        with torch.autocast(self.device.type, enabled=False):
            loss.backward()  # type: ignore[no-untyped-call]
            self._clip(optimizer)
            if self._steps_in_graph or not self.capture:
                optimizer.step()
        return loss.detach(), target

    def _start_teacher(self, *batch: Tensor | None) -> Callable[[], tuple[Tensor, ...]]:
        """Starts the teacher; what is returned waits for the target."""
        assert self._parts is not None
        teacher = self._parts.teacher
        # In recordings alone (see `Captured`): elsewhere it is launching that takes the time.
        if self._is_recording:
            if self._teachers_stream is None:
                self._teachers_stream = own_stream(self)
            return on_side_stream(self._teachers_stream, lambda *b: (teacher(*b),), *batch)
        target_BTH = teacher(*batch)
        return lambda: (target_BTH,)

    @property
    def _is_recording(self) -> bool:
        """Whether what is launched now becomes part of a graph."""
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def _clip(self, optimizer: Optimizer) -> None:
        plugin = self.trainer.precision_plugin
        if self.gradient_clip_val > 0:
            if self.gradient_clip_algorithm == "norm":
                plugin.clip_grad_by_norm(optimizer, self.gradient_clip_val)
            else:
                plugin.clip_grad_by_value(optimizer, self.gradient_clip_val)

    def _is_logged(self, step: int) -> bool:
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(self.trainer.loggers) and every > 0 and (step + 1) % every == 0

    def _log_rows(self) -> None:
        """The rows that Lightning would have logged between the steps."""
        rows, self._unlogged = self._unlogged, None
        if rows is None:
            return
        for step, value in zip(rows.steps, rows.losses.wait().tolist(), strict=True):
            row = {self.train_name: value, "epoch": rows.epoch}
            for logger in self.trainer.loggers:
                logger.log_metrics(row, step)
        for logger in self.trainer.loggers:
            logger.save()

    def _optimizer(self) -> Optimizer:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        return optimizer


def settled_steps(
    trainer: lightning.Trainer,
    data: HiddenStatesDataModule,
    at_once: int | str = "auto",
    capture: bool = True,
    compile: bool = False,
) -> tuple[int, bool]:
    """How `new_distiller` would take steps with these arguments; nothing is prepared for it.

    Returns:
        Steps in a batch of Lightning's, and whether they are captured.

    Raises:
        ArgumentError: `at_once` does not fit into what lies between two validations, steps
            cannot be taken but one by one, or a CPU's code cannot be compiled here.
    """
    facts = FitFacts.of(trainer)
    reason = why_one_by_one(facts)
    obstacle = None if reason is None else f" ({reason})"
    captured = capture and why_not_captured(facts) is None
    fitting = [1] if obstacle else _divisors(_steps_between_events(trainer, data), _MOST_AT_ONCE)
    if at_once == "auto":
        at_once = fitting[-1] if captured and facts.each_step is None else 1
    elif at_once not in fitting:
        allowed = ", ".join(map(str, fitting))
        raise ArgumentError("at_once", at_once, f"auto, {allowed}" + (obstacle or ""))
    assert isinstance(at_once, int)
    if compile and facts.device == "cpu":
        obstacle = obstacle or _missing_compiler()
    if compile and obstacle:
        raise ArgumentError("compile", True, "false" + obstacle)
    return at_once, captured


def new_distiller(
    trainer: lightning.Trainer,
    data: HiddenStatesDataModule,
    *arguments: Any,
    at_once: int | str = "auto",
    capture: bool = True,
    compile: bool = False,
    **named: Any,
) -> Distiller:
    """The distiller that is fast on the trainer's device; both are prepared for each other.

    Args:
        trainer: A Trainer that has not run yet.
        data: What it will train on.
        arguments, named: As `Distiller` takes them.
        at_once: Steps in a batch of Lightning's. `auto`: as many as divide what lies between two
            validations, up to 64, where steps are captured, else one; and one where a callback has
            to be called for each step (`slicewise.hooks`).
        capture: Whether CUDA graphs may be used: on one GPU, where nothing scales or
            accumulates gradients.
        compile: Whether student and teacher are compiled, which takes about a minute for each
            shape of student, and is kept by torch on this machine.

    Raises:
        ArgumentError: See `settled_steps`.
    """
    is_automatic, facts = at_once == "auto", FitFacts.of(trainer)
    at_once, captured = settled_steps(trainer, data, at_once, capture, compile)
    if isinstance(trainer.strategy.accelerator, CUDAAccelerator):
        trainer.strategy.accelerator = _KeepsMemory()
        trainer._checkpoint_connector.__class__ = _KeepsMemoryWhereItBegins
        if type(trainer.strategy).load_checkpoint is Strategy.load_checkpoint:
            loaded = partial(_load_checkpoint, trainer)
            trainer.strategy.load_checkpoint = loaded  # type: ignore[method-assign]
    if capture and not captured:
        _say_what_it_costs(facts)
    if captured and is_automatic and facts.each_step is not None:
        log.info("Lightning takes the steps one by one, to call %s at each", facts.each_step)
    if at_once == 1 and not (captured or compile):
        return Distiller(*arguments, **named)
    distiller = ManualDistiller(
        *arguments,
        at_once=at_once,
        capture=captured,
        compile=compile,
        gradient_clip_val=trainer.gradient_clip_val,
        gradient_clip_algorithm=trainer.gradient_clip_algorithm,
        **named,
    )
    trainer.gradient_clip_val = None
    _count_in_batches(trainer, data, at_once)
    data.at_once = at_once
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if trainer.limit_val_batches and at_each_validation_batch(callbacks) is None:
        # A validation is one batch, so that Lightning does nothing between its parts.
        data.valid_at_once = _validation_batches(trainer, data)
        trainer.limit_val_batches = 1.0
    return distiller


class _KeepsMemory(CUDAAccelerator):
    """Lightning's, but for that it leaves the memory of the GPU as it is before and after a run.

    It would give back all that torch keeps, which waits for the whole GPU, and the workspaces of
    matrix products with it: fits beside this one, and the next trial, would have to take them anew.
    """

    def setup(self, trainer: lightning.Trainer) -> None:
        self.set_nvidia_flags(trainer.local_rank)

    def teardown(self) -> None:
        pass


class _KeepsMemoryWhereItBegins(_CheckpointConnector):
    """Lightning's, which would give back all that torch keeps once a run has its checkpoint, and
    where it has none as well."""

    def resume_end(self) -> None:
        if self._ckpt_path:
            log.info("Goes on from the checkpoint at %s", self._ckpt_path)
        self._loaded_checkpoint = {}
        self.trainer.strategy.barrier("_CheckpointConnector.resume_end")


def _load_checkpoint(
    trainer: lightning.Trainer, path: str | Path, weights_only: bool | None = None
) -> dict[str, Any]:
    """As Lightning's strategies on one device do, after having all that torch keeps given back."""
    io = trainer.strategy.checkpoint_io
    return io.load_checkpoint(path, weights_only=weights_only)


def _say_what_it_costs(facts: FitFacts) -> None:
    """In one line, where there is a GPU that could do better."""
    if facts.device != "cuda":
        return
    remedy = "; trainer.precision=bf16-mixed would be captured" if facts.scales_gradients else ""
    log.warning(
        "Steps are launched kernel by kernel, which takes a small student about six times as long "
        "as captured ones: %s%s",
        why_not_captured(facts),
        remedy,
    )


def _missing_compiler() -> str | None:
    """What to do where torch finds nothing to compile with; None where it does."""
    # A second or two, of which only those know who compile.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "; torch.compile finds no C++ compiler: install g++, or set CXX"
    return None


def steps_of_epoch(trainer: lightning.Trainer, data: HiddenStatesDataModule) -> int:
    """How many steps an epoch has, as Lightning counts them."""
    steps, limit = data.train_batches // trainer.world_size, trainer.limit_train_batches
    return min(steps, limit) if isinstance(limit, int) else int(steps * limit)


def steps_to_validation(trainer: lightning.Trainer, data: HiddenStatesDataModule) -> int | None:
    """How many steps lie between two validations; None where a clock decides."""
    if trainer._val_check_time_interval is not None:  # type: ignore[attr-defined]
        return None
    interval = trainer.val_check_interval
    if isinstance(interval, int):
        return interval
    return max(1, int(steps_of_epoch(trainer, data) * interval))


def _validation_batches(trainer: lightning.Trainer, data: HiddenStatesDataModule) -> int:
    """How many batches a validation has, as Lightning counts them, on one rank."""
    limit = trainer.limit_val_batches
    if isinstance(limit, int):
        return min(data.valid_batches, limit)
    return int(data.valid_batches * limit)


def _steps_between_events(trainer: lightning.Trainer, data: HiddenStatesDataModule) -> int:
    """The most steps that fit, again and again, between all that must happen in between."""
    events = [steps_of_epoch(trainer, data), steps_to_validation(trainer, data)]
    events.append(trainer.max_steps if trainer.max_steps > 0 else None)
    return math.gcd(*(steps for steps in events if steps is not None))


def _count_in_batches(
    trainer: lightning.Trainer, data: HiddenStatesDataModule, at_once: int
) -> None:
    """What the trainer counts in batches, in those that hold so many steps."""
    steps, to_validation = steps_of_epoch(trainer, data), steps_to_validation(trainer, data)
    trainer.limit_train_batches = steps // at_once
    if to_validation is not None:
        trainer.val_check_interval = to_validation // at_once


def _divisors(number: int, most: int) -> list[int]:
    return [n for n in range(1, min(number, most) + 1) if number % n == 0] or [1]


def _make_capturable(optimizer: Optimizer) -> bool:
    """Lets a graph hold the optimizer's update, where it is the same then; says whether."""
    if why_update_outside(optimizer) is not None:
        return False
    for group in optimizer.param_groups:
        group["capturable"] = True
    return True
