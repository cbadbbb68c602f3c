"""Text: the hidden states that really enter the slice.

Shapes: B batch, T tokens, H hidden size, N texts.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.corpus import Part, Source, part_of, read_texts
from slicewise.data.noise import NoiseDataModule, batch_seed
from slicewise.errors import ArgumentError
from slicewise.teacher import TeacherSlice
from slicewise.whole import WholeModel, additive_mask

_PARTS = {Split.TRAIN: Part.TRAIN, Split.VALID: Part.VALID}
# A row holds the special tokens that begin and end it, and something between them.
MIN_SEQ_LENGTH = 3


class TextDataModule(NoiseDataModule):
    """Texts through the teacher's tokenizer, embeddings and lower layers, with their masks.

    One text a row, cut off or filled up to `seq_length`. Texts come in an order shuffled anew for
    each pass; training and validation never share one (see `slicewise.data.corpus.part_of`), and
    neither sees a test text. The stream of batches is that of noise: each is a function of the
    seed and its number alone.

    Args:
        teacher: Whose slice the hidden states enter.
        batch_size: B, on each rank.
        seq_length: T.
        train_batches: Batches in an epoch, all ranks together.
        valid_batches: Batches of the fixed validation set, all ranks together.
        seed: Of the order of the texts.
        files: Paths of `.txt` files (a text a line) and `.jsonl` files (an object a line). The
            docstrings of the Python standard library, unless these or `dataset` are given.
        dataset: A Hugging Face data set, by the package `datasets`.
        dataset_config: Which of its configurations.
        dataset_split: Which of its splits to read.
        text_field: Where the text is, in a row of the data set or of a `.jsonl`.
        max_texts: Texts after which reading stops.

    Raises:
        ArgumentError: A size is not allowed, or the texts cannot be had or are too few.
        SlicewiseError: A file is damaged, or the teacher's whole model cannot be loaded.
    """

    def __init__(
        self,
        teacher: TeacherSlice,
        batch_size: int = 32,
        seq_length: int = 64,
        train_batches: int = 1000,
        valid_batches: int = 10,
        seed: int = 0,
        files: Sequence[str] | str | None = None,
        dataset: str | None = None,
        dataset_config: str | None = None,
        dataset_split: str = "train",
        text_field: str = "text",
        max_texts: int = 100_000,
    ) -> None:
        super().__init__(
            teacher.hidden_size, batch_size, seq_length, train_batches, valid_batches, seed
        )
        self.whole = teacher.whole()
        check_seq_length(seq_length, self.whole)
        paths = (files,) if isinstance(files, str) else tuple(files or ())
        source = Source(paths, dataset, dataset_config, dataset_split, text_field, max_texts)
        stamps = tuple(map(_stamp, paths))
        self._tokens = _tokenized(self.whole, source, stamps, seq_length)

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        ids_NT, keep_NT = self._tokens[_PARTS[index.split]]
        rows_B = torch.tensor(self.rows(index.split, index.number))
        keep_BT = keep_NT[rows_B]
        hidden_states = enter(self.whole, ids_NT[rows_B].long(), keep_BT, device)
        mask = additive_mask(keep_BT)
        return Batch(hidden_states, None if mask is None else mask.to(device), index)

    def digest(self) -> str:
        """Names the texts and weights that, with sizes and seed, decide every batch."""
        digest = hashlib.sha256(self.whole.digest().encode())
        for tokens in self._tokens.values():
            digest.update(tokens.input_ids.numpy().tobytes())
            digest.update(tokens.keep.numpy().tobytes())
        return digest.hexdigest()

    def rows(self, split: Split, number: int) -> list[int]:
        """Which of the split's texts are in a batch."""
        num_texts = len(self._tokens[_PARTS[split]].keep)
        size = self.sizes["batch_size"]
        places = (divmod(place, num_texts) for place in range(number * size, (number + 1) * size))
        return [_order(self.seed, split, turn, num_texts)[place] for turn, place in places]


class _Tokens(NamedTuple):
    """The tokenized texts of one part.

    Attributes:
        input_ids: (N, T), of 32 bits.
        keep: Which are real tokens, (N, T).
    """

    input_ids: Tensor
    keep: Tensor


def check_seq_length(seq_length: int, whole: WholeModel) -> None:
    """Refuses what has no room for a word, or more tokens than the model has positions for."""
    if not MIN_SEQ_LENGTH <= seq_length <= whole.max_length:
        raise ArgumentError("seq_length", seq_length, f"{MIN_SEQ_LENGTH} to {whole.max_length}")


def enter(whole: WholeModel, input_ids: Tensor, keep: Tensor, device: torch.device) -> Tensor:
    """The hidden states (B, T, H) that enter the slice, made on `device`.

    Args:
        whole: Moved there.
        input_ids: (B, T).
        keep: Which are real tokens, (B, T).
        device: Where.
    """
    # Parameters that move in inference mode, as in a validation, could not be used outside it.
    with torch.inference_mode(False):
        whole.to(device)
    return whole.enter(input_ids.to(device), keep.to(device))


@functools.lru_cache(maxsize=2)
def _tokenized(
    whole: WholeModel, source: Source, stamps: tuple[object, ...], seq_length: int
) -> dict[Part, _Tokens]:
    """Reads and tokenizes a source, once for all trials of a process.

    `stamps` tell files that have changed since.
    """
    texts = read_texts(source)
    tokens = {}
    for part in _PARTS.values():
        chosen = [text for text in texts if part_of(text) is part]
        if not chosen:
            raise ArgumentError(
                "dataset" if source.dataset else "files",
                source,
                f"enough texts: none of the {len(texts)} is for {part.value}",
            )
        ids_NT, keep_NT = whole.pad(whole.tokenizer.encode(chosen, seq_length), seq_length)
        tokens[part] = _Tokens(ids_NT.int(), keep_NT)
    return tokens


@functools.lru_cache(maxsize=4)
def _order(seed: int, split: Split, turn: int, num_texts: int) -> list[int]:
    """The order of the texts in one pass over them."""
    generator = torch.Generator().manual_seed(batch_seed(seed, split, turn))
    order: list[int] = torch.randperm(num_texts, generator=generator).tolist()
    return order


def _stamp(file: str) -> object:
    path = Path(file)
    return (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else None
