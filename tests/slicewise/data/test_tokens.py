from __future__ import annotations

import torch

from slicewise.data.batch import BatchIndex, Split
from slicewise.data.tokens import TokensDataModule
from slicewise.teacher import TeacherSlice, minilm

CPU = torch.device("cpu")


def _tokens(teacher: TeacherSlice, **sizes: int) -> TokensDataModule:
    return TokensDataModule(teacher, **{"batch_size": 4, "seq_length": 50, **sizes})


def test_batch_is_what_enters_the_slice(tiny_teacher: TeacherSlice) -> None:
    data = _tokens(tiny_teacher)
    batch = data.make_batch(BatchIndex(Split.TRAIN, 3), CPU)
    ids_BT, keep_BT = data.token_ids(BatchIndex(Split.TRAIN, 3))
    assert keep_BT.all()
    expected = data.whole.enter(ids_BT, keep_BT)
    assert torch.equal(batch.hidden_states, expected)
    assert batch.attention_mask is None


def test_rows_begin_and_end_like_texts_and_hold_words() -> None:
    data = _tokens(minilm(), batch_size=64)
    ids_BT, _ = data.token_ids(BatchIndex(Split.TRAIN, 0))
    assert (ids_BT[:, 0] == 101).all()
    assert (ids_BT[:, -1] == 102).all()
    words = ids_BT[:, 1:-1]
    # [PAD], [UNK], [CLS], [SEP], [MASK] and BERT's reserve are all below the first letter.
    assert words.min() >= 999
    assert words.max() > 30_000
