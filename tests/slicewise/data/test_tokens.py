from __future__ import annotations

import pytest
import torch

from slicewise.data.batch import BatchIndex, Split
from slicewise.data.tokens import TokensDataModule
from slicewise.errors import ArgumentError
from slicewise.teacher import TeacherSlice, minilm

CPU = torch.device("cpu")


def _tokens(teacher: TeacherSlice, **sizes: int) -> TokensDataModule:
    return TokensDataModule(teacher, **{"batch_size": 4, "seq_length": 50, **sizes})


def test_batch_is_what_enters_the_slice(tiny_teacher: TeacherSlice) -> None:
    data = _tokens(tiny_teacher)
    batch = data.make_batch(BatchIndex(Split.TRAIN, 3), CPU)
    ids_BT = data.input_ids(Split.TRAIN, 3)
    expected = data.whole.enter(ids_BT, torch.ones_like(ids_BT, dtype=torch.bool))
    assert torch.equal(batch.hidden_states, expected)
    assert batch.attention_mask is None


def test_rows_begin_and_end_like_texts_and_hold_words() -> None:
    data = _tokens(minilm(), batch_size=64)
    ids_BT = data.input_ids(Split.TRAIN, 0)
    assert (ids_BT[:, 0] == 101).all()
    assert (ids_BT[:, -1] == 102).all()
    words = ids_BT[:, 1:-1]
    # [PAD], [UNK], [CLS], [SEP], [MASK] and BERT's reserve are all below the first letter.
    assert words.min() >= 999
    assert words.max() > 30_000


def test_tokens_are_a_function_of_seed_split_and_number(tiny_teacher: TeacherSlice) -> None:
    one, other = _tokens(tiny_teacher), _tokens(tiny_teacher)
    before = torch.get_rng_state()
    assert torch.equal(one.input_ids(Split.TRAIN, 5), other.input_ids(Split.TRAIN, 5))
    assert torch.equal(before, torch.get_rng_state())
    batches = {
        tuple(data.input_ids(split, number).flatten().tolist())
        for data in (one, _tokens(tiny_teacher, seed=1))
        for split in Split
        for number in range(3)
    }
    assert len(batches) == 12


@pytest.mark.parametrize("seq_length", [2, 513])
def test_length_that_the_model_has_no_place_for(
    seq_length: int, tiny_teacher: TeacherSlice
) -> None:
    with pytest.raises(ArgumentError, match="allowed: 3 to 512"):
        _tokens(tiny_teacher, seq_length=seq_length)
