"""Noise and text in turns."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

from slicewise.data.batch import Batch, BatchIndex
from slicewise.data.noise import noise_batch
from slicewise.data.text import TextDataModule
from slicewise.errors import ArgumentError
from slicewise.teacher import TeacherSlice


class MixedDataModule(TextDataModule):
    """Batches of noise and batches of text in a stated share, evenly spread.

    Which of the two a batch is, its number decides: with a share of 0.25, every fourth is text.
    The validation set is fixed and mixed in the same way.

    Args:
        teacher: Whose slice the hidden states enter.
        batch_size, train_batches, valid_batches: As in `HiddenStatesDataModule`.
        seq_length: T, of noise and of text.
        seed: Of the noise and of the order of the texts.
        text_share: The part of the batches that is text, from 0 to 1; half of them.
        files, dataset, dataset_config, dataset_split, text_field, max_texts: As in
            `TextDataModule`.

    Raises:
        ArgumentError: The share or a size is not allowed, or the texts cannot be had.
        SlicewiseError: A file is damaged, or the teacher's whole model cannot be loaded.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from slicewise.data.batch import BatchIndex, Split
        >>> from slicewise.data.mixed import MixedDataModule
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "texts.txt")
        ...     _ = path.write_text("\\n".join(f"Sentence {number}." for number in range(50)))
        ...     data = MixedDataModule(teacher, batch_size=2, text_share=0.25, files=[str(path)])
        >>> batches = [
        ...     data.make_batch(BatchIndex(Split.TRAIN, number), torch.device("cpu"))
        ...     for number in range(8)
        ... ]
        >>> ["noise" if batch.attention_mask is None else "text" for batch in batches]
        ['noise', 'noise', 'noise', 'text', 'noise', 'noise', 'noise', 'text']
    """

    def __init__(
        self,
        teacher: TeacherSlice,
        batch_size: int = 32,
        seq_length: int = 64,
        train_batches: int = 1000,
        valid_batches: int = 10,
        seed: int = 0,
        text_share: float = 0.5,
        files: Sequence[str] | str | None = None,
        dataset: str | None = None,
        dataset_config: str | None = None,
        dataset_split: str = "train",
        text_field: str = "text",
        max_texts: int = 100_000,
    ) -> None:
        if not 0 <= text_share <= 1:
            raise ArgumentError("text_share", text_share, "a number from 0 to 1")
        super().__init__(
            teacher,
            batch_size,
            seq_length,
            train_batches,
            valid_batches,
            seed,
            files,
            dataset,
            dataset_config,
            dataset_split,
            text_field,
            max_texts,
        )
        self.text_share = text_share

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        texts_before = math.floor(index.number * self.text_share)
        if math.floor((index.number + 1) * self.text_share) == texts_before:
            noise = noise_batch(self.size, self.seed, *index, device)
            return Batch(noise, None, index)
        # Texts are counted by themselves, so that none is left out.
        text = BatchIndex(index.split, texts_before)
        made = super().make_batch(text, device)
        return made._replace(origin=index)

    def digest(self) -> str:
        """Names the weights, the texts and their share."""
        return hashlib.sha256(
            f"{super().digest()} {float(self.text_share)} noise".encode()
        ).hexdigest()
