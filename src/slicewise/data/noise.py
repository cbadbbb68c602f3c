"""Random hidden states: the article's data.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import functools
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from slicewise.data.batch import Batch, BatchIndex, Split, batch_seed
from slicewise.data.hidden_states import HiddenStatesDataModule

_beside = ThreadPoolExecutor(1, thread_name_prefix="noise")


def noise_batch(
    size: tuple[int, int, int], seed: int, split: Split, index: int, device: torch.device
) -> Tensor:
    """Standard-normal hidden states (B, T, H), made on `device`.

    The same arguments give the same values in every process on the same kind of device.

    Args:
        size: (B, T, H).
        seed: Of the stream.
        split: Training noise and validation noise never share a seed.
        index: The batch's number in its split.
        device: Where; a CPU and a GPU draw different noise.

    Example:
        >>> import torch
        >>> from slicewise.data.batch import Split
        >>> from slicewise.data.noise import noise_batch
        >>> x_BTH = noise_batch((8, 16, 24), 0, Split.TRAIN, 0, torch.device("cpu"))
        >>> abs(x_BTH.mean().item()) < 0.1 and abs(x_BTH.std().item() - 1) < 0.1
        True
    """
    # A CPU's batches are made in several threads.
    generator = _gpu_generator(device) if device.type == "cuda" else torch.Generator(device)
    generator.manual_seed(batch_seed(seed, split, index))
    return torch.randn(size, generator=generator, device=device)


@functools.cache
def _gpu_generator(device: torch.device) -> torch.Generator:
    """One for all batches, each of which sets its seed: a new one takes as long as a batch."""
    return torch.Generator(device)


class NoiseDataModule(HiddenStatesDataModule):
    """Standard-normal hidden states, fresh for every step, made on the device that trains.

    They cost no text and no forward pass through the layers below, but a student that learns from
    noise alone is often no good on text: hidden states of a real text fill a small part of the
    space. See `slicewise.data.text`.

    Args:
        hidden_size, batch_size, seq_length, train_batches, valid_batches, seed: As in
            `HiddenStatesDataModule`.

    Example:
        >>> import torch
        >>> from slicewise.data.batch import BatchIndex, Split
        >>> from slicewise.data.noise import NoiseDataModule
        >>> data = NoiseDataModule(hidden_size=24, batch_size=2, seq_length=5)
        >>> batch = data.make_batch(BatchIndex(Split.TRAIN, 7), torch.device("cpu"))
        >>> batch.hidden_states.shape, batch.attention_mask, batch.origin.number
        (torch.Size([2, 5, 24]), None, 7)
    """

    _coming: tuple[BatchIndex, Future[Tensor]] | None = None

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        """The batch of that name, on `device`.

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

    def digest(self) -> str:
        """Nothing decides a batch but sizes and seed."""
        return "standard normal"
