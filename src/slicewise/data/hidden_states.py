"""What every data module is: hidden states in batches, each a function of its number.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import LightningDataModule

from slicewise.arguments import check_integers
from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.recent import Recent
from slicewise.errors import ArgumentError

# Bytes of validation batches that are kept on their device.
_MOST_KEPT = 2**30


class BatchIndices:
    """Yields the indices of one rank's batches; knows where it stopped.

    Ranks take turns: with K ranks, rank r takes batches r, r + K, r + 2K, ... so that together
    they see what one rank would.

    Args:
        split: Which part.
        num_batches: Batches in an epoch, all ranks together; training leaves out those that are
            too few for a whole round.
        rank: Of this process.
        world_size: Number of ranks.
        at_once: Batches that are handed over together, in a tuple; a divisor of their number.
            None: one by one.
        repeat: Training batches of a rank after which the same ones come again; None: never.

    Example:
        >>> from slicewise.data.batch import Split
        >>> from slicewise.data.hidden_states import BatchIndices
        >>> [index.number for index in BatchIndices(Split.VALID, 5, rank=1, world_size=2)]
        [1, 3]
    """

    def __init__(
        self,
        split: Split,
        num_batches: int,
        rank: int,
        world_size: int,
        at_once: int | None = None,
        repeat: int | None = None,
    ) -> None:
        self.split = split
        self.num_batches = num_batches
        self.rank = rank
        self.world_size = world_size
        self.at_once = at_once
        self.repeat = repeat
        self._taken = 0

    def __len__(self) -> int:
        if self.split is Split.TRAIN:
            # Ranks step together: one with a batch more than the others would wait for ever.
            return self.num_batches // self.world_size // (self.at_once or 1)
        return len(range(self.rank, self.num_batches, self.world_size)) // (self.at_once or 1)

    def __iter__(self) -> Iterator[BatchIndex | tuple[BatchIndex, ...]]:
        if self.split is not Split.TRAIN:
            numbers = range(self.rank, self.num_batches, self.world_size)
            indices = [BatchIndex(self.split, number) for number in numbers]
            size = self.at_once
            if size is None:
                yield from indices
            else:
                yield from (tuple(indices[i : i + size]) for i in range(0, len(indices), size))
            return
        # A fresh batch for every step: the count goes on over epochs, and the Trainer ends an
        # epoch after `len` of them.
        while True:
            if self.at_once is None:
                yield self._take()
            else:
                yield tuple(self._take() for _ in range(self.at_once))

    def _take(self) -> BatchIndex:
        place = self._taken if self.repeat is None else self._taken % self.repeat
        index = BatchIndex(self.split, place * self.world_size + self.rank)
        self._taken += 1
        return index

    def state_dict(self) -> dict[str, Any]:
        """Lightning keeps this in its checkpoints, so that a resumed fit goes on in the stream."""
        return {"batches": self._taken * self.world_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after so many batches of all ranks, however many ranks there were."""
        self._taken = state["batches"] // self.world_size


class HiddenStatesDataModule(LightningDataModule, ABC):
    """Where the hidden states come from that enter the teacher and the student.

    The loaders yield nothing but numbers; `make_batch` makes the batch of a number on the device
    that trains. So every rank, every resumed fit and whoever wants a batch a second time makes
    the same one, and nothing is sent from process to process.

    A data source of your own is a subclass: it has `make_batch`, whose batches must depend on the
    seed and the index alone, and, if the teacher's outputs are to be cached, a `digest`.

    Args:
        hidden_size: H, the teacher's.
        batch_size: B, on each rank; 32 as in the article.
        seq_length: T.
        train_batches: Batches in an epoch, all ranks together. The stream goes on from epoch to
            epoch, so this only says how often there is a validation.
        valid_batches: Batches of the validation set, all ranks together; the same ones each time.
        seed: Of the stream: another seed, other batches.

    Attributes:
        at_once: How many training batches the Trainer gets as one; None: each by itself.
        valid_at_once: The same of the validation set, which then ends after them.
        recent: The last training batches, which fits that run beside this one need too.

    Raises:
        ArgumentError: A size is not positive.

    Example:
        >>> import torch
        >>> from slicewise.data.batch import Batch, BatchIndex, Split, batch_seed
        >>> from slicewise.data.hidden_states import HiddenStatesDataModule
        >>> class Uniform(HiddenStatesDataModule):
        ...     def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        ...         generator = torch.Generator(device).manual_seed(batch_seed(self.seed, *index))
        ...         x_BTH = torch.rand(self.size, generator=generator, device=device)
        ...         return Batch(x_BTH, origin=index)
        ...
        ...     def digest(self) -> str:
        ...         return "uniform from 0 to 1"
        >>> data = Uniform(hidden_size=24, batch_size=2, seq_length=5)
        >>> batch = data.make_batch(BatchIndex(Split.TRAIN, 0), torch.device("cpu"))
        >>> batch.hidden_states.shape
        torch.Size([2, 5, 24])

    To train on it, from a package that Python finds:
        `SLICEWISE_TRUSTED='my_package.*' python -m sweep data=custom
        data._target_=my_package.mine.Uniform`
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
        check_integers(
            1,
            hidden_size=hidden_size,
            batch_size=batch_size,
            seq_length=seq_length,
            train_batches=train_batches,
            valid_batches=valid_batches,
        )
        self.hidden_size = hidden_size
        self.batch_size = batch_size
        self.seq_length = seq_length
        self.train_batches = train_batches
        self.valid_batches = valid_batches
        self.seed = seed
        self.at_once: int | None = None
        self.valid_at_once: int | None = None
        self.recent: Recent[Batch] = Recent()
        self._valid: dict[tuple[BatchIndex, torch.device], Batch] = {}
        self._kept = 0
        self._train: BatchIndices | None = None
        self._resumed: dict[str, Any] | None = None

    @property
    def size(self) -> tuple[int, int, int]:
        """Of a batch: (B, T, H)."""
        return self.batch_size, self.seq_length, self.hidden_size

    @abstractmethod
    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        """The batch of that name: a function of the seed and the index alone.

        Args:
            index: Which; any split, any number from 0.
            device: Where the batch is to be.

        Returns:
            Hidden states (B, T, H) of 32 bits, and `index` as their origin.
        """

    def digest(self) -> str:
        """Names whatever decides a batch besides its index, the sizes and the seed.

        Texts and weights, say, by their hash. Whoever keeps the teacher's outputs takes them for
        the same where class, sizes, seed and digest are the same. A subclass makes other batches,
        so it needs a digest of its own, were it `return super().digest()`.

        Raises:
            NotImplementedError: The class has none; the teacher's outputs cannot be kept.
        """
        raise NotImplementedError

    def train_dataloader(self) -> BatchIndices:
        self._train = self._indices(Split.TRAIN, self.train_batches, self.at_once)
        if self._resumed is not None:
            self._train.load_state_dict(self._resumed)
        return self._train

    def val_dataloader(self) -> BatchIndices:
        return self._indices(
            Split.VALID, self.valid_at_once or self.valid_batches, self.valid_at_once
        )

    def _indices(self, split: Split, num_batches: int, at_once: int | None) -> BatchIndices:
        rank, world_size = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        if num_batches < world_size:
            name = f"{split.name.lower()}_batches"
            raise ArgumentError(name, num_batches, f"at least one for each of {world_size} ranks")
        indices = BatchIndices(split, num_batches, rank, world_size, at_once)
        if split is Split.TRAIN:
            indices.repeat = self._overfitted(len(indices))
        return indices

    def _overfitted(self, batches: int) -> int | None:
        """How many batches come again and again where the Trainer asks for `overfit_batches`.

        It takes so many an epoch, of a loader that begins anew with each; ours goes on.
        """
        trainer = self.trainer
        asked: int | float = trainer.overfit_batches if trainer else 0  # type: ignore[attr-defined]
        return (asked if isinstance(asked, int) else int(batches * asked)) or None

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
        return self.kept_batch(batch, device) if isinstance(batch, BatchIndex) else batch

    def kept_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        """As `make_batch`; those of the validation set are made once, up to a gigabyte of them.

        They stay on the device: each validation wants the same ones.
        """
        if index.split is not Split.VALID:
            return self._recent_batch(index, device)
        batch = self._valid.get((index, device))
        if batch is None:
            batch = self._made(index, device)
            size = batch.hidden_states.nbytes
            if self._kept + size <= _MOST_KEPT:
                self._kept += size
                self._valid[index, device] = batch
        return batch

    def _made(self, index: BatchIndex, device: torch.device) -> Batch:
        # As where Lightning makes it: before it enters autocast.
        with torch.autocast(device.type, enabled=False):
            return self.make_batch(index, device)

    def _recent_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        """As `make_batch`; made once for all fits that are at the same place of the stream."""
        batch = self.recent.find((index, device))
        if batch is None:
            batch = self._made(index, device)
            self.recent.keep((index, device), batch, batch.hidden_states, batch.attention_mask)
        return batch
