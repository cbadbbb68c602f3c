"""The progress bar counts steps, however many Lightning is handed at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pytorch_lightning import Trainer

from slicewise.data.noise import NoiseDataModule
from slicewise.progress_bar import StepProgressBar
from slicewise.steps import new_distiller
from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import TeacherSlice
from tests.slicewise.conftest import SEQ_LENGTH


class _Noted(StepProgressBar):
    """Remembers what the bars showed last."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, tuple[float, float | None]] = {}

    def refresh(self, hard: bool = False) -> None:
        super().refresh(hard)
        if self.progress is not None:
            for task in self.progress.tasks:
                self.shown[task.description.strip()] = (task.completed, task.total)


@pytest.mark.parametrize("max_epochs", [-1, 9])
@pytest.mark.parametrize(("at_once", "each"), [(1, 1), (4, 1), (1, 3), (1, 5)])
def test_where_steps_end_a_fit_the_bar_is_full(
    new_trainer: Callable[..., Trainer],
    new_data: Callable[..., NoiseDataModule],
    new_student: Callable[..., ApproximateAttention],
    tiny_teacher: TeacherSlice,
    at_once: int,
    each: int,
    max_epochs: int,
) -> None:
    bar = _Noted()
    # An epoch is 8 batches; with the last of them, gradients are not gathered any further.
    an_epoch = -(-8 // each)
    trainer = new_trainer(
        callbacks=[bar],
        enable_progress_bar=True,
        max_epochs=max_epochs,
        max_steps=an_epoch + 4 // at_once * at_once // each,
        accumulate_grad_batches=each,
    )
    data = new_data(train_batches=8, valid_batches=1)
    student: Any = new_student()
    distiller = new_distiller(trainer, data, tiny_teacher, student, SEQ_LENGTH, at_once=at_once)
    trainer.fit(distiller, datamodule=data)
    left = (trainer.max_steps - an_epoch) * each
    names = [name for name in bar.shown if name.startswith("Epoch")]
    assert [bar.shown[name] for name in names] == [(8, 8), (left, left)][: len(names)]
    assert len(names) == 1 + (left > 0)


@pytest.mark.parametrize("at_once", [1, 4, 12])
def test_the_bar_counts_steps(
    new_trainer: Callable[..., Trainer],
    new_data: Callable[..., NoiseDataModule],
    new_student: Callable[..., ApproximateAttention],
    tiny_teacher: TeacherSlice,
    at_once: int,
) -> None:
    bar = _Noted()
    trainer = new_trainer(callbacks=[bar], enable_progress_bar=True, max_epochs=2)
    data = new_data(train_batches=24, valid_batches=3)
    student: Any = new_student()
    distiller = new_distiller(trainer, data, tiny_teacher, student, SEQ_LENGTH, at_once=at_once)
    trainer.fit(distiller, datamodule=data)
    assert bar.shown["Epoch 0/1"] == (24, 24)
    assert bar.shown["Epoch 1/1"] == (24, 24)
    assert bar.shown["Validation"] == (3, 3)
