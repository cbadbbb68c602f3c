"""What a fit must beat: predictions that need no student.

Shapes: B batch, T tokens, H hidden size, F = H + 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed

from slicewise.losses import Loss, l1_loss

BASELINES = ("zero", "input", "position_mean", "running_average")
# The article's: after 70 batches half of the average is of them.
RUNNING_AVERAGE_ALPHA = 0.01


class Baselines:
    """Learns constants from the targets that training sees, and measures their L1 on others.

    - `zero`: all zeros.
    - `input`: the hidden states that entered the slice.
    - `position_mean`: the mean training target at each position, (T, H).
    - `running_average`: the article's, an exponential average of the same with alpha 0.01.

    Each rank sums up its own share, and `gather` adds the shares: since ranks take turns in the
    stream of batches, the constants are those of one rank that saw them all.

    Args:
        seq_length: T.
        hidden_size: H.
        rank: Of this process.
        world_size: Number of ranks.

    Example:
        >>> import torch
        >>> from slicewise.baselines import Baselines
        >>> baselines = Baselines(seq_length=2, hidden_size=3)
        >>> target_BTH = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]])
        >>> baselines.update(target_BTH)
        >>> _ = baselines.gather()
        >>> losses = baselines.losses(torch.zeros_like(target_BTH), target_BTH + 1)
        >>> {name: loss.item() for name, loss in losses.items()}
        {'zero': 4.5, 'input': 4.5, 'position_mean': 1.0, 'running_average': 1.0}
    """

    def __init__(
        self, seq_length: int, hidden_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.rank = rank
        self.world_size = world_size
        self.num_batches = 0
        self.mean_TH = torch.zeros(seq_length, hidden_size)
        self.running_TH = torch.zeros(seq_length, hidden_size)
        # Targets added up, each followed by the number of tokens: plainly, and as the average
        # that forgets.
        self._share_2TF = torch.zeros(2, seq_length, hidden_size + 1)

    def to(self, device: torch.device) -> None:
        """Moves what is summed up."""
        self.mean_TH, self.running_TH = self.mean_TH.to(device), self.running_TH.to(device)
        self._share_2TF = self._share_2TF.to(device)

    @torch.no_grad()
    def update(self, target: Tensor, real_tokens: Tensor | None = None) -> None:
        """Takes the teacher's output of one training batch into the two constants.

        Args:
            target: (B, T, H).
            real_tokens: (B, T), which of them count.
        """
        self.add(target, real_tokens)
        self.count()

    def count(self) -> None:
        """Counts a round of batches; together with `add` it is `update`."""
        self.num_batches += self.world_size

    @torch.no_grad()
    def add(self, target: Tensor, real_tokens: Tensor | None = None) -> None:
        """The part of `update` that a GPU does, always at the same places in its memory.

        From the second batch on it is the same work for all of them.
        """
        if real_tokens is None:
            sum_TH = target.sum(0, dtype=torch.float32)
            count_T1 = torch.full_like(sum_TH[:, :1], len(target))
        else:
            sum_TH = (target.float() * real_tokens[..., None]).sum(0)
            count_T1 = real_tokens.sum(0, dtype=torch.float32)[:, None]
        # In a round, each rank's batch is followed by those of the ranks after it.
        keep = 1 - RUNNING_AVERAGE_ALPHA
        weight = RUNNING_AVERAGE_ALPHA * keep ** (self.world_size - 1 - self.rank)
        if self.num_batches == 0 and self.rank == 0:
            # The first batch counts whole: an average that started from zero would stay near it.
            weight /= RUNNING_AVERAGE_ALPHA
        batch_TF = torch.cat((sum_TH, count_T1), 1)
        self._share_2TF[0] += batch_TF
        self._share_2TF[1].mul_(keep**self.world_size).add_(batch_TF, alpha=weight)

    @torch.no_grad()
    def gather(self) -> Tensor:
        """Brings the constants up to date; called by all ranks together.

        Returns:
            What all ranks have summed up, (2, T, H + 1).
        """
        total_2TF = self._share_2TF.clone()
        if self.world_size > 1:
            distributed.all_reduce(total_2TF)
        # A position that no text has reached yet has no mean.
        count_2T1 = total_2TF[..., -1:].clamp(min=torch.finfo(torch.float32).tiny)
        self.mean_TH, self.running_TH = (total_2TF[..., :-1] / count_2T1).unbind()
        return total_2TF

    @torch.no_grad()
    def losses(
        self, hidden_states: Tensor, target: Tensor, real_tokens: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The L1 loss of each baseline on one batch; for constants, `gather` first.

        Args:
            hidden_states: What entered the slice, (B, T, H).
            target: What left it, (B, T, H).
            real_tokens: (B, T), which of them count; None: all.
        """
        constants = (self.mean_TH, self.running_TH)
        return baseline_losses(hidden_states, target, *constants, real_tokens)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; called by all ranks together."""
        return {"num_batches": self.num_batches, "total": self.gather()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on, with whatever number of ranks there is now."""
        self.num_batches = state["num_batches"]
        total_2TF = state["total"].to(self._share_2TF.device)
        # One rank holds what all had; the others begin anew.
        self._share_2TF = total_2TF.clone() if self.rank == 0 else torch.zeros_like(total_2TF)


def baseline_losses(
    hidden_states: Tensor,
    target: Tensor,
    mean: Tensor,
    running: Tensor,
    real_tokens: Tensor | None = None,
    loss: Loss = l1_loss,
) -> dict[str, Tensor]:
    """The loss of each of `BASELINES` on one batch, as a function of tensors alone.

    Args:
        hidden_states: What entered the slice, (B, T, H).
        target: What left it, (B, T, H).
        mean, running: The two constants, (T, H).
        real_tokens: (B, T), which of them count; None: all.
        loss: Which loss.
    """
    predictions = (
        torch.zeros_like(target),
        hidden_states,
        mean.expand_as(target),
        running.expand_as(target),
    )
    return {
        name: loss(prediction, target, real_tokens)
        for name, prediction in zip(BASELINES, predictions, strict=True)
    }
