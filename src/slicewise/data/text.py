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

from slicewise.data.batch import BatchIndex, Split, batch_seed
from slicewise.data.corpus import Source, read_texts, split_of
from slicewise.data.entering import EnteringDataModule
from slicewise.errors import ArgumentError
from slicewise.teacher import TeacherSlice
from slicewise.waiting import waiting_for
from slicewise.whole import WholeModel


class TextDataModule(EnteringDataModule):
    """Texts through the teacher's tokenizer, embeddings and lower layers, with their masks.

    One text a row, cut off or filled up to `seq_length`. Texts come in an order shuffled anew for
    each pass; training and validation never share one (see `slicewise.data.corpus.split_of`), and
    no batch is made of a text that is for the test.

    Args:
        teacher: Whose slice the hidden states enter.
        batch_size, train_batches, valid_batches: As in `HiddenStatesDataModule`.
        seq_length: T; 64, as most sentences are shorter.
        seed: Of the order of the texts.
        files: Paths of `.txt` files (a text a line) and `.jsonl` files (an object a line). The
            docstrings of the Python standard library, unless these or `dataset` are given.
        dataset: A Hugging Face data set, by the package `datasets`.
        dataset_config: Which of its configurations; for those that have one only, None.
        dataset_split: Which of its splits to read; it is split again, by each text's hash.
        text_field: Where the text is, in a row of the data set or of a `.jsonl`.
        max_texts: Texts after which reading stops; they are kept in memory, as tokens.

    Raises:
        ArgumentError: A size is not allowed, or the texts cannot be had or are too few.
        SlicewiseError: A file is damaged, or the teacher's whole model cannot be loaded.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from slicewise.data.batch import BatchIndex, Split
        >>> from slicewise.data.text import TextDataModule
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "texts.txt")
        ...     _ = path.write_text("\\n".join(f"Sentence {number}." for number in range(50)))
        ...     data = TextDataModule(teacher, batch_size=2, seq_length=7, files=[str(path)])
        >>> batch = data.make_batch(BatchIndex(Split.TRAIN, 0), torch.device("cpu"))
        >>> batch.hidden_states.shape
        torch.Size([2, 7, 24])
        >>> batch.real_tokens()[0]  # [CLS] Sentence 17 . [SEP]
        tensor([ True,  True,  True,  True,  True, False, False])
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
        super().__init__(teacher, batch_size, seq_length, train_batches, valid_batches, seed)
        paths = (files,) if isinstance(files, str) else tuple(files or ())
        source = Source(paths, dataset, dataset_config, dataset_split, text_field, max_texts)
        stamps = tuple(map(_stamp, paths))
        self._tokens = _tokenized(self.whole, source, stamps, seq_length)

    def token_ids(self, index: BatchIndex) -> tuple[Tensor, Tensor]:
        rows_B = torch.tensor(self.rows(index))
        ids_NT, keep_NT = self._tokens[index.split]
        return ids_NT[rows_B].long(), keep_NT[rows_B]

    def rows(self, index: BatchIndex) -> list[int]:
        """Which of the split's texts are in a batch."""
        if index.split not in self._tokens:
            raise ArgumentError("split", index.split.name.lower(), "train, valid")
        num_texts = len(self._tokens[index.split].keep)
        first = index.number * self.batch_size
        places = (divmod(place, num_texts) for place in range(first, first + self.batch_size))
        return [_order(self.seed, index.split, turn, num_texts)[place] for turn, place in places]

    def digest(self) -> str:
        """Names the weights and the texts, as tokens."""
        digest = hashlib.sha256(f"text\n{self.whole.digest()}\n".encode())
        for tokens in self._tokens.values():
            digest.update(tokens.input_ids.numpy().tobytes())
            digest.update(tokens.keep.numpy().tobytes())
        return digest.hexdigest()


class _Tokens(NamedTuple):
    """The tokenized texts of one split.

    Attributes:
        input_ids: (N, T), of 32 bits.
        keep: Which are real tokens, (N, T).
    """

    input_ids: Tensor
    keep: Tensor


@functools.lru_cache(maxsize=2)
def _tokenized(
    whole: WholeModel, source: Source, stamps: tuple[object, ...], seq_length: int
) -> dict[Split, _Tokens]:
    """Reads and tokenizes a source, once for all trials of a process.

    `stamps` tell files that have changed since.
    """
    with waiting_for(f"Reading {source}"):
        texts = read_texts(source)
    tokens = {}
    for split in (Split.TRAIN, Split.VALID):
        chosen = [text for text in texts if split_of(text) is split]
        if not chosen:
            raise ArgumentError(
                "dataset" if source.dataset else "files",
                source,
                f"enough texts: none of the {len(texts)} is for {split.name.lower()}",
            )
        with waiting_for(f"Tokenizing {len(chosen):,} texts"):
            ids_NT, keep_NT = whole.pad(whole.tokenizer.encode(chosen, seq_length), seq_length)
        tokens[split] = _Tokens(ids_NT.int(), keep_NT)
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
