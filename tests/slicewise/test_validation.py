"""Validations: each token has the same weight, and nothing is fetched before the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Trainer
from torch import Tensor

from slicewise.attention import MASKED
from slicewise.baselines import BASELINES, Baselines
from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.noise import NoiseDataModule
from slicewise.distiller import Distiller
from slicewise.losses import l1_loss
from slicewise.steps import new_distiller
from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import TeacherSlice
from slicewise.validation import LOSSES, ValidationLosses, batch_losses
from tests.slicewise.conftest import SEQ_LENGTH


@given(
    losses=st.lists(
        st.tuples(st.floats(0, 10, width=32), st.integers(1, 10_000)), min_size=1, max_size=20
    )
)
def test_each_token_has_the_same_weight(losses: list[tuple[float, int]]) -> None:
    found = ValidationLosses()
    for loss, tokens in losses:
        found.add(torch.tensor([loss, 2 * loss]), torch.tensor(tokens))
    mean = sum(loss * tokens for loss, tokens in losses) / sum(tokens for _, tokens in losses)
    assert found.means().tolist() == pytest.approx([mean, 2 * mean], rel=1e-5, abs=1e-6)


def test_what_is_taken_in_may_be_written_over() -> None:
    """As a graph does with its results."""
    found, losses, tokens = ValidationLosses(), torch.ones(2), torch.tensor(3)
    found.add(losses, tokens)
    losses.fill_(5.0)
    tokens.fill_(1)
    found.add(losses, tokens)
    assert found.means().tolist() == [2.0, 2.0]


@pytest.mark.parametrize("padded", [False, True])
def test_a_batch_is_measured_as_its_parts_are(
    tiny_teacher: TeacherSlice, new_student: Callable[..., ApproximateAttention], padded: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    x_BTH = torch.randn(3, SEQ_LENGTH, 24, generator=generator)
    mask = None
    if padded:
        mask = torch.zeros(3, 1, 1, SEQ_LENGTH)
        mask[0, ..., 2:], mask[2, ..., 5:] = MASKED, MASKED
    batch = Batch(x_BTH, mask)
    real_BT = batch.real_tokens()
    target_BTH = tiny_teacher(x_BTH, mask)
    baselines, student = Baselines(SEQ_LENGTH, 24), new_student().eval()
    baselines.update(target_BTH + 1, real_BT)
    baselines.gather()
    constants = (baselines.mean_TH, baselines.running_TH)
    with torch.no_grad():
        losses_M, tokens = batch_losses(student, l1_loss, x_BTH, mask, target_BTH, *constants)
        expected = [l1_loss(student(x_BTH, mask), target_BTH, real_BT)]
    expected += baselines.losses(x_BTH, target_BTH, real_BT).values()
    assert losses_M.tolist() == [loss.item() for loss in expected]
    assert len(LOSSES) == 1 + len(BASELINES) == len(losses_M)
    assert int(tokens) == (3 * SEQ_LENGTH if real_BT is None else int(real_BT.sum()))


class _InPlace(torch.nn.Module):
    """Writes to what it is given."""

    def forward(self, x_BTH: Tensor, mask: Tensor | None = None) -> Tensor:
        return x_BTH.mul_(2)


def test_what_a_student_writes_to_the_baselines_and_the_next_validation_do_not_find() -> None:
    x_BTH, zeros_TH = torch.ones(2, 3, 4), torch.zeros(3, 4)
    for _ in range(2):
        losses_M, _ = batch_losses(_InPlace(), l1_loss, x_BTH, None, 2 * x_BTH, zeros_TH, zeros_TH)
        found = dict(zip(LOSSES, losses_M.tolist(), strict=True))
        assert found["valid_l1"] == 0
        assert found["baseline/input"] == 1


def test_metrics_are_on_the_cpu_after_a_validation(
    new_trainer: Callable[..., Trainer],
    new_data: Callable[..., NoiseDataModule],
    new_student: Callable[..., ApproximateAttention],
    tiny_teacher: TeacherSlice,
) -> None:
    trainer = new_trainer()
    distiller = Distiller(tiny_teacher, new_student(), SEQ_LENGTH)
    trainer.validate(distiller, datamodule=new_data(), verbose=False)
    assert set(trainer.callback_metrics) == set(LOSSES)
    assert {value.device.type for value in trainer.callback_metrics.values()} == {"cpu"}


class _CountingData(NoiseDataModule):
    """Counts the batches that it makes."""

    made: list[BatchIndex]

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        self.made.append(index)
        return super().make_batch(index, device)


@pytest.mark.parametrize("at_once", [None, 4])
def test_validation_batches_are_made_once(
    new_trainer: Callable[..., Trainer],
    new_student: Callable[..., ApproximateAttention],
    tiny_teacher: TeacherSlice,
    at_once: int | None,
) -> None:
    data = _CountingData(24, 2, SEQ_LENGTH, train_batches=8, valid_batches=3)
    data.made = []
    trainer = new_trainer(val_check_interval=0.5, max_epochs=2)
    distiller = new_distiller(
        trainer, data, tiny_teacher, new_student(), SEQ_LENGTH, at_once=at_once or 1
    )
    trainer.fit(distiller, datamodule=data)
    valid = [index for index in data.made if index.split is Split.VALID]
    assert valid == [BatchIndex(Split.VALID, number) for number in range(3)]


def test_what_is_too_much_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _CountingData(24, 2, SEQ_LENGTH)
    data.made = []
    size = 2 * SEQ_LENGTH * 24 * 4
    monkeypatch.setattr("slicewise.data.hidden_states._MOST_KEPT", 2 * size)
    cpu = torch.device("cpu")
    indices = [BatchIndex(Split.VALID, number) for number in range(3)]
    first: list[Tensor] = [data.kept_batch(index, cpu).hidden_states for index in indices]
    again: list[Any] = [data.kept_batch(index, cpu).hidden_states for index in indices]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert [index.number for index in data.made] == [0, 1, 2, 2]
    # Training batches are never kept.
    for _ in range(2):
        data.kept_batch(BatchIndex(Split.TRAIN, 0), cpu)
    assert len(data.made) == 6
