from __future__ import annotations

import pytest
import torch

from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.data.mixed import MixedDataModule
from slicewise.data.noise import NoiseDataModule
from slicewise.data.text import TextDataModule
from slicewise.errors import ArgumentError
from slicewise.teacher import TeacherSlice

SIZES = {"batch_size": 3, "seq_length": 6}


def _batch(data: HiddenStatesDataModule, split: Split, number: int) -> Batch:
    return data.make_batch(BatchIndex(split, number), torch.device("cpu"))


@pytest.mark.parametrize("split", [Split.TRAIN, Split.VALID])
@pytest.mark.parametrize(
    ("share", "texts"), [(0, []), (0.25, [3, 7]), (0.5, [1, 3, 5, 7]), (1, [*range(8)])]
)
def test_share_of_text(
    share: float, texts: list[int], split: Split, tiny_teacher: TeacherSlice
) -> None:
    mixed = MixedDataModule(tiny_teacher, text_share=share, **SIZES)  # type: ignore[arg-type]
    text = TextDataModule(tiny_teacher, **SIZES)  # type: ignore[arg-type]
    noise = NoiseDataModule(24, **SIZES)
    counted = 0
    for number in range(8):
        batch = _batch(mixed, split, number)
        if number in texts:
            # The texts of the stream of text, in its order.
            expected = _batch(text, split, counted)
            counted += 1
        else:
            expected = _batch(noise, split, number)
            assert batch.attention_mask is None
        assert torch.equal(batch.hidden_states, expected.hidden_states)
        assert batch.origin == BatchIndex(split, number)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_share_that_is_none(share: float, tiny_teacher: TeacherSlice) -> None:
    with pytest.raises(ArgumentError) as caught:
        MixedDataModule(tiny_teacher, text_share=share)
    assert str(caught.value) == f"text_share={share}: allowed: a number from 0 to 1"
