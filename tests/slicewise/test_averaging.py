"""The average of a student's weights: validated with, ended with, resumed with."""

from __future__ import annotations

import copy

import pytest
import torch
from pytorch_lightning.callbacks import (
    Callback,
    EMAWeightAveraging,
    StochasticWeightAveraging,
)

from slicewise.averaging import WeightAverage
from slicewise.errors import ArgumentError
from slicewise.steps import new_distiller as new_fast_distiller
from slicewise.teacher import TeacherSlice
from tests.slicewise.test_distiller import NewData, NewDistiller, NewTrainer
from tests.slicewise.test_steps import NewStudent


class _Weights(Callback):
    """The student's weights after each step, and those with which it was validated."""

    def __init__(self) -> None:
        self.trained: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def on_train_start(self, trainer, pl_module) -> None:  # type: ignore[no-untyped-def]
        self.trained.append(_flat(pl_module))

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:  # type: ignore[no-untyped-def]
        self.trained.append(_flat(pl_module))

    def on_validation_batch_end(self, trainer, pl_module, *_) -> None:  # type: ignore[no-untyped-def]
        self.validated.append(_flat(pl_module))


def _flat(pl_module) -> torch.Tensor:  # type: ignore[no-untyped-def]
    return torch.cat([p.detach().flatten().clone() for p in pl_module.student.parameters()])


def test_it_is_the_average_that_is_validated_and_kept(
    new_trainer: NewTrainer, new_distiller: NewDistiller, new_data: NewData
) -> None:
    weights, distiller = _Weights(), new_distiller()
    trainer = new_trainer(callbacks=[WeightAverage(decay=0.5), weights])
    trainer.fit(distiller, datamodule=new_data())
    first, *after = weights.trained
    average = first
    for step, trained in enumerate(after, start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * trained
    torch.testing.assert_close(weights.validated[-1], average)
    torch.testing.assert_close(_flat(distiller), average)
    assert not torch.allclose(average, after[-1], atol=1e-6)


def test_without_memory_it_is_the_last_weights(
    new_trainer: NewTrainer, new_distiller: NewDistiller, new_data: NewData
) -> None:
    averaged, plain = new_distiller(), new_distiller()
    new_trainer(callbacks=[WeightAverage(decay=0.0)]).fit(averaged, datamodule=new_data())
    new_trainer().fit(plain, datamodule=new_data())
    torch.testing.assert_close(_flat(averaged), _flat(plain))


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_is_checked(decay: float) -> None:
    with pytest.raises(ArgumentError, match=r"decay"):
        WeightAverage(decay)


# Lightning's own, which copy the module.


@pytest.mark.parametrize("at_once", [1, 2])
def test_lightnings_average_is_kept_too(
    new_trainer: NewTrainer,
    new_data: NewData,
    new_student: NewStudent,
    tiny_teacher: TeacherSlice,
    at_once: int,
) -> None:
    weights, data = _Weights(), new_data()
    trainer = new_trainer(callbacks=[EMAWeightAveraging(decay=0.5), weights])
    parts = (tiny_teacher, new_student(), data.seq_length)
    distiller = new_fast_distiller(trainer, data, *parts, at_once=at_once)
    trainer.fit(distiller, datamodule=data)
    _, average, *after = weights.trained
    assert after
    for trained in after:
        average = 0.5 * average + 0.5 * trained
    torch.testing.assert_close(_flat(distiller), average)
    torch.testing.assert_close(weights.validated[-1], average)


def test_stochastic_averages_are_possible(
    new_trainer: NewTrainer, new_distiller: NewDistiller, new_data: NewData
) -> None:
    averages = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)
    weights, distiller = _Weights(), new_distiller()
    trainer = new_trainer(callbacks=[averages, weights], max_epochs=3)
    trainer.fit(distiller, datamodule=new_data())
    assert not torch.equal(_flat(distiller), weights.trained[-1])


def test_a_copy_has_its_own_weights_and_the_same_teacher(new_distiller: NewDistiller) -> None:
    distiller = new_distiller()
    copied = copy.deepcopy(distiller)
    torch.testing.assert_close(_flat(copied), _flat(distiller), rtol=0, atol=0)
    with torch.no_grad():
        for parameter in copied.student.parameters():
            parameter.zero_()
    assert _flat(distiller).any()
    assert copied.teacher is distiller.teacher
    assert copied.targets.__self__ is copied  # type: ignore[attr-defined]
