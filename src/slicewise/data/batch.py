"""A batch of hidden states, its name, and the seed that it is made from.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import NamedTuple

from torch import Tensor

# Odd, so that multiplying by it permutes the 32-bit integers (2^32 over the golden ratio).
_STRIDE = 0x9E3779B1


class Split(IntEnum):
    """What a batch or a text is for; `slicewise.data.corpus.split_of` divides texts among them."""

    TRAIN = 0
    VALID = 1
    TEST = 2


# Where the seeds of each split begin to be counted, in steps of two. Training and validation take
# turns, so the test's, of which few are wanted, begin halfway along validation's.
_FIRST_SEED = {Split.TRAIN: 0, Split.VALID: 1, Split.TEST: 2**31 + 1}


class BatchIndex(NamedTuple):
    """Names one batch of a split, counted over all ranks and epochs."""

    split: Split
    number: int


class Batch(NamedTuple):
    """One batch of hidden states.

    Attributes:
        hidden_states: (B, T, H), float32.
        attention_mask: Additive, (B, 1, 1, T): 0 where a token counts, `slicewise.attention.MASKED`
            where it is padding; None where every token counts.
        origin: Which batch it is, where it can be made again: what may be kept of it goes by
            this name. None: nothing is kept.

    Example:
        >>> import torch
        >>> from slicewise.attention import MASKED
        >>> from slicewise.data.batch import Batch
        >>> mask_B11T = torch.tensor([0.0, 0.0, MASKED]).view(1, 1, 1, 3)
        >>> Batch(torch.zeros(1, 3, 8), mask_B11T).real_tokens()
        tensor([[ True,  True, False]])
    """

    hidden_states: Tensor
    attention_mask: Tensor | None = None
    origin: BatchIndex | None = None

    def real_tokens(self) -> Tensor | None:
        """Which tokens count, (B, T) of booleans; None where all do."""
        if self.attention_mask is None:
            return None
        return self.attention_mask[:, 0, 0] >= 0


def batch_seed(seed: int, split: Split, index: int) -> int:
    """The 32-bit seed of one batch.

    A function of its arguments alone, so any process can make any batch. Under one `seed` no two
    batches share a value, among the first 2^31 of training and 2^30 of the other splits; the CPU's
    generator keeps no more than 32 bits, so a plain hash would repeat a batch after some 2^16.

    Args:
        seed: Of the whole stream; any integer.
        split: Whose batches are counted.
        index: The batch's number in its split, over all ranks and epochs.

    Example:
        >>> from slicewise.data.batch import Split, batch_seed
        >>> batch_seed(0, Split.TRAIN, 0), batch_seed(0, Split.VALID, 0)
        (1609362278, 4263798039)
    """
    offset = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "big")
    counter = 2 * index + _FIRST_SEED[split]
    return (offset + counter * _STRIDE) % 2**32
