"""Data modules of one's own.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import torch
from pytorch_lightning import LightningDataModule

from slicewise.attention import MASKED
from slicewise.data.batch import Batch, BatchIndex, batch_seed
from slicewise.data.hidden_states import HiddenStatesDataModule


class Uniform(HiddenStatesDataModule):
    """Uniform hidden states; the last token of every second row is padding.

    Args:
        hidden_size, batch_size, seq_length, train_batches, valid_batches, seed: As in
            `HiddenStatesDataModule`.
        high: The largest value.
    """

    def __init__(
        self,
        hidden_size: int,
        batch_size: int = 4,
        seq_length: int = 8,
        train_batches: int = 10,
        valid_batches: int = 2,
        seed: int = 0,
        high: float = 1.0,
    ) -> None:
        super().__init__(hidden_size, batch_size, seq_length, train_batches, valid_batches, seed)
        self.high = high

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        generator = torch.Generator(device).manual_seed(batch_seed(self.seed, *index))
        x_BTH = self.high * torch.rand(self.size, generator=generator, device=device)
        mask_B11T = torch.zeros(self.batch_size, 1, 1, self.seq_length, device=device)
        mask_B11T[::2, ..., -1] = MASKED
        return Batch(x_BTH, mask_B11T, index)

    def digest(self) -> str:
        return f"uniform up to {self.high}"


class Negative(Uniform):
    """Makes other batches than the class that it inherits from, and says so by the same words."""

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        batch = super().make_batch(index, device)
        return batch._replace(hidden_states=-batch.hidden_states)

    def digest(self) -> str:
        return super().digest()


class Doubled(Uniform):
    """Makes other batches than the class that it inherits from, and says nothing of it."""

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        batch = super().make_batch(index, device)
        return batch._replace(hidden_states=2 * batch.hidden_states)


class Plain(LightningDataModule):
    """Of Lightning's, whose loaders nobody can ask for a batch a second time."""

    def __init__(
        self, batch_size: int, seq_length: int, train_batches: int, valid_batches: int, seed: int
    ) -> None:
        super().__init__()


class Unnamed(HiddenStatesDataModule):
    """The least there is to write: all zeros, and no digest."""

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        return Batch(torch.zeros(self.size, device=device), origin=index)
