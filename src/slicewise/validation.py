"""The losses of a validation: of the student and of what it must beat, batch by batch.

Nothing is fetched from the device before the last batch: each value that is, waits for all that
was launched before it.

Shapes: B batch, T tokens, H hidden size, M losses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, distributed

from slicewise.baselines import BASELINES, baseline_losses
from slicewise.losses import Loss, l1_loss

# What the losses of a batch are called, in the order in which they come.
LOSSES = ("valid_l1", *(f"baseline/{name}" for name in BASELINES))
# Those that follow where something else is learned by than L1: of that loss.
OTHER_LOSSES = ("valid_loss", *(f"baseline_loss/{name}" for name in BASELINES))


def losses_by(loss: Loss) -> tuple[str, ...]:
    """What the losses of a batch are called, of a fit that learns by some loss.

    Example:
        >>> losses_by(l1_loss) == LOSSES
        True
    """
    return LOSSES if loss is l1_loss else LOSSES + OTHER_LOSSES


def batch_losses(
    student: Callable[[Tensor, Tensor | None], Tensor],
    loss: Loss,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    target: Tensor,
    mean: Tensor,
    running: Tensor,
) -> tuple[Tensor, Tensor]:
    """What one batch says of the student; a function of tensors alone, which may be captured.

    Args:
        student: (B, T, H) and mask to (B, T, H).
        loss: What is learned by.
        hidden_states: What enters the slice, (B, T, H).
        attention_mask: Additive, (B, 1, 1, T); None where every token counts.
        target: What leaves it, (B, T, H).
        mean, running: The constants of `slicewise.baselines.Baselines`, (T, H).

    Returns:
        The losses, (M,), called `losses_by(loss)`, and by how many tokens they count.
    """
    real_BT = None if attention_mask is None else attention_mask[:, 0, 0] >= 0
    # Of its own: what a student writes to, the baselines and the next validation would find.
    own_mask = None if attention_mask is None else attention_mask.clone()
    prediction_BTH = student(hidden_states.clone(), own_mask)
    losses = []
    for one in dict.fromkeys((l1_loss, loss)):
        baselines = baseline_losses(hidden_states, target, mean, running, real_BT, one)
        losses += [one(prediction_BTH, target, real_BT), *baselines.values()]
    if real_BT is None:
        tokens = torch.full((), target[..., 0].numel(), device=target.device)
    else:
        tokens = real_BT.sum()
    return torch.stack([one.float() for one in losses]), tokens


class ValidationLosses:
    """The mean losses over all batches of all ranks, in which each token has the same weight.

    Example:
        >>> losses = ValidationLosses()
        >>> losses.add(torch.tensor([1.0, 4.0]), torch.tensor(1))
        >>> losses.add(torch.tensor([2.0, 1.0]), torch.tensor(3))
        >>> losses.means()
        tensor([1.7500, 1.7500])
    """

    def __init__(self) -> None:
        self._sums_M: Tensor | None = None
        self._tokens: Tensor | None = None

    def add(self, losses_M: Tensor, tokens: Tensor) -> None:
        """Takes in what `batch_losses` has found; waits for nothing."""
        weighted_M = losses_M * tokens
        self._sums_M = weighted_M if self._sums_M is None else self._sums_M + weighted_M
        # Not in place: a graph that has made the first one writes to it again.
        self._tokens = tokens.clone() if self._tokens is None else self._tokens + tokens

    def means(self, several_ranks: bool = False) -> Tensor:
        """The means, (M,), where the losses are.

        Args:
            several_ranks: Whether each rank has its share of them; then all call this together.
        """
        assert self._sums_M is not None
        assert self._tokens is not None
        if several_ranks:
            distributed.all_reduce(self._sums_M)
            distributed.all_reduce(self._tokens)
        return self._sums_M / self._tokens
