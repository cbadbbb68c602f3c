from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slicewise.cost import count_flops, count_parameters, latency_ms
from slicewise.errors import ArgumentError
from slicewise.students.bert_layer import BertLayer
from slicewise.students.original import Original
from slicewise.teacher import random_bert


def test_counts_frozen_parameters() -> None:
    module = nn.Linear(3, 5)
    module.requires_grad_(False)
    assert count_parameters(module) == 3 * 5 + 5


def test_counts_shared_parameters_once() -> None:
    layer = nn.Linear(4, 4)
    assert count_parameters(nn.Sequential(layer, layer)) == 4 * 4 + 4


def test_does_not_count_buffers() -> None:
    assert count_parameters(nn.BatchNorm1d(6)) == 12


@settings(max_examples=20, deadline=None)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 7),
    heads=st.integers(1, 3),
    head_size=st.integers(1, 5),
    value_head_size=st.integers(1, 5),
    neurons=st.integers(1, 9),
)
def test_flops_are_two_for_each_multiplication_of_the_matrix_products(
    B: int, T: int, heads: int, head_size: int, value_head_size: int, neurons: int
) -> None:
    query_dim, value_dim = heads * head_size, heads * value_head_size
    student = BertLayer(24, 1, heads, head_size, value_dim, neurons)
    projections = 24 * (2 * query_dim + 2 * value_dim + 2 * neurons)
    attention = T * (query_dim + value_dim)
    assert count_flops(student, B, T, 24) == 2 * B * T * (projections + attention)


def test_flops_of_a_teacher_and_its_copy_are_the_same() -> None:
    teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
    copy = Original(**Original.sizes_from(teacher))
    assert count_flops(teacher, 2, 8, 24) == count_flops(copy, 2, 8, 24) > 0


def test_counting_flops_leaves_the_module_alone() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5).eval())
    weight = module[0].weight.clone()
    assert count_flops(module, 1, 3, 4) == 2 * 3 * 16
    assert torch.equal(module[0].weight, weight)
    assert [part.training for part in module.modules()] == [True, True, False]
    assert count_flops(nn.Identity(), 1, 3, 4) == 0


def test_latency_is_the_median_of_warm_runs_in_milliseconds() -> None:
    class Sleeper(nn.Module):
        """Slow at first, then 2 ms, with one run that something else held up."""

        runs = 0

        def forward(self, hidden_states: Tensor) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            assert hidden_states.shape == (3, 5, 4)
            self.runs += 1
            time.sleep(0.1 if self.runs <= 2 or self.runs == 5 else 0.002)
            return hidden_states

    module = nn.Sequential(Sleeper())
    latency = latency_ms(module, 4, seq_length=5, batch_size=3, runs=7, warm_up_runs=2)
    assert 2 <= latency < 50
    assert module[0].runs == 9
    assert module.training
    assert module[0].training


def test_latency_is_taken_in_the_precision_of_the_module() -> None:
    assert latency_ms(nn.Linear(4, 4).bfloat16(), 4, runs=1, warm_up_runs=0) > 0


@pytest.mark.gpu(1)
def test_latency_waits_for_the_gpu() -> None:
    module = nn.Sequential(*[nn.Linear(4096, 4096) for _ in range(16)]).cuda()
    # 16 x 2 x 4096^2 x 4096 operations: no GPU does them in less than 1 ms.
    assert latency_ms(module, 4096, seq_length=1024, batch_size=4, runs=3) > 1


@pytest.mark.parametrize("name", ["seq_length", "batch_size", "hidden_size"])
def test_impossible_sizes_are_refused(name: str) -> None:
    sizes = {"hidden_size": 4, "seq_length": 5, "batch_size": 3, name: 0}
    for measure in (count_flops, latency_ms):
        with pytest.raises(ArgumentError, match=f"{name}=0: allowed: an integer of at least 1"):
            measure(nn.Identity(), **sizes)


@pytest.mark.parametrize(("name", "value"), [("runs", 0), ("warm_up_runs", -1)])
def test_impossible_runs_are_refused(name: str, value: int) -> None:
    with pytest.raises(ArgumentError, match=f"{name}={value}: allowed: "):
        latency_ms(nn.Identity(), 4, **{name: value})
