"""A data module as a stranger writes it: in a package of their own, by the base's docstring."""

from __future__ import annotations

import torch

from slicewise.data.batch import Batch, BatchIndex, batch_seed
from slicewise.data.hidden_states import HiddenStatesDataModule


class Uniform(HiddenStatesDataModule):
    """Uniform hidden states, of which the last token of every second row is padding.

    Args:
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
        mask_B11T[::2, ..., -1] = torch.finfo(torch.float32).min
        return Batch(x_BTH, mask_B11T, index)

    def digest(self) -> str:
        return f"uniform up to {self.high}"
