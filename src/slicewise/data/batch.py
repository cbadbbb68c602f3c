"""What the data modules hand to a fit.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Split(IntEnum):
    """The parts of a data set; the number takes part in the seed of a batch."""

    TRAIN = 0
    VALID = 1


class BatchIndex(NamedTuple):
    """Names one batch of a split, counted over all ranks and epochs."""

    split: Split
    number: int


class Batch(NamedTuple):
    """One batch of hidden states.

    Attributes:
        hidden_states: (B, T, H), float32.
        attention_mask: Additive, (B, 1, 1, T), or None where every token counts.
        origin: Which batch it is, where it can be made again.
    """

    hidden_states: Tensor
    attention_mask: Tensor | None = None
    origin: BatchIndex | None = None

    def real_tokens(self) -> Tensor | None:
        """Which tokens count, (B, T) of booleans; None where all do."""
        if self.attention_mask is None:
            return None
        return self.attention_mask[:, 0, 0] >= 0


def l1_loss(prediction: Tensor, target: Tensor, real_tokens: Tensor | None = None) -> Tensor:
    """Mean absolute difference of (B, T, H), over the tokens that count, (B, T)."""
    if real_tokens is None:
        return F.l1_loss(prediction, target)
    difference_BT = (prediction - target).abs().mean(-1)
    return (difference_BT * real_tokens).sum() / real_tokens.sum()
