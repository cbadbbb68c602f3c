"""Token ids through the teacher's embeddings and lower layers.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from slicewise.data.batch import Batch, BatchIndex
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.errors import ArgumentError
from slicewise.teacher import TeacherSlice
from slicewise.whole import additive_mask

# A row holds the special tokens that begin and end it, and something between them.
_MIN_SEQ_LENGTH = 3


class EnteringDataModule(HiddenStatesDataModule):
    """Hidden states that enter the slice when the whole model reads some tokens.

    A subclass says which: it has `token_ids`, and a `digest` that `whole.digest()` is part of.

    Args:
        teacher: Whose slice the hidden states enter.
        batch_size, train_batches, valid_batches, seed: As in `HiddenStatesDataModule`.
        seq_length: T; as many tokens as the teacher has positions for, at most.

    Attributes:
        whole: The model around the slice; it moves to the device that a batch is made on.

    Raises:
        ArgumentError: A size is not allowed.
        SlicewiseError: The teacher's whole model cannot be loaded.

    Example:
        >>> import torch
        >>> from slicewise.data.batch import BatchIndex, Split
        >>> from slicewise.data.entering import EnteringDataModule
        >>> from slicewise.teacher import random_bert
        >>> class Hello(EnteringDataModule):
        ...     def token_ids(self, index):
        ...         return self.whole.pad(
        ...             self.whole.tokenizer.encode(["Hello!"] * self.batch_size, self.seq_length),
        ...             self.seq_length,
        ...         )
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> data = Hello(teacher, batch_size=1, seq_length=6)
        >>> batch = data.make_batch(BatchIndex(Split.TRAIN, 0), torch.device("cpu"))
        >>> batch.hidden_states.shape
        torch.Size([1, 6, 24])
        >>> batch.real_tokens()
        tensor([[ True,  True,  True,  True, False, False]])
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
        longest = self.whole.max_length
        if not _MIN_SEQ_LENGTH <= seq_length <= longest:
            raise ArgumentError("seq_length", seq_length, f"{_MIN_SEQ_LENGTH} to {longest}")

    @abstractmethod
    def token_ids(self, index: BatchIndex) -> tuple[Tensor, Tensor]:
        """The tokens of a batch: a function of the seed and the index alone.

        Returns:
            The ids (B, T) and which of them are real tokens, not padding, (B, T); on the CPU,
            whatever trains: the same tokens on every device.
        """

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        ids_BT, keep_BT = self.token_ids(index)
        # Parameters that move in inference mode, as in a validation, could not be used outside it.
        with torch.inference_mode(False):
            self.whole.to(device)
        x_BTH = self.whole.enter(ids_BT.to(device), keep_BT.to(device))
        mask = additive_mask(keep_BT)
        return Batch(x_BTH, None if mask is None else mask.to(device), index)
