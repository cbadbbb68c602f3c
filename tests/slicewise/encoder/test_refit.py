"""First weights in a row: nearer to the original, exact where nothing was changed."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.encoder.damage import Observations
from slicewise.encoder.refit import refit, refit_encoder, targets_of
from slicewise.encoder.sliced import (
    Block,
    SlicedEncoder,
    Span,
    assemble,
    keep_slice,
    partition,
    teacher_slice,
)
from slicewise.students.bert_layer import BertLayer
from slicewise.students.nothing import Nothing
from tests.slicewise.encoder.encoders import loud_original, many_texts


@pytest.fixture(scope="module")
def original() -> SlicedEncoder:
    return loud_original()


@pytest.fixture(scope="module")
def observed(original: SlicedEncoder) -> Observations:
    return Observations(original, many_texts(200))


def _narrow(original: SlicedEncoder, span: Span, neurons: int = 16, num_layers: int = 1) -> Block:
    teacher = teacher_slice(original, span)
    sizes = {**BertLayer.sizes_from(teacher), "num_layers": num_layers}
    student = BertLayer(**{**sizes, "intermediate_size": neurons}).eval()
    student.start_from(teacher)
    return Block(student, span, span.layers[:num_layers])


def test_a_row_of_narrow_layers_gets_nearer(
    original: SlicedEncoder, observed: Observations
) -> None:
    spans = partition(4, 1)
    blocks = [_narrow(original, span) for span in spans]
    blocks[2] = Block(Nothing(24), spans[2])
    encoder = assemble(original, blocks)
    before = observed.damage_of(encoder)
    refit_encoder(encoder, observed)
    after = observed.damage_of(encoder)
    assert after.text_l1 < 0.8 * before.text_l1
    assert after.damage < 0.8 * before.damage


def test_each_layer_makes_up_for_those_before_it(
    original: SlicedEncoder, observed: Observations
) -> None:
    """The second, fitted to what the first really returns, is better than fitted by itself."""
    blocks = [_narrow(original, Span(layer, 1)) for layer in (0, 1)]
    apart = copy.deepcopy(blocks)
    refit(blocks, observed)
    for block in apart:
        refit([block], observed)
    kept = [keep_slice(original, Span(layer, 1)) for layer in (2, 3)]
    damages = [
        observed.damage_of(assemble(original, [*each, *kept])).damage for each in (blocks, apart)
    ]
    assert damages[0] < damages[1]


@settings(max_examples=8, deadline=None)
@given(lengths=st.sampled_from([[1, 1, 1, 1], [2, 2], [4], [1, 3]]))
def test_what_was_not_changed_stays_to_the_bit(lengths: list[int]) -> None:
    original = loud_original()
    observed = Observations(original, many_texts(20))
    blocks = [keep_slice(original, span) for span in partition(4, lengths)]
    before = copy.deepcopy([block.state_dict() for block in blocks])
    refit(blocks, observed)
    for block, state in zip(blocks, before, strict=True):
        assert all(torch.equal(t, state[name]) for name, t in block.state_dict().items())


def test_layers_before_the_first_change_stay_and_those_after_it_follow(
    original: SlicedEncoder, observed: Observations
) -> None:
    blocks = [
        keep_slice(original, Span(0, 1)),
        _narrow(original, Span(1, 1)),
        keep_slice(original, Span(2, 2)),
    ]
    before = copy.deepcopy([block.state_dict() for block in blocks])
    refit(blocks, observed)
    changed = [
        any(not torch.equal(t, state[name]) for name, t in block.state_dict().items())
        for block, state in zip(blocks, before, strict=True)
    ]
    assert changed == [False, True, True]


def test_a_student_without_layers_is_run_and_left(
    original: SlicedEncoder, observed: Observations
) -> None:
    blocks = [Block(Nothing(24), Span(0, 1)), _narrow(original, Span(1, 3), 48)]
    before = observed.damage_of(assemble(original, blocks)).text_l1
    refit(blocks, observed)
    assert observed.damage_of(assemble(original, blocks)).text_l1 < before
    refit([], observed)


def test_targets_are_what_the_next_block_follows() -> None:
    def blocks(*kinds: str) -> list[Block]:
        original = loud_original(len(kinds))
        return [
            _narrow(original, Span(layer, 1))
            if kind == "layer"
            else Block(Nothing(24), Span(layer, 1))
            for layer, kind in enumerate(kinds)
        ]

    assert targets_of(blocks("layer", "layer", "layer")) == [1, 2, 3]
    assert targets_of(blocks("layer", "nothing", "nothing", "layer")) == [3, None, None, 4]
    assert targets_of(blocks("nothing", "layer", "nothing")) == [None, 3, None]
    assert targets_of(blocks("nothing")) == [None]
