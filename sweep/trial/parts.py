"""What a fit is made of, built from the settings of its trial.

Imports torch, Lightning and transformers.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import (
    Callback,
    Checkpoint,
    ModelCheckpoint,
    ModelPruning,
    ProgressBar,
    StochasticWeightAveraging,
    WeightAveraging,
)
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import nn

from slicewise.averaging import WeightAverage
from slicewise.cost import count_parameters
from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.distiller import OptimizerFactory, SchedulerFactory
from slicewise.errors import ArgumentError, MissingResource, SlicewiseError
from slicewise.losses import Loss
from slicewise.progress_bar import StepProgressBar
from slicewise.steps import steps_of_epoch, steps_to_validation
from slicewise.students.base import Student
from slicewise.students.folder import target_of
from slicewise.teacher import TeacherSlice
from slicewise.trust import name_of
from slicewise.waiting import waiting_for
from sweep.trial.build import build, mistakes_of
from sweep.trial.settings import DataSettings, FitSettings, Node

# What enters the slice, for students that begin with the teacher's weights or are solved for.
_CALIBRATION_TOKENS = 16_384
# What makes the student of an average of its weights; Lightning's do so after its last validation.
_LIGHTNINGS_AVERAGES = (StochasticWeightAveraging, WeightAveraging)
_AVERAGES = (WeightAverage, *_LIGHTNINGS_AVERAGES)


def load_teacher(node: Node) -> TeacherSlice:
    """The teacher; loaded once per process, not once per trial."""
    return _teacher(json.dumps(node))


@functools.lru_cache(maxsize=2)
def _teacher(node: str) -> TeacherSlice:
    """A teacher is loaded once per process, not once per trial."""
    settings = json.loads(node)
    place = settings.get("pretrained")
    with waiting_for("Loading the teacher" if place is None else f"Loading the teacher {place}"):
        teacher: TeacherSlice = build("teacher", settings)
    return teacher


def build_student(
    node: Node,
    teacher: TeacherSlice,
    batches: Iterable[Batch] = (),
    max_parameters: int | None = None,
) -> Student:
    """The student with its first weights.

    Args:
        node: As `new_student` takes it.
        teacher: The slice to stand in for.
        batches: What enters the slice, for first weights that come from the teacher; not read
            where they are random.
        max_parameters: How large it may be; None: as large as it is.

    Raises:
        ArgumentError, SlicewiseError: As `new_student`; also where it cannot take the teacher's
            weights.
    """
    student, init = new_student(node, teacher, max_parameters)
    start_student(student, init, teacher, batches)
    return student


def start_student(
    student: Student, init: str, teacher: TeacherSlice, batches: Iterable[Batch] = ()
) -> None:
    """Gives a student its first weights.

    Args:
        student: As `new_student` makes it, with what `init` is; it stays where it is.
        init: Where they come from.
        teacher: The slice to stand in for. It computes where it is: no two devices compute the
            same to the bit.
        batches: As `build_student` takes them.

    Raises:
        SlicewiseError: It cannot take the teacher's weights.
    """
    if init == "teacher":
        with named_within("student"), waiting_for("Finding first weights in the teacher's"):
            student.start_from(teacher, batches)


def new_student(
    node: Node, teacher: TeacherSlice, max_parameters: int | None = None
) -> tuple[Student, str]:
    """The student as its constructor leaves it, and where its first weights shall come from.

    Args:
        node: What builds it; sizes that are null are the teacher's. `init`: see
            `Student.initialisations`.
        teacher: The slice to stand in for.
        max_parameters: How large it may be; None: as large as it is.

    Raises:
        ArgumentError: It does not take or give what the teacher does, or `student.init` is not
            one of its family's.
        SlicewiseError: It is larger than the objective allows.
    """
    node = dict(node)
    family = build("student", {"_target_": node["_target_"], "_partial_": True}).func
    if not (isinstance(family, type) and issubclass(family, Student)):
        raise ArgumentError("student._target_", node["_target_"], "a subclass of Student")
    with mistakes_of("student"):
        target_of(family)  # Before any time is spent on what could not be saved.
    init = node.pop("init", family.initialisations[0])
    if init not in family.initialisations:
        raise ArgumentError("student.init", init, " or ".join(family.initialisations))
    sizes = family.sizes_from(teacher)
    for key in ("input_dim", "output_dim"):
        if key in sizes and node.get(key) not in (None, sizes[key]):
            raise ArgumentError(
                f"student.{key}",
                node[key],
                f"null or {sizes[key]}, the hidden size of the teacher",
            )
    from_teacher = {key: size for key, size in sizes.items() if node.get(key) is None}
    student: Student = build("student", node, **from_teacher)
    _check_size(student, max_parameters)
    return student, str(init)


def new_data(settings: DataSettings, teacher: TeacherSlice) -> HiddenStatesDataModule:
    offered = {"teacher": teacher, "hidden_size": teacher.hidden_size}
    data = build("data", settings.node, offered=offered)
    if not isinstance(data, HiddenStatesDataModule):
        base = f"a subclass of {name_of(HiddenStatesDataModule)}"
        raise ArgumentError("data._target_", settings.node["_target_"], base)
    return data


def calibration(data: HiddenStatesDataModule) -> Iterator[Batch]:
    """The first training batches, on the CPU."""
    batch_size, seq_length, _ = data.size
    needed = max(1, _CALIBRATION_TOKENS // (batch_size * seq_length))
    for number in range(min(needed, data.train_batches)):
        yield data.make_batch(BatchIndex(Split.TRAIN, number), torch.device("cpu"))


def _check_size(student: Student, most: int | None) -> None:
    """Refuses a student larger than the objective allows, before anything is spent on it."""
    parameters = count_parameters(student)
    if most is not None and parameters > most:
        raise SlicewiseError(
            f"the student has {parameters:,} parameters, more than "
            f"objective.max_parameters={most:,}"
        )


def new_recipe(
    settings: FitSettings, student: nn.Module
) -> tuple[OptimizerFactory, SchedulerFactory | None]:
    """What makes the optimizer and the scheduler; tried once, so that a wrong value shows now."""
    make_optimizer = build("optimizer", settings.optimizer)
    with mistakes_of("optimizer"):
        # A student of nothing has no parameters, and no optimizer wants none.
        optimizer = make_optimizer([*student.parameters()] or [nn.Parameter(torch.empty(0))])
    if settings.scheduler is None:
        return make_optimizer, None
    make_scheduler = build("scheduler", settings.scheduler)
    with mistakes_of("scheduler"):
        make_scheduler(optimizer, total_steps=100)
    return make_optimizer, make_scheduler


def new_loss(node: Node) -> Loss:
    """What is learned by; tried once, so that a wrong value shows now.

    Raises:
        ArgumentError: It is no function of a prediction, its target and the tokens that count.
    """
    loss: Loss = build("loss", node)
    if not callable(loss):
        allowed = "a function of prediction, target and real tokens, with _partial_: true"
        raise ArgumentError("loss._target_", node["_target_"], allowed)
    x_BTH, real_BT = torch.ones(1, 2, 3), torch.tensor([[True, False]])
    with mistakes_of("loss"):
        found = loss(x_BTH, x_BTH / 2, real_BT)
    if not isinstance(found, torch.Tensor) or found.ndim:
        allowed = "what returns a tensor of one number"
        raise ArgumentError("loss._target_", node["_target_"], allowed)
    return loss


def quiet_lightning() -> None:
    """Lightning's advice, and its own use of torch, say nothing to the reader."""
    # The second tells with each fit which GPUs CUDA_VISIBLE_DEVICES names.
    for name in ("utilities.rank_zero", "accelerators.cuda"):
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="The number of training batches")
    # Those of a frozen part.
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")


def new_trainer(
    settings: FitSettings,
    callbacks: list[Callback],
    loggers: Sequence[Logger],
    directory: Path,
) -> lightning.Trainer:
    accelerator = settings.trainer.get("accelerator")
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise MissingResource(
            "trainer.accelerator", accelerator, "cpu or auto: torch finds no GPU on this machine"
        )
    shown = settings.trainer.get("enable_progress_bar", True)
    if shown and not any(isinstance(callback, ProgressBar) for callback in callbacks):
        # In the place of Lightning's, which would count batches that are several.
        callbacks = [*callbacks, StepProgressBar()]
    trainer: lightning.Trainer = build(
        "trainer",
        settings.trainer,
        logger=loggers or False,
        callbacks=callbacks,
        # Resuming is ResumePoint's; Lightning saves what a callback of its own is asked to.
        enable_checkpointing=_keeps_checkpoints(settings, callbacks),
        default_root_dir=str(directory),
    )
    # As `Distiller.setup`, for what is measured before: Lightning's `deterministic` would also fill
    # all memory that is about to be written to.
    deterministic: Any = torch.utils.deterministic
    deterministic.fill_uninitialized_memory = False
    return trainer


def keep_on_device(trainer: lightning.Trainer) -> None:
    """Has weights and optimizer stay on a GPU, from which Lightning takes them after each of its
    runs: for a fit that measures its student there once more, and lets all go at its end."""
    strategy = trainer.strategy
    # Lightning's for other kinds of devices have more to do at their end.
    if type(strategy) is not SingleDeviceStrategy or strategy.root_device.type != "cuda":
        return

    def teardown() -> None:
        strategy.precision_plugin.teardown()
        assert strategy.accelerator is not None
        strategy.accelerator.teardown()
        strategy.checkpoint_io.teardown()

    strategy.teardown = teardown  # type: ignore[method-assign]


@contextlib.contextmanager
def named_within(group: str) -> Iterator[None]:
    """Names the argument of a mistake by its full key in the configuration."""
    try:
        yield
    except ArgumentError as error:
        raise error.within(group) from error


def _keeps_checkpoints(settings: FitSettings, callbacks: Sequence[Callback]) -> bool:
    asked = bool(settings.trainer.get("enable_checkpointing"))
    return asked or any(isinstance(callback, Checkpoint) for callback in callbacks)


def best_weights(trainer: lightning.Trainer) -> ModelCheckpoint | None:
    """The callback that keeps the best weights, of which the student shall be made, if any does.

    Raises:
        ArgumentError: The student shall also be the average of its weights.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    kept = [c for c in callbacks if isinstance(c, ModelCheckpoint) and c.monitor is not None]
    averages = [callback for callback in callbacks if isinstance(callback, _AVERAGES)]
    if kept and averages:
        average = "ema" if isinstance(averages[0], WeightAverage) else type(averages[0]).__name__
        raise ArgumentError(
            "callbacks",
            f"best, {average}",
            "one of them: the student is either of the best weights or of their average",
        )
    return kept[0] if kept else None


def ends_unvalidated(trainer: lightning.Trainer) -> bool:
    """Whether a callback may change the student's weights after its last validation."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    changing = (*_LIGHTNINGS_AVERAGES, ModelPruning)
    return any(isinstance(callback, changing) for callback in callbacks)


def check_course(
    settings: FitSettings, trainer: lightning.Trainer, data: HiddenStatesDataModule
) -> None:
    """Refuses a fit that would have no validation, or a schedule without an end, or whose student
    would be of another precision than what it learns from.

    Raises:
        ArgumentError: With the setting that makes it so.
    """
    if trainer.limit_val_batches == 0:
        raise ArgumentError(
            "trainer.limit_val_batches", 0, "null, or more: a trial is judged by its validation"
        )
    for key, limit, batches in (
        ("limit_train_batches", trainer.limit_train_batches, data.train_batches),
        ("limit_val_batches", trainer.limit_val_batches, data.valid_batches),
    ):
        left = limit if isinstance(limit, int) else int(batches * limit)
        if left < 1:
            key = "overfit_batches" if settings.trainer.get("overfit_batches") else key
            allowed = f"null, or what leaves one of the {batches} batches: at least {1 / batches:g}"
            raise ArgumentError(f"trainer.{key}", limit, allowed)
    by_clock = trainer._val_check_time_interval is not None  # type: ignore[attr-defined]
    for key, value, allowed in (
        ("val_check_interval", None if by_clock else trainer.val_check_interval, "above 0"),
        ("check_val_every_n_epoch", trainer.check_val_every_n_epoch, "at least 1, or null"),
        ("accumulate_grad_batches", trainer.accumulate_grad_batches, "at least 1"),
    ):
        if isinstance(value, (int, float)) and value <= 0:
            raise ArgumentError(f"trainer.{key}", value, allowed)
    if isinstance(trainer.precision_plugin, (DoublePrecision, HalfPrecision)):
        raise ArgumentError(
            "trainer.precision",
            str(trainer.precision),
            "32-true, bf16-mixed or 16-mixed: weights and hidden states are of 32 bits",
        )
    clip = trainer.gradient_clip_val
    if clip is not None and not clip >= 0:
        raise ArgumentError("trainer.gradient_clip_val", clip, "at least 0, or null")
    epoch, interval = steps_of_epoch(trainer, data), steps_to_validation(trainer, data)
    if trainer.check_val_every_n_epoch is not None and interval is not None and interval > epoch:
        raise ArgumentError(
            "trainer.val_check_interval",
            settings.trainer.get("val_check_interval"),
            f"at most the {epoch} batches of an epoch, or a share of them from 0.0 to 1.0",
            "To count over epochs: trainer.check_val_every_n_epoch=null",
        )
    endless = trainer.max_steps == -1 and trainer.max_epochs in (-1, None)
    if settings.scheduler is not None and endless:
        raise ArgumentError(
            "scheduler",
            str(settings.scheduler.get("_target_")).rpartition(".")[2],
            "null, where only trainer.max_time ends a fit: a schedule must know its length",
            "Or give it one: trainer.max_epochs=1, or trainer.max_steps=1000",
        )
