"""Slices that are a block of one layer.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import pytest
import torch

from slicewise.encoder.sliced import original_encoder
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.bert_layer import BertLayer
from slicewise.teacher import load_slice
from slicewise.transfer import TransferTest
from slicewise.whole import additive_mask
from tests.slicewise.architectures.checkpoints import NAMES, WORDS, folder_of, slice_of

TEXTS = [" ".join(WORDS[n : n + 3 + n % 4]) for n in range(6)]


@pytest.mark.parametrize("name", NAMES)
def test_two_blocks_are_the_layer(name: str) -> None:
    attention, feed_forward = (
        load_slice(folder_of(name), 1, 1, sublayer=block) for block in ("attention", "feed_forward")
    )
    whole = slice_of(name, 1, 1)
    x_BTH = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(1))
    keep_BT = torch.arange(7) < torch.tensor([7, 4])[:, None]
    mask = additive_mask(keep_BT)
    output_BTH, expected_BTH = feed_forward(attention(x_BTH, mask), mask), whole(x_BTH, mask)
    torch.testing.assert_close(output_BTH[keep_BT], expected_BTH[keep_BT], atol=1e-5, rtol=0)
    assert not torch.allclose(attention(x_BTH, mask), expected_BTH, atol=1e-2)


@pytest.mark.parametrize("block", ["attention", "feed_forward"])
def test_the_block_in_its_own_place_is_the_model(block: str) -> None:
    teacher = load_slice(folder_of("bert"), 1, 1, sublayer=block)
    found = TransferTest(teacher, TEXTS)(teacher)
    assert found.text_l1 == 0
    assert found.text_cosine == pytest.approx(1, abs=1e-6)
    whole, original = teacher.whole(), slice_of("bert", 1, 1).whole()
    ids_BT, keep_BT = whole.tokenize(TEXTS, 12)
    mask = additive_mask(keep_BT)
    embeddings_BH = whole.leave(teacher(whole.enter(ids_BT, keep_BT), mask), keep_BT)
    expected_BTH = slice_of("bert", 1, 1)(original.enter(ids_BT, keep_BT), mask)
    torch.testing.assert_close(embeddings_BH, original.leave(expected_BTH, keep_BT))


def test_what_a_block_cannot_be() -> None:
    folder = folder_of("bert")
    with pytest.raises(ArgumentError, match="sublayer=attention: allowed: layer, as the slice has"):
        load_slice(folder, 0, 2, sublayer="attention")
    with pytest.raises(ArgumentError, match="sublayer=heads: allowed: layer, attention, feed_for"):
        load_slice(folder, 0, 1, sublayer="heads")
    teacher = load_slice(folder, 0, 1, sublayer="attention")
    with pytest.raises(SlicewiseError, match="student=approx"):
        BertLayer.sizes_from(teacher)
    with pytest.raises(ArgumentError, match="whole encoder is made of whole layers"):
        original_encoder(teacher)
