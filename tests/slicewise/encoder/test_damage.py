"""Damage: what the whole model would say, computed from the slice on."""

from __future__ import annotations

import pytest
import torch

from slicewise.encoder.damage import Observations
from slicewise.encoder.sliced import (
    Block,
    Span,
    assemble,
    keep_slice,
    original_encoder,
    partition,
    teacher_slice,
)
from slicewise.errors import ArgumentError
from slicewise.students.bert_layer import BertLayer
from slicewise.students.nothing import Nothing
from slicewise.teacher import minilm
from slicewise.transfer import transfer
from tests.slicewise.encoder.encoders import TEXTS, loud_original, many_texts

NOTHING = Nothing(24)


def test_what_is_kept_does_no_damage() -> None:
    original = loud_original()
    observed = Observations(original, TEXTS, batch_size=2)
    assert observed.damage(keep_slice(original, Span(1, 2))) == pytest.approx((0, 0), abs=1e-5)
    whole = assemble(original, [keep_slice(original, span) for span in partition(4, 2)])
    assert observed.damage_of(whole) == pytest.approx((0, 0), abs=1e-5)
    # Nor does rounding make it better than the original.
    for size in range(1, 5):
        assert Observations(original, TEXTS, batch_size=size).damage_of(whole).damage >= 0


@pytest.mark.parametrize("span", [Span(0, 2), Span(1, 1), Span(2, 2)], ids=str)
def test_it_is_the_cosine_of_the_model_with_that_slice_replaced(span: Span) -> None:
    original = loud_original()
    others = [
        keep_slice(original, Span(layer, 1)) for layer in range(4) if layer not in span.layers
    ]
    blocks = sorted([*others, Block(NOTHING, span)], key=lambda block: block.span)
    encoder = assemble(original, blocks)
    cosine_N = torch.cosine_similarity(encoder.encode(TEXTS), original.encode(TEXTS))
    observed = Observations(original, TEXTS, batch_size=3)
    expected = 1 - cosine_N.mean().item()
    assert expected > 0.01
    assert observed.damage(Block(NOTHING, span)).damage == pytest.approx(expected, abs=1e-5)
    assert observed.damage_of(encoder).damage == pytest.approx(expected, abs=1e-5)


def test_it_is_one_minus_the_transfer_test() -> None:
    teacher = minilm(2, 2)
    student = BertLayer(**{**BertLayer.sizes_from(teacher), "num_layers": 1}).eval()
    student.start_from(teacher)
    observed = Observations(original_encoder(teacher), TEXTS)
    expected = transfer(student, teacher, TEXTS)
    measured = observed.damage(Block(student, Span(2, 2), [2]))
    assert measured.text_l1 == pytest.approx(expected.text_l1, abs=1e-5)
    assert 1 - measured.damage == pytest.approx(expected.text_cosine, abs=1e-5)


def test_what_enters_and_leaves_is_the_originals() -> None:
    original = loud_original(3)
    observed = Observations(original, many_texts(20), batch_size=8)
    for layer in range(3):
        teacher = teacher_slice(original, Span(layer, 1))
        for batch, leaving_BTH in zip(
            observed.entering(layer), observed.leaving(layer), strict=True
        ):
            output_BTH = teacher(batch.hidden_states, batch.attention_mask)
            torch.testing.assert_close(output_BTH, leaving_BTH)


def test_modes_are_left_as_they_were() -> None:
    original = loud_original(2)
    block = keep_slice(original, Span(0, 2)).train()
    Observations(original, TEXTS).damage(block)
    assert all(part.training for part in block.modules())


def test_there_must_be_texts() -> None:
    with pytest.raises(ArgumentError, match="at least one text"):
        Observations(loud_original(1), [])
