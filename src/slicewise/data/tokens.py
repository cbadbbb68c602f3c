"""Random tokens: what enters the slice where words follow each other without sense.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.noise import NoiseDataModule, batch_seed
from slicewise.data.text import check_seq_length, enter
from slicewise.teacher import TeacherSlice


class TokensDataModule(NoiseDataModule):
    """Uniformly random words through the teacher's embeddings and lower layers.

    Every row begins and ends as a text does ([CLS] and [SEP]) and is full, so there is no mask.
    No other special token is ever drawn, nor one that no text contains. Fresh for every step.

    Args:
        teacher: Whose slice the hidden states enter.
        batch_size: B, on each rank.
        seq_length: T.
        train_batches: Batches in an epoch, all ranks together.
        valid_batches: Batches of the fixed validation set, all ranks together.
        seed: Of the stream.

    Raises:
        ArgumentError: A size is not allowed.
        SlicewiseError: The teacher's whole model cannot be loaded.
    """

    def __init__(
        self,
        teacher: TeacherSlice,
        batch_size: int = 32,
        seq_length: int = 128,
        train_batches: int = 1000,
        valid_batches: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(
            teacher.hidden_size, batch_size, seq_length, train_batches, valid_batches, seed
        )
        self.whole = teacher.whole()
        check_seq_length(seq_length, self.whole)
        self._words = torch.tensor(self.whole.tokenizer.word_ids)

    def digest(self) -> str:
        """Names the weights that, with sizes and seed, decide every batch."""
        return self.whole.digest()

    def input_ids(self, split: Split, number: int) -> Tensor:
        """The tokens (B, T) of a batch."""
        size_BT = (self.sizes["batch_size"], self.sizes["seq_length"])
        # On the CPU, whatever trains: the same tokens on every device.
        generator = torch.Generator().manual_seed(batch_seed(self.seed, split, number))
        ids_BT = self._words[torch.randint(len(self._words), size_BT, generator=generator)]
        ids_BT[:, 0] = self.whole.tokenizer.first_id
        ids_BT[:, -1] = self.whole.tokenizer.last_id
        return ids_BT

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        ids_BT = self.input_ids(index.split, index.number)
        keep_BT = torch.ones_like(ids_BT, dtype=torch.bool)
        return Batch(enter(self.whole, ids_BT, keep_BT, device), None, index)
