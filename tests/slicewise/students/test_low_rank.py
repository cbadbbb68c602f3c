from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from slicewise.cost import count_parameters
from slicewise.errors import ArgumentError
from slicewise.students.low_rank import LowRank
from slicewise.students.reduction import MomentSums, factorise
from slicewise.teacher import TeacherSlice
from tests.slicewise.teachers import loud_teacher, noise


def _student(teacher: TeacherSlice, **sizes: Any) -> LowRank:
    return LowRank(**{**LowRank.sizes_from(teacher), **sizes}).eval()


@torch.no_grad()
def _loss(student: LowRank, teacher: TeacherSlice) -> float:
    (batch,) = noise(1, seed=2)
    return F.l1_loss(student(batch.hidden_states), teacher(batch.hidden_states)).item()


@pytest.mark.parametrize("num_batches", [0, 8])
def test_it_starts_nearer_to_the_teacher_than_chance(num_batches: int) -> None:
    teacher = loud_teacher()
    random, started = (_student(teacher, rank=18) for _ in range(2))
    started.start_from(teacher, noise(num_batches))
    assert _loss(started, teacher) < 0.8 * _loss(random, teacher)


def test_a_higher_rank_starts_nearer() -> None:
    teacher = loud_teacher()
    losses = []
    for rank in (4, 12, 20, 24):
        student = _student(teacher, rank=rank)
        student.start_from(teacher, noise(8))
        losses.append(_loss(student, teacher))
    assert losses == sorted(losses, reverse=True)


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(2, 12),
    outputs=st.integers(2, 12),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_no_other_map_of_the_rank_is_better_on_what_was_seen(
    inputs: int, outputs: int, seed: int, data: st.DataObject
) -> None:
    """Against the plain SVD, with the best bias for each."""
    rank = data.draw(st.integers(1, min(inputs, outputs)))
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, outputs).requires_grad_(False)
    x_KI = torch.randn(4096, inputs) @ torch.randn(inputs, inputs) + torch.randn(inputs)
    sums = MomentSums(inputs)
    sums.add(x_KI)
    inner_RI, outer_OR, bias_O = factorise(linear, sums.moments(), rank)
    assert inner_RI.shape == (rank, inputs)
    assert outer_OR.shape == (outputs, rank)

    y_KO = linear(x_KI).double()
    error = y_KO - (x_KI.double() @ inner_RI.T @ outer_OR.T + bias_O)
    U, S, V = torch.linalg.svd(linear.weight.double(), full_matrices=False)
    plain_KO = x_KI.double() @ (U[:, :rank] * S[:rank] @ V[:rank]).T
    plain_error = (y_KO - y_KO.mean(0)) - (plain_KO - plain_KO.mean(0))
    # Shrinking the covariance moves the optimum a little.
    assert error.square().sum() <= 1.01 * plain_error.square().sum() + 1e-6
    assert error.mean(0).abs().max() < 1e-4


def test_parameters_are_two_factors_for_each_map() -> None:
    student = _student(loud_teacher(), rank=5, num_layers=1)
    # Four maps of 24 x 24 and two of 24 x 32, biases, and two layer norms.
    assert count_parameters(student) == 5 * (4 * 48 + 2 * 56) + 5 * 24 + 32 + 4 * 24


@pytest.mark.parametrize(
    ("arguments", "name", "allowed"),
    [
        ({"input_dim": 0}, "input_dim", "at least 1"),
        ({"num_layers": 0}, "num_layers", "at least 1"),
        ({"num_attention_heads": 5}, "num_attention_heads", "a divisor of input_dim=24: 1, 2, 3"),
        ({"rank": 0}, "rank", "1 to 24"),
        ({"rank": 25}, "rank", "1 to 24"),
        ({"rank": 9, "intermediate_size": 8}, "rank", "1 to 8"),
        ({"dropout": math.nan}, "dropout", "0 <= p < 1"),
        ({"layer_norm_eps": -1.0}, "layer_norm_eps", "at least 0"),
        ({"hidden_act": "step"}, "hidden_act", "gelu, "),
    ],
)
def test_error_names_argument_value_and_what_is_allowed(
    arguments: dict[str, Any], name: str, allowed: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        LowRank(**{"input_dim": 24, "rank": 4, "num_attention_heads": 2, **arguments})
    assert str(caught.value).startswith(f"{name}={arguments[name]}: allowed: ")
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("input_dim", 48, "24, the hidden size"),
        ("num_layers", 3, "1 to 2"),
        ("num_attention_heads", 3, "2, as"),
        ("intermediate_size", 30, "32, as"),
    ],
)
def test_the_teachers_sizes_are_needed_to_start_from_it(
    name: str, value: int, allowed: str
) -> None:
    teacher = loud_teacher()
    with pytest.raises(ArgumentError, match=f"{name}={value}: allowed: {allowed}"):
        _student(teacher, rank=4, **{name: value}).start_from(teacher)
