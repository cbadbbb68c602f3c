"""A data source.

Shapes: B batch, T tokens, H hidden size, R rank.
"""

from __future__ import annotations

import torch
from slicewise.arguments import check_integers
from slicewise.attention import MASKED
from slicewise.data.batch import Batch, BatchIndex, batch_seed
from slicewise.data.hidden_states import HiddenStatesDataModule


class MyData(HiddenStatesDataModule):
    """Noise in a few directions, in texts of different lengths.

    Args:
        hidden_size, batch_size, seq_length, train_batches, valid_batches, seed: As in
            `HiddenStatesDataModule`.
        rank: R, directions.

    Raises:
        ArgumentError: A size is not positive.
    """

    def __init__(
        self,
        hidden_size: int,
        batch_size: int = 8,
        seq_length: int = 128,
        train_batches: int = 100,
        valid_batches: int = 10,
        seed: int = 0,
        rank: int = 32,
    ) -> None:
        super().__init__(hidden_size, batch_size, seq_length, train_batches, valid_batches, seed)
        check_integers(1, rank=rank)
        self.rank = rank
        directions_RH = torch.randn(rank, hidden_size, generator=torch.Generator().manual_seed(0))
        self.directions_RH = directions_RH / rank**0.5

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        """A function of the seed and the index alone, so that any process makes the same one."""
        batch_size, seq_length, _ = self.size
        generator = torch.Generator(device).manual_seed(batch_seed(self.seed, *index))
        x_BTR = torch.randn(batch_size, seq_length, self.rank, generator=generator, device=device)
        x_BTH = x_BTR @ self.directions_RH.to(device)
        lengths_B1 = torch.randint(
            1, seq_length + 1, (batch_size, 1), generator=generator, device=device
        )
        is_real_BT = torch.arange(seq_length, device=device) < lengths_B1
        mask_BT = torch.where(is_real_BT, 0.0, MASKED)
        return Batch(x_BTH, mask_BT[:, None, None], index)

    def digest(self) -> str:
        """Names what decides a batch besides sizes and seed: the teacher's outputs are kept by it.

        Write another one when `make_batch` makes other batches.
        """
        return f"noise in {self.rank} directions"
