from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.corpus import Part, part_of
from slicewise.data.noise import NoiseDataModule
from slicewise.data.text import TextDataModule
from slicewise.distiller import Distiller
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


def _batch(data: NoiseDataModule, split: Split, number: int) -> Batch:
    return data.make_batch(BatchIndex(split, number), CPU)


def _equal(one: Batch, other: Batch) -> bool:
    masks = one.attention_mask, other.attention_mask
    return torch.equal(one.hidden_states, other.hidden_states) and (
        torch.equal(*masks)
        if isinstance(masks[0], Tensor) and masks[1] is not None
        else masks[0] is masks[1]
    )


def test_batch_is_what_enters_the_slice(new_text: Callable[..., TextDataModule]) -> None:
    data = new_text(batch_size=5, seq_length=12)
    train = [text for text in TEXTS if part_of(text) is Part.TRAIN]
    chosen = [train[row] for row in data.rows(Split.TRAIN, 2)]
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


def test_batch_is_a_function_of_its_number(new_text: Callable[..., TextDataModule]) -> None:
    one, other = new_text(), new_text()
    for number in (7, 0, 3):
        _batch(other, Split.VALID, number)
    torch.manual_seed(12)
    for split in Split:
        assert _equal(_batch(one, split, 5), _batch(other, split, 5))
        assert not _equal(_batch(one, split, 5), _batch(one, split, 6))
        assert not _equal(_batch(one, split, 5), _batch(new_text(seed=1), split, 5))


def test_making_a_batch_leaves_the_global_generator_alone(
    new_text: Callable[..., TextDataModule],
) -> None:
    before = torch.get_rng_state()
    _batch(new_text(), Split.TRAIN, 0)
    assert torch.equal(before, torch.get_rng_state())


def test_every_text_once_in_each_pass(new_text: Callable[..., TextDataModule]) -> None:
    data = new_text()
    num_texts = sum(part_of(text) is Part.TRAIN for text in TEXTS)
    rows = [row for number in range(num_texts) for row in data.rows(Split.TRAIN, number)]
    passes = [rows[start : start + num_texts] for start in range(0, len(rows), num_texts)]
    assert len(passes) == 3
    assert all(sorted(one) == list(range(num_texts)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_training_and_validation_share_no_text(new_text: Callable[..., TextDataModule]) -> None:
    data = new_text(seq_length=12)
    assert set(data._tokens) == {Part.TRAIN, Part.VALID}
    for part, tokens in data._tokens.items():
        texts = [text for text in TEXTS if part_of(text) is part]
        expected, _ = data.whole.pad(data.whole.tokenizer.encode(texts, 12), 12)
        assert torch.equal(tokens.input_ids.long(), expected)


def test_ranks_take_turns(
    new_text: Callable[..., TextDataModule], new_trainer: Callable[..., Trainer]
) -> None:
    data = new_text(train_batches=6, valid_batches=4)
    data.trainer = new_trainer(devices=2, strategy="ddp_spawn")
    train, valid = data.train_dataloader(), data.val_dataloader()
    assert (train.rank, train.world_size, len(train)) == (0, 2, 3)
    assert [index.number for index in valid] == [0, 2]
    train.rank = 1
    stream = iter(train)
    assert [next(stream).number for _ in range(3)] == [1, 3, 5]


def test_resumed_stream_goes_on_where_it_stopped(new_text: Callable[..., TextDataModule]) -> None:
    stopped = new_text()
    stream = iter(stopped.train_dataloader())
    seen = [next(stream) for _ in range(3)]
    resumed = new_text()
    resumed.load_state_dict(stopped.state_dict())
    following = next(iter(resumed.train_dataloader()))
    assert following == BatchIndex(Split.TRAIN, len(seen))


def test_a_fit_on_text(
    new_text: Callable[..., TextDataModule],
    new_trainer: Callable[..., Trainer],
    new_distiller: Callable[..., Distiller],
) -> None:
    trainer = new_trainer()
    trainer.fit(new_distiller(), datamodule=new_text())
    assert trainer.global_step == 4
    assert trainer.callback_metrics["valid_l1"].isfinite()


def test_texts_are_read_and_tokenized_once(
    new_text: Callable[..., TextDataModule], text_file: str
) -> None:
    one, other = new_text(), new_text(seed=4, batch_size=2)
    assert one._tokens is other._tokens
    Path(text_file).write_text("\n".join(TEXTS[:150]))
    changed = new_text()
    assert changed._tokens is not one._tokens
    assert changed.digest() != one.digest() == other.digest()


def test_minilm_on_the_standard_library() -> None:
    data = TextDataModule(minilm(2, 1), batch_size=4)
    batch = _batch(data, Split.VALID, 0)
    assert batch.hidden_states.shape == (4, 64, 384)
    assert not batch.hidden_states.requires_grad
    assert batch.hidden_states.isfinite().all()


# Errors


@pytest.mark.parametrize("seq_length", [2, 513])
def test_length_that_the_model_has_no_place_for(
    seq_length: int, new_text: Callable[..., TextDataModule]
) -> None:
    with pytest.raises(ArgumentError) as caught:
        new_text(seq_length=seq_length)
    assert str(caught.value) == f"seq_length={seq_length}: allowed: 3 to 512"


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
