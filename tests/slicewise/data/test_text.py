from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.corpus import split_of
from slicewise.data.text import TextDataModule
from slicewise.errors import ArgumentError
from slicewise.teacher import TeacherSlice, minilm
from slicewise.whole import additive_mask

CPU = torch.device("cpu")
TEXTS = [f"Sentence {number} is {'very ' * (number % 5)}short." for number in range(200)]


@pytest.fixture
def text_file(tmp_path: Path) -> str:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS))
    return str(path)


@pytest.fixture
def new_text(tiny_teacher: TeacherSlice, text_file: str) -> Callable[..., TextDataModule]:
    """Makes text for `tiny_teacher`, in rows of 3 x 6."""

    def make(**arguments: object) -> TextDataModule:
        sizes = {"batch_size": 3, "seq_length": 6, "train_batches": 4, "valid_batches": 2}
        options = {**sizes, "files": [text_file], **arguments}
        return TextDataModule(tiny_teacher, **options)  # type: ignore[arg-type]

    return make


def _batch(data: TextDataModule, split: Split, number: int) -> Batch:
    return data.make_batch(BatchIndex(split, number), CPU)


def test_batch_is_what_enters_the_slice(new_text: Callable[..., TextDataModule]) -> None:
    data = new_text(batch_size=5, seq_length=12)
    train = [text for text in TEXTS if split_of(text) is Split.TRAIN]
    chosen = [train[row] for row in data.rows(BatchIndex(Split.TRAIN, 2))]
    ids_BT, keep_BT = data.whole.pad(data.whole.tokenizer.encode(chosen, 12), 12)
    batch = _batch(data, Split.TRAIN, 2)
    assert batch.hidden_states.shape == (5, 12, 24)
    assert torch.equal(batch.hidden_states, data.whole.enter(ids_BT, keep_BT))
    expected = additive_mask(keep_BT)
    assert expected is not None
    assert batch.attention_mask is not None
    assert torch.equal(batch.attention_mask, expected)
    assert batch.origin == BatchIndex(Split.TRAIN, 2)


def test_full_rows_have_no_mask(new_text: Callable[..., TextDataModule]) -> None:
    assert _batch(new_text(seq_length=4), Split.TRAIN, 0).attention_mask is None


def test_every_text_once_in_each_pass(new_text: Callable[..., TextDataModule]) -> None:
    data = new_text()
    num_texts = sum(split_of(text) is Split.TRAIN for text in TEXTS)
    rows = [
        row for number in range(num_texts) for row in data.rows(BatchIndex(Split.TRAIN, number))
    ]
    passes = [rows[start : start + num_texts] for start in range(0, len(rows), num_texts)]
    assert len(passes) == 3
    assert all(sorted(one) == list(range(num_texts)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_training_and_validation_share_no_text(new_text: Callable[..., TextDataModule]) -> None:
    data = new_text(seq_length=12)
    assert set(data._tokens) == {Split.TRAIN, Split.VALID}
    for split, tokens in data._tokens.items():
        texts = [text for text in TEXTS if split_of(text) is split]
        expected, _ = data.whole.pad(data.whole.tokenizer.encode(texts, 12), 12)
        assert torch.equal(tokens.input_ids.long(), expected)


def test_texts_are_read_and_tokenized_once(
    new_text: Callable[..., TextDataModule], text_file: str
) -> None:
    one, other = new_text(), new_text(seed=4, batch_size=2)
    assert one._tokens is other._tokens
    Path(text_file).write_text("\n".join(TEXTS[:150]))
    assert new_text()._tokens is not one._tokens


def test_no_batch_is_made_of_test_texts(new_text: Callable[..., TextDataModule]) -> None:
    with pytest.raises(ArgumentError) as caught:
        _batch(new_text(), Split.TEST, 0)
    assert str(caught.value) == "split=test: allowed: train, valid"


def test_minilm_on_the_standard_library() -> None:
    data = TextDataModule(minilm(2, 1), batch_size=4)
    batch = _batch(data, Split.VALID, 0)
    assert batch.hidden_states.shape == (4, 64, 384)
    assert not batch.hidden_states.requires_grad
    assert batch.hidden_states.isfinite().all()


# Errors


def test_too_few_texts(new_text: Callable[..., TextDataModule], tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("Return the result.")
    with pytest.raises(ArgumentError) as caught:
        new_text(files=str(tmp_path / "few.txt"))
    assert str(caught.value) == (
        f"files={tmp_path / 'few.txt'}: allowed: enough texts: none of the 1 is for valid"
    )


def test_no_such_file(new_text: Callable[..., TextDataModule]) -> None:
    with pytest.raises(ArgumentError, match="No such file"):
        new_text(files=["none.txt"])
