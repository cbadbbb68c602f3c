from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from slicewise.cost import count_parameters
from slicewise.errors import ArgumentError
from slicewise.students.approx_ffn import ApproximateAttentionWithFeedForward
from slicewise.teacher import TeacherSlice
from tests.slicewise.teachers import loud_teacher, noise


def _student(teacher: TeacherSlice, **sizes: Any) -> ApproximateAttentionWithFeedForward:
    family = ApproximateAttentionWithFeedForward
    torch.manual_seed(7)
    return family(**{**family.sizes_from(teacher), **sizes}).eval()


@torch.no_grad()
def _loss(student: ApproximateAttentionWithFeedForward, teacher: TeacherSlice) -> float:
    (batch,) = noise(1, seed=2)
    return F.l1_loss(student(batch.hidden_states), teacher(batch.hidden_states)).item()


def test_parameters_are_the_articles_and_a_feed_forward_block() -> None:
    student = _student(loud_teacher(), qkv_layers=0, intermediate_size=20)
    attention = 2 * 25 * 24 + 25 * 12 + 13 * 24 + 2 * 24
    assert count_parameters(student) == attention + 25 * 20 + 21 * 24 + 2 * 24


def test_all_neurons_are_the_teachers() -> None:
    teacher = loud_teacher(num_layers=1)
    student = _student(teacher)
    student.start_from(teacher)
    layer: Any = teacher.layers[0]
    x_BTH = torch.randn(2, 6, 24)
    with torch.no_grad():
        expected = layer.feed_forward_chunk(x_BTH)
        torch.testing.assert_close(student.feed_forward(x_BTH), expected, atol=1e-5, rtol=0)
    assert torch.equal(student.attention.LayerNorm.weight, layer.attention.output.LayerNorm.weight)


def test_it_starts_nearer_to_the_teacher_than_chance() -> None:
    teacher = loud_teacher()
    random, started = (_student(teacher, intermediate_size=20) for _ in range(2))
    started.start_from(teacher, noise(8))
    assert _loss(started, teacher) < 0.8 * _loss(random, teacher)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"intermediate_size": 0}, "intermediate_size=0: allowed: an integer of at least 1"),
        ({"value_dim": 13}, "value_dim=13: allowed: a multiple of num_attention_heads=2"),
        ({"qkv_layers": -1}, "qkv_layers=-1: allowed: an integer of at least 0"),
        ({"hidden_act": "step"}, "hidden_act=step: allowed: "),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        _student(loud_teacher(), **sizes)


def test_no_more_can_be_taken_than_there_is() -> None:
    teacher = loud_teacher()
    with pytest.raises(ArgumentError, match="intermediate_size=33: allowed: 1 to 32"):
        _student(teacher, intermediate_size=33).start_from(teacher)
