from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
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
from slicewise.students.folder import load_student, save_student
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


@settings(max_examples=15, deadline=None)
@given(
    heads=st.sampled_from([1, 2, 3, 4]),
    intermediate_size=st.integers(24, 40),
    num_layers=st.integers(1, 3),
    num_batches=st.integers(0, 2),
    length=st.integers(1, 6),
)
def test_a_student_of_full_rank_is_the_teacher(
    heads: int, intermediate_size: int, num_layers: int, num_batches: int, length: int
) -> None:
    teacher = loud_teacher(
        num_attention_heads=heads,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        num_layers=num_layers,
    )
    student = _student(teacher, rank=24)
    student.start_from(teacher, noise(num_batches))
    x_BTH = torch.randn(2, 6, 24)
    mask = torch.zeros(2, 1, 1, 6)
    mask[0, ..., length:] = torch.finfo(torch.float32).min
    with torch.no_grad():
        for arguments in ((x_BTH,), (x_BTH, mask)):
            torch.testing.assert_close(student(*arguments), teacher(*arguments), atol=1e-5, rtol=0)


def test_it_is_full_rank_with_fewer_tokens_than_hidden_dimensions() -> None:
    teacher = loud_teacher()
    student = _student(teacher, rank=24)
    student.start_from(teacher, [Batch(torch.randn(1, 3, 24))])
    assert _loss(student, teacher) < 1e-5


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


def test_padding_does_not_count(additive_mask: Callable[..., Tensor]) -> None:
    teacher = loud_teacher()
    x_BTH = torch.randn(2, 6, 24)
    other_BTH = x_BTH.clone()
    other_BTH[:, 4:] = 100.0
    students = [_student(teacher, rank=8) for _ in range(2)]
    for student, hidden_states in zip(students, (x_BTH, other_BTH), strict=True):
        student.start_from(teacher, [Batch(hidden_states, additive_mask(4, 4))])
    with torch.no_grad():
        torch.testing.assert_close(students[0](x_BTH), students[1](x_BTH), atol=1e-4, rtol=0)


def test_masked_tokens_are_not_seen_by_the_others(additive_mask: Callable[..., Tensor]) -> None:
    student = _student(loud_teacher(), rank=8)
    x_BTH = torch.randn(2, 6, 24)
    other_BTH = x_BTH.clone()
    other_BTH[:, 4:] = torch.randn(2, 2, 24)
    mask = additive_mask(4, 4)
    with torch.no_grad():
        assert torch.equal(student(x_BTH, mask)[:, :4], student(other_BTH, mask)[:, :4])
        assert not torch.equal(student(x_BTH)[:, :4], student(other_BTH)[:, :4])


def test_round_trip(tmp_path: Path) -> None:
    teacher = loud_teacher()
    student = _student(teacher, rank=5, num_layers=1)
    student.start_from(teacher, noise(1))
    loaded = load_student(save_student(student, tmp_path))
    assert type(loaded) is LowRank
    assert loaded.config == student.config
    x_BTH = torch.randn(2, 6, 24)
    with torch.no_grad():
        assert torch.equal(loaded(x_BTH), student(x_BTH))
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
