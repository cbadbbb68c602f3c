from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from slicewise.cost import count_parameters
from slicewise.errors import ArgumentError
from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import random_bert

REFERENCES = sorted((Path(__file__).parent / "reference").glob("*.safetensors"))


def _reference(path: Path) -> tuple[ApproximateAttention, dict[str, Tensor]]:
    """The student that a reference describes, its weights loaded, and the other tensors."""
    with safe_open(path, "pt") as file:
        sizes = {name: int(value) for name, value in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    student = ApproximateAttention(
        input_dim=sizes["d"],
        num_attention_heads=sizes["h"],
        attention_hidden_size=sizes["ah"],
        value_dim=sizes["v"],
        output_dim=sizes["d"],
        qkv_layers=sizes["q"],
    )
    state = {
        name.removeprefix("state."): tensor
        for name, tensor in tensors.items()
        if name.startswith("state.")
    }
    student.load_state_dict(state, strict=True)
    return student.eval(), tensors


def test_all_references_are_here() -> None:
    names = [path.stem for path in REFERENCES]
    assert names == ["approx_q1", "approx_q2", "approx_q3_wide_value"]


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.stem)
def test_output_is_the_reference(path: Path) -> None:
    student, tensors = _reference(path)
    with torch.no_grad():
        output = student(tensors["input"])
    torch.testing.assert_close(output, tensors["output"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("path", REFERENCES, ids=lambda path: path.stem)
def test_masked_output_is_the_reference(path: Path) -> None:
    student, tensors = _reference(path)
    with torch.no_grad():
        output = student(tensors["input"], tensors["additive_mask"])
    torch.testing.assert_close(output, tensors["output_masked"], atol=1e-5, rtol=0)
    # The mask must matter, or the line above says nothing.
    assert (tensors["output_masked"] - tensors["output"]).abs().max() > 1e-3


def test_parameter_counts_in_bert_base_geometry() -> None:
    assert count_parameters(random_bert(first_layer=0, num_layers=2)) == 14_175_744
    assert count_parameters(ApproximateAttention(768)) == 5_022_336


def test_parameter_counts_in_minilm_geometry() -> None:
    teacher = random_bert(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    assert count_parameters(teacher) == 3_548_928
    assert count_parameters(ApproximateAttention(384, value_dim=192)) == 1_405_632


def test_defaults_are_the_articles() -> None:
    assert ApproximateAttention(96).config == {
        "input_dim": 96,
        "num_attention_heads": 12,
        "attention_hidden_size": 32,
        "value_dim": 48,
        "output_dim": 96,
        "qkv_layers": 2,
        "dropout": 0.1,
        "layer_norm_eps": 1e-12,
    }


@settings(max_examples=25, deadline=None)
@given(
    input_dim=st.integers(1, 20),
    heads=st.integers(1, 4),
    head_size=st.integers(1, 6),
    value_head_size=st.integers(1, 6),
    qkv_layers=st.integers(0, 3),
)
def test_any_geometry_keeps_the_shape_and_has_the_layers_it_says(
    input_dim: int, heads: int, head_size: int, value_head_size: int, qkv_layers: int
) -> None:
    value_dim = heads * value_head_size
    student = ApproximateAttention(
        input_dim, heads, head_size, value_dim=value_dim, qkv_layers=qkv_layers
    )
    x_BTH = torch.randn(2, 5, input_dim)
    assert student(x_BTH).shape == x_BTH.shape

    def stack(width: int, output: int) -> int:
        return qkv_layers * (width * width + width) + width * output + output

    expected = (
        2 * stack(input_dim, heads * head_size)
        + stack(input_dim, value_dim)
        + stack(value_dim, input_dim)
        + 2 * input_dim
    )
    assert count_parameters(student) == expected


def test_dropout_reaches_the_attention_probabilities(
    new_student: Callable[..., ApproximateAttention],
) -> None:
    student = new_student(dropout=0.5)
    student.dropout.p = 0.0
    x_BTH = torch.randn(2, 6, 24)
    assert not torch.equal(student(x_BTH), student(x_BTH))


@pytest.mark.parametrize(
    ("arguments", "name", "value", "allowed"),
    [
        ({"input_dim": 0}, "input_dim", "0", "at least 1"),
        ({"input_dim": -4}, "input_dim", "-4", "at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads", "0", "at least 1"),
        ({"attention_hidden_size": 0}, "attention_hidden_size", "0", "at least 1"),
        ({"value_dim": 0}, "value_dim", "0", "at least 1"),
        ({"qkv_layers": -1}, "qkv_layers", "-1", "at least 0"),
        ({"dropout": -0.1}, "dropout", "-0.1", "0 <= p < 1"),
        ({"dropout": 1.0}, "dropout", "1.0", "0 <= p < 1"),
        ({"dropout": math.nan}, "dropout", "nan", "0 <= p < 1"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps", "-1e-12", "at least 0"),
        ({"value_dim": 50}, "value_dim", "50", "multiple of num_attention_heads=12"),
        ({"output_dim": 48}, "output_dim", "48", "input_dim=96"),
    ],
)
def test_error_names_argument_value_and_what_is_allowed(
    arguments: dict[str, Any], name: str, value: str, allowed: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        ApproximateAttention(**{"input_dim": 96, **arguments})
    assert caught.value.name == name
    assert str(caught.value).startswith(f"{name}={value}: allowed: ")
    assert allowed in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(value_dim=st.integers(1, 200), heads=st.integers(2, 16))
def test_value_dim_error_suggests_one_that_works(value_dim: int, heads: int) -> None:
    assume(value_dim % heads)
    with pytest.raises(ArgumentError) as caught:
        ApproximateAttention(4, heads, 1, value_dim=value_dim, qkv_layers=0)
    match = re.search(r"such as (\d+)", str(caught.value))
    assert match
    suggested = int(match[1])
    assert abs(suggested - value_dim) < heads
    ApproximateAttention(4, heads, 1, value_dim=suggested, qkv_layers=0)
