from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from slicewise.cost import count_parameters
from slicewise.data.batch import Batch
from slicewise.errors import ArgumentError
from slicewise.students.linear import Linear
from slicewise.teacher import TeacherSlice
from tests.slicewise.teachers import loud_teacher, noise


class _Affine(nn.Module):
    """A layer that is an affine map, of whatever attention mask."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y_BTH: Tensor = self.dense(hidden_states)
        return y_BTH


def _affine_teacher(hidden_size: int) -> TeacherSlice:
    return TeacherSlice(nn.ModuleList([_Affine(hidden_size)]), hidden_size, "affine")


@settings(max_examples=15, deadline=None)
@given(hidden_size=st.integers(1, 16), with_batches=st.booleans(), offset=st.floats(-3, 3))
def test_an_affine_teacher_is_solved_exactly(
    hidden_size: int, with_batches: bool, offset: float
) -> None:
    teacher = _affine_teacher(hidden_size)
    student = Linear(hidden_size)
    x_BTH = torch.randn(4, 16, hidden_size) + offset
    student.start_from(teacher, [Batch(x_BTH)] if with_batches else [])
    torch.testing.assert_close(student(x_BTH), teacher(x_BTH), atol=1e-4, rtol=0)


def test_inputs_that_never_vary_do_no_harm() -> None:
    teacher = _affine_teacher(4)
    x_BTH = torch.randn(4, 16, 4)
    x_BTH[..., 2] = 1.5
    for ridge in (0.0, 1e-6):
        student = Linear(4, ridge)
        student.start_from(teacher, [Batch(x_BTH)])
        torch.testing.assert_close(student(x_BTH), teacher(x_BTH), atol=1e-3, rtol=0)


def test_no_affine_map_is_better_in_least_squares() -> None:
    teacher = loud_teacher()
    batches = noise(8)
    student = Linear(24, ridge=0.0)
    student.start_from(teacher, batches)
    x_BTH = torch.cat([batch.hidden_states for batch in batches])
    target_BTH = teacher(x_BTH)
    best = F.mse_loss(student(x_BTH), target_BTH)
    for parameter in student.parameters():
        change = 1e-2 * torch.randn_like(parameter)
        for sign in (1, -2, 1):
            parameter += sign * change
            assert F.mse_loss(student(x_BTH), target_BTH) >= best - 1e-6


def test_it_is_nearer_to_the_teacher_than_chance() -> None:
    teacher = loud_teacher()
    (batch,) = noise(1, seed=2)
    student = Linear(24)
    target_BTH = teacher(batch.hidden_states)
    random = F.l1_loss(student(batch.hidden_states), target_BTH)
    student.start_from(teacher, noise(8))
    assert F.l1_loss(student(batch.hidden_states), target_BTH) < 0.8 * random


def test_there_is_nothing_to_train() -> None:
    student = Linear(24)
    student.start_from(_affine_teacher(24))
    assert not student.is_trainable
    assert count_parameters(student) == 24 * 25


@pytest.mark.parametrize(
    ("arguments", "name", "allowed"),
    [
        ({"input_dim": 0}, "input_dim", "at least 1"),
        ({"ridge": -1e-3}, "ridge", "at least 0"),
        ({"ridge": math.nan}, "ridge", "at least 0"),
    ],
)
def test_error_names_argument_value_and_what_is_allowed(
    arguments: dict[str, Any], name: str, allowed: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        Linear(**{"input_dim": 24, **arguments})
    assert str(caught.value).startswith(f"{name}={arguments[name]}: allowed: ")
    assert allowed in str(caught.value)
