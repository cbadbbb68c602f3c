"""The encoder of blocks: equal to the original where it keeps all, whatever the partition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import PreTrainedModel

from slicewise.encoder.sliced import (
    Block,
    SlicedEncoder,
    Span,
    assemble,
    keep_slice,
    original_encoder,
    partition,
    student_of,
    teacher_slice,
)
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.nothing import Nothing
from slicewise.teacher import minilm
from slicewise.whole import Pooling
from tests.slicewise.encoder.encoders import TEXTS, loud_original


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_keeping_everything_is_the_original(lengths: list[int]) -> None:
    original = loud_original(sum(lengths))
    spans = partition(sum(lengths), lengths)
    encoder = assemble(original, [keep_slice(original, span) for span in spans])
    torch.testing.assert_close(encoder.encode(TEXTS), original.encode(TEXTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("first_layer", "num_layers"), [(0, 6), (2, 2)])
def test_minilms_original_is_minilm(
    first_layer: int, num_layers: int, minilm_model: PreTrainedModel
) -> None:
    original = original_encoder(minilm(first_layer, num_layers))
    ids_BT, keep_BT = original.tokenize(TEXTS, 128)
    with torch.no_grad():
        expected_BTH = minilm_model(ids_BT, keep_BT).last_hidden_state
    pooled_BH = Pooling()(expected_BTH, keep_BT)
    torch.testing.assert_close(original.encode(TEXTS), pooled_BH, atol=1e-5, rtol=0)
    kept = assemble(original, [keep_slice(original, span) for span in partition(6, 2)])
    torch.testing.assert_close(kept.encode(TEXTS), pooled_BH, atol=1e-5, rtol=0)


def test_the_states_are_those_between_the_blocks() -> None:
    original = loud_original(3)
    encoder = assemble(
        original, [keep_slice(original, span) for span in partition(3, [2, 1])]
    ).eval()
    ids_BT, keep_BT = original.tokenize(TEXTS, 32)
    with torch.no_grad():
        entered_BTH = encoder.enter(ids_BT, keep_BT)
        theirs = original.states(entered_BTH, keep_BT)
        ours = encoder.states(entered_BTH, keep_BT)
        for one, other in zip(ours, [theirs[0], theirs[2], theirs[3]], strict=True):
            torch.testing.assert_close(one[keep_BT], other[keep_BT], atol=1e-5, rtol=0)
        torch.testing.assert_close(encoder(ids_BT, keep_BT), ours[-1])


def test_texts_are_encoded_alike_in_any_company() -> None:
    original = loud_original(2)
    together = original.encode(TEXTS)
    alone = torch.cat([original.encode([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, original.encode(TEXTS, batch_size=3), atol=1e-5, rtol=0)
    assert not torch.allclose(together, original.encode(TEXTS, max_length=4), atol=1e-3)


def test_encoding_leaves_the_modes_as_they_were() -> None:
    original = loud_original(2)
    encoder = assemble(original, [keep_slice(original, span) for span in partition(2, 1)])
    encoder.train()
    encoder.encode(TEXTS)
    assert all(block.training for block in encoder.blocks)
    # Not even in training: its dropout would make every text another one.
    assert not any(part.training for part in encoder.embeddings.modules())


def test_the_weights_of_an_original_are_in_memory_once() -> None:
    teacher = minilm(2, 2)
    original = original_encoder(teacher)
    theirs = {p.data_ptr() for p in (*teacher.parameters(), *teacher.whole().parameters())}
    assert {p.data_ptr() for p in original.parameters()} == theirs
    encoder = assemble(original, [Block(Nothing(384), Span(0, 6))])
    assert all(p.data_ptr() in theirs for p in encoder.parameters())


def test_a_slice_of_the_original_is_the_teacher_slice() -> None:
    original = original_encoder(minilm(0, 1))
    span = Span(2, 2)
    x_BTH = torch.randn(2, 5, 384)
    torch.testing.assert_close(teacher_slice(original, span)(x_BTH), minilm(2, 2)(x_BTH))


def test_blocks_follow_on_each_other() -> None:
    original = loud_original(3)
    blocks = [Block(Nothing(24), Span(0, 1)), Block(Nothing(24), Span(2, 1))]
    with pytest.raises(SlicewiseError, match=r"layer 0, layer 2: each has to begin where"):
        assemble(original, blocks)
    with pytest.raises(SlicewiseError, match=r"blocks for 1 layers: the original has 3"):
        assemble(original, blocks[:1])
    with pytest.raises(SlicewiseError, match=r"layer 0: Linear is no student"):
        student_of(Block(nn.Linear(24, 24), Span(0, 1)))


@given(num_layers=st.integers(1, 30), length=st.integers(1, 30))
def test_a_partition_covers_all_layers_once(num_layers: int, length: int) -> None:
    spans = partition(num_layers, length)
    assert [layer for span in spans for layer in span.layers] == list(range(num_layers))
    assert {span.num_layers for span in spans[:-1]} <= {length}


@pytest.mark.parametrize("wrong", [0, -1, [3, 2], [0, 6], [7, -1]])
def test_a_partition_of_other_layers_is_refused(wrong: int | list[int]) -> None:
    with pytest.raises(ArgumentError, match="partition="):
        partition(6, wrong)


def test_it_is_a_module_that_moves() -> None:
    original = loud_original(2)
    encoder: SlicedEncoder = assemble(
        original, [keep_slice(original, span) for span in partition(2, 1)]
    )
    assert encoder.hidden_size == 24
    assert encoder.num_layers == 2
    assert encoder.double().encode(TEXTS).dtype == torch.float32
