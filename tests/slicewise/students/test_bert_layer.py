from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from slicewise.cost import count_parameters
from slicewise.data.batch import Batch
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.bert_layer import BertLayer
from slicewise.students.folder import load_student, save_student
from slicewise.students.layers import Geometry
from slicewise.teacher import TeacherSlice, minilm
from tests.slicewise.teachers import loud_teacher, noise


def _student(teacher: TeacherSlice, **sizes: Any) -> BertLayer:
    return BertLayer(**{**BertLayer.sizes_from(teacher), **sizes}).eval()


@torch.no_grad()
def _loss(student: BertLayer, teacher: TeacherSlice) -> float:
    (batch,) = noise(1, seed=2)
    return F.l1_loss(student(*batch[:2]), teacher(*batch[:2])).item()


def test_sizes_are_the_teachers() -> None:
    assert BertLayer.sizes_from(loud_teacher()) == {
        "input_dim": 24,
        "num_layers": 2,
        "num_attention_heads": 2,
        "attention_hidden_size": 12,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }


@pytest.mark.parametrize(
    "sizes",
    [
        {"intermediate_size": 20},
        {"num_attention_heads": 1},
        {"attention_hidden_size": 8},
        {"value_dim": 16},
        {"num_attention_heads": 1, "attention_hidden_size": 5, "value_dim": 4},
        {"num_layers": 1},
        {"num_layers": 1, "intermediate_size": 16, "num_attention_heads": 1},
    ],
    ids=str,
)
def test_it_starts_nearer_to_the_teacher_than_chance(sizes: dict[str, int]) -> None:
    teacher = loud_teacher()
    random, by_weight, by_data = (_student(teacher, **sizes) for _ in range(3))
    by_weight.start_from(teacher)
    by_data.start_from(teacher, noise(8))
    if "num_layers" not in sizes:
        # Weights alone cannot tell what to do about a layer that is missing.
        assert _loss(by_weight, teacher) < 0.9 * _loss(random, teacher)
    assert _loss(by_data, teacher) < 0.8 * _loss(random, teacher)


def test_data_help_to_choose() -> None:
    teacher = loud_teacher()
    by_weight, by_data = (_student(teacher, intermediate_size=16) for _ in range(2))
    by_weight.start_from(teacher)
    by_data.start_from(teacher, noise(8))
    assert _loss(by_data, teacher) < _loss(by_weight, teacher)


@pytest.mark.parametrize("num_batches", [0, 4])
def test_what_is_idle_in_the_teacher_costs_nothing_to_drop(num_batches: int) -> None:
    """Half the neurons, one head, and half of another head's queries and values do nothing."""
    teacher = loud_teacher(num_layers=1)
    layer: Any = teacher.layers[0]
    layer.output.dense.weight[:, ::2] = 0
    attention = layer.attention.self
    layer.attention.output.dense.weight[:, 12:] = 0
    attention.query.weight[:6] = 0
    attention.query.bias[:6] = 0
    layer.attention.output.dense.weight[:, :6] = 0
    student = _student(
        teacher, num_attention_heads=1, attention_hidden_size=6, intermediate_size=16
    )
    student.start_from(teacher, noise(num_batches))
    assert _loss(student, teacher) < 1e-5


def test_a_narrower_head_keeps_the_scores_of_a_mixed_one() -> None:
    """Queries of rank 6 in no particular basis: no choice among the 12 dimensions would do."""
    teacher = loud_teacher(num_layers=1, num_attention_heads=1)
    attention: Any = teacher.layers[0].attention.self  # type: ignore[union-attr]
    basis = torch.linalg.qr(torch.randn(24, 6)).Q
    attention.query.weight.copy_(basis @ (basis.T @ attention.query.weight))
    attention.query.bias.copy_(basis @ (basis.T @ attention.query.bias))
    student = _student(teacher, attention_hidden_size=6, value_dim=24)
    student.start_from(teacher, noise(4))
    assert _loss(student, teacher) < 1e-5


@settings(max_examples=15, deadline=None)
@given(
    num_layers=st.integers(1, 2),
    heads=st.integers(1, 2),
    head_size=st.integers(1, 12),
    value_head_size=st.integers(1, 12),
    intermediate_size=st.integers(1, 32),
    num_batches=st.integers(0, 1),
)
def test_any_smaller_geometry_starts_saves_and_loads(
    tmp_path_factory: pytest.TempPathFactory,
    num_layers: int,
    heads: int,
    head_size: int,
    value_head_size: int,
    intermediate_size: int,
    num_batches: int,
) -> None:
    teacher = loud_teacher()
    student = _student(
        teacher,
        num_layers=num_layers,
        num_attention_heads=heads,
        attention_hidden_size=head_size,
        value_dim=heads * value_head_size,
        intermediate_size=intermediate_size,
    )
    student.start_from(teacher, noise(num_batches))
    loaded = load_student(save_student(student, tmp_path_factory.mktemp("student")))
    assert loaded.config == student.config
    x_BTH = torch.randn(2, 5, 24)
    with torch.no_grad():
        output = student(x_BTH)
        assert output.isfinite().all()
        assert torch.equal(loaded(x_BTH), output)
    qkv = 2 * heads * head_size + heads * value_head_size
    assert count_parameters(student) == num_layers * (
        25 * qkv
        + (heads * value_head_size + 1) * 24
        + 25 * intermediate_size
        + (intermediate_size + 1) * 24
        + 4 * 24
    )


@pytest.mark.parametrize(
    ("arguments", "name", "allowed"),
    [
        ({"input_dim": 0}, "input_dim", "at least 1"),
        ({"num_layers": 0}, "num_layers", "at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads", "at least 1"),
        ({"attention_hidden_size": 0}, "attention_hidden_size", "at least 1"),
        ({"intermediate_size": -1}, "intermediate_size", "at least 1"),
        ({"value_dim": 0}, "value_dim", "at least 1"),
        ({"value_dim": 50}, "value_dim", "multiple of num_attention_heads=12, such as 48"),
        ({"dropout": 1.0}, "dropout", "0 <= p < 1"),
        ({"dropout": math.nan}, "dropout", "0 <= p < 1"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps", "at least 0"),
        ({"hidden_act": "step"}, "hidden_act", "gelu, "),
    ],
)
def test_error_names_argument_value_and_what_is_allowed(
    arguments: dict[str, Any], name: str, allowed: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        BertLayer(**{"input_dim": 96, **arguments})
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name}={arguments[name]}: allowed: ")
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "name", "allowed"),
    [
        ({"input_dim": 36}, "input_dim", "24, the hidden size"),
        ({"num_layers": 3}, "num_layers", "1 to 2"),
        ({"num_attention_heads": 3}, "num_attention_heads", "1 to 2"),
        ({"attention_hidden_size": 13}, "attention_hidden_size", "1 to 12"),
        ({"intermediate_size": 33}, "intermediate_size", "1 to 32"),
        ({"num_attention_heads": 1, "value_dim": 13}, "value_dim", "1 to 12"),
    ],
)
def test_no_more_can_be_taken_than_there_is(sizes: dict[str, int], name: str, allowed: str) -> None:
    teacher = loud_teacher()
    with pytest.raises(ArgumentError, match=f"{name}={sizes[name]}: allowed: {allowed}"):
        _student(teacher, **sizes).start_from(teacher)


def test_layers_of_another_shape_are_refused() -> None:
    teacher = TeacherSlice(torch.nn.ModuleList([torch.nn.Identity()]), 24, "nothing")
    with pytest.raises(SlicewiseError, match="layers of nothing are not of a shape which"):
        Geometry.of(teacher)


def test_layers_that_compute_something_else_are_refused() -> None:
    teacher = loud_teacher()
    attention: Any = teacher.layers[0].attention  # type: ignore[union-attr]
    attention.register_forward_hook(lambda module, inputs, output: (output[0] * 2, output[1]))
    with pytest.raises(SlicewiseError, match="not of a shape which"):
        _student(teacher).start_from(teacher)


def test_minilm_pruned_to_a_layer() -> None:
    """1,405,344 parameters, the article's budget: by weights alone 0.2955, as measured before."""
    teacher = minilm(first_layer=0, num_layers=2)
    x_BTH = torch.randn(4, 128, 384, generator=torch.Generator().manual_seed(5))
    seen_BTH = torch.randn(32, 128, 384, generator=torch.Generator().manual_seed(6))
    losses = []
    for batches in ([], [Batch(seen_BTH)]):
        student = _student(teacher, num_layers=1, intermediate_size=1056)
        student.start_from(teacher, batches)
        with torch.no_grad():
            losses.append(F.l1_loss(student(x_BTH), teacher(x_BTH)).item())
    assert count_parameters(student) == 1_405_344
    assert losses[0] < 0.33
    assert losses[1] < 0.23


def test_minilm_kept_whole() -> None:
    teacher = minilm(first_layer=4, num_layers=2)
    student = _student(teacher)
    student.start_from(teacher)
    x_BTH = torch.randn(2, 32, 384)
    with torch.no_grad():
        torch.testing.assert_close(student(x_BTH), teacher(x_BTH), atol=1e-5, rtol=0)
