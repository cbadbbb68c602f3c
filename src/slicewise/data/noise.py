"""Random hidden states: the article's data.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.errors import ArgumentError

# Odd, so that multiplying by it permutes the 32-bit integers (2^32 over the golden ratio).
_STRIDE = 0x9E3779B1
_beside = ThreadPoolExecutor(1, thread_name_prefix="noise")


def batch_seed(seed: int, split: Split, index: int) -> int:
    """The 32-bit seed of one batch.

    A function of its arguments alone, so any process can make any batch. Under one `seed` no two
    of the first 2^31 batches of all splits share a value; the CPU's generator keeps no more than
    32 bits, so a plain hash would repeat a batch after some 2^16.
    """
    offset = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")
    counter = index * len(Split) + split
    return (offset + counter * _STRIDE) % 2**32


def noise_batch(
    size: tuple[int, int, int], seed: int, split: Split, index: int, device: torch.device
) -> Tensor:
    """Standard-normal hidden states (B, T, H), made on `device`.

    The same arguments give the same values in every process on the same kind of device.
    """
    generator = torch.Generator(device).manual_seed(batch_seed(seed, split, index))
    return torch.randn(size, generator=generator, device=device)


class NoiseIndices:
    """Yields the indices of one rank's batches; knows where it stopped.

    Ranks take turns: with K ranks, rank r takes batches r, r + K, r + 2K, ... so that together
    they see what one rank would.

    Args:
        split: Which part.
        num_batches: Batches in an epoch, all ranks together; training leaves out those that are
            too few for a whole round.
        rank: Of this process.
        world_size: Number of ranks.
        at_once: Training batches that are handed over together, in a tuple; a divisor of their
            number. None: one by one.
    """

    def __init__(
        self,
        split: Split,
        num_batches: int,
        rank: int,
        world_size: int,
        at_once: int | None = None,
    ) -> None:
        self.split = split
        self.num_batches = num_batches
        self.rank = rank
        self.world_size = world_size
        self.at_once = at_once
        self._taken = 0

    def __len__(self) -> int:
        if self.split is Split.TRAIN:
            # Ranks step together: one with a batch more than the others would wait for ever.
            return self.num_batches // self.world_size // (self.at_once or 1)
        return len(range(self.rank, self.num_batches, self.world_size))

    def __iter__(self) -> Iterator[BatchIndex | tuple[BatchIndex, ...]]:
        if self.split is not Split.TRAIN:
            for index in range(self.rank, self.num_batches, self.world_size):
                yield BatchIndex(self.split, index)
            return
        # Fresh noise for every step: the count goes on over epochs, and the Trainer ends an
        # epoch after `len` of them.
        while True:
            if self.at_once is None:
                yield self._take()
            else:
                yield tuple(self._take() for _ in range(self.at_once))

    def _take(self) -> BatchIndex:
        index = BatchIndex(self.split, self._taken * self.world_size + self.rank)
        self._taken += 1
        return index

    def state_dict(self) -> dict[str, Any]:
        """Lightning keeps this in its checkpoints, so that a resumed fit goes on in the stream."""
        return {"batches": self._taken * self.world_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after so many batches of all ranks, however many ranks there were."""
        self._taken = state["batches"] // self.world_size


class NoiseDataModule(LightningDataModule):
    """Standard-normal hidden states, fresh for every step, made on the device that trains.

    Args:
        hidden_size: H.
        batch_size: B, on each rank.
        seq_length: T.
        train_batches: Batches in an epoch, all ranks together.
        valid_batches: Batches of the fixed validation set, all ranks together.
        seed: Of the stream.

    Attributes:
        at_once: How many training batches the Trainer gets as one; None: each by itself.

    Raises:
        ArgumentError: A size is not positive.
    """

    def __init__(
        self,
        hidden_size: int,
        batch_size: int = 32,
        seq_length: int = 128,
        train_batches: int = 1000,
        valid_batches: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.sizes = {
            "batch_size": batch_size,
            "seq_length": seq_length,
            "train_batches": train_batches,
            "valid_batches": valid_batches,
        }
        for name, size in self.sizes.items():
            if size < 1:
                raise ArgumentError(name, size, "an integer of at least 1")
        self.size = (batch_size, seq_length, hidden_size)
        self.seed = seed
        self.at_once: int | None = None
        self._train: NoiseIndices | None = None
        self._resumed: dict[str, Any] | None = None
        self._coming: tuple[BatchIndex, Future[Tensor]] | None = None

    def train_dataloader(self) -> NoiseIndices:
        self._train = self._indices(Split.TRAIN, self.sizes["train_batches"])
        if self._resumed is not None:
            self._train.load_state_dict(self._resumed)
        return self._train

    def val_dataloader(self) -> NoiseIndices:
        return self._indices(Split.VALID, self.sizes["valid_batches"])

    def _indices(self, split: Split, num_batches: int) -> NoiseIndices:
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        if num_batches < world_size:
            name = f"{split.name.lower()}_batches"
            raise ArgumentError(name, num_batches, f"at least one for each of {world_size} ranks")
        return NoiseIndices(split, num_batches, rank, world_size, self.at_once)

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream, once more: Lightning forgets its own copy of it where a
        scheduler asks for the length of the fit."""
        return {} if self._train is None else self._train.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._resumed = state

    def transfer_batch_to_device(
        self, batch: BatchIndex | tuple[BatchIndex, ...], device: torch.device, dataloader_idx: int
    ) -> Batch | tuple[BatchIndex, ...]:
        """Makes the batch where it is needed, instead of moving it there.

        Several would take the place of several: they are made when their steps come.
        """
        return self.make_batch(batch, device) if isinstance(batch, BatchIndex) else batch

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        """The batch of that name, on `device`: a function of the seed and the index alone.

        A GPU makes it when it comes to it, behind the step before; on a CPU, whose generator
        is a single thread, the next batch is made beside the step.
        """
        coming, self._coming = self._coming, None
        if coming is not None and coming[0] == index:
            x_BTH = coming[1].result()
        else:
            x_BTH = noise_batch(self.size, self.seed, *index, device)
        if device.type == "cpu" and index.split is Split.TRAIN:
            world_size = self.trainer.world_size if self.trainer else 1
            following = index._replace(number=index.number + world_size)
            made = _beside.submit(noise_batch, self.size, self.seed, *following, device)
            self._coming = (following, made)
        return Batch(x_BTH, origin=index)
