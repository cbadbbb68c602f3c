"""One affine map, solved for: what there is to gain without a single step of training.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from slicewise.arguments import check_integers, check_numbers
from slicewise.data.batch import Batch
from slicewise.students.base import Student
from slicewise.students.reduction import MomentSums, counted_tokens
from slicewise.students.sizes import check_hidden_size

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice

# Standard-normal tokens for each weight of an output, where no others are given.
_TOKENS_PER_WEIGHT = 16


class Linear(Student):
    """The same affine map on every token; it does not look at the others, so needs no mask.

    Args:
        input_dim: H, the hidden size of the teacher.
        ridge: Added to the variance of the inputs, as a share of its mean over the hidden
            dimensions (Hoerl and Kennard 1970, https://doi.org/10.1080/00401706.1970.10488634);
            1e-6 unless given: no more than keeps inputs that hardly vary from deciding anything.

    Raises:
        ArgumentError: `input_dim` is not positive, or `ridge` negative.

    Example:
        >>> from slicewise.losses import l1_loss
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> student = Linear(24)
        >>> x_BTH = torch.randn(8, 16, 24)
        >>> before = l1_loss(student(x_BTH), teacher(x_BTH))
        >>> student.start_from(teacher, [Batch(x_BTH)])
        >>> bool(l1_loss(student(x_BTH), teacher(x_BTH)) < before / 4)
        True
        >>> student.is_trainable
        False
    """

    initialisations = ("teacher",)

    def __init__(self, input_dim: int, ridge: float = 1e-6) -> None:
        super().__init__()
        self.config = {"input_dim": input_dim, "ridge": ridge}
        check_integers(1, input_dim=input_dim)
        check_numbers(0, ridge=ridge)
        self.dense = nn.Linear(input_dim, input_dim)
        self.requires_grad_(False)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y_BTH: Tensor = self.dense(hidden_states)
        return y_BTH

    @classmethod
    def sizes_from(cls, teacher: TeacherSlice) -> dict[str, Any]:
        return {"input_dim": teacher.hidden_size}

    @torch.no_grad()
    def start_from(self, teacher: TeacherSlice, batches: Iterable[Batch] = ()) -> None:
        """Solves the normal equations of ridge regression from the teacher's input to its output.

        Args:
            teacher: Of any family.
            batches: What enters the slice. Without any, standard-normal hidden states.

        Raises:
            ArgumentError: `input_dim` is not the teacher's hidden size.
        """
        check_hidden_size(self, teacher)
        H = teacher.hidden_size
        sums = self._sums(teacher, batches)
        if not sums.tokens:
            sums = self._sums(teacher, _standard_normal(H))
        mean, covariance = sums.mean(), sums.covariance()
        input_HH, cross_HH = covariance[:H, :H], covariance[:H, H:]
        ridge = self.config["ridge"] * input_HH.diagonal().mean()
        unit_HH = torch.eye(H, dtype=input_HH.dtype)
        # Least squares, not a plain solve: an input that never varies leaves it singular.
        weight_HH = torch.linalg.lstsq(
            input_HH + ridge * unit_HH, cross_HH, driver="gelsd"
        ).solution.T
        self.dense.weight.copy_(weight_HH)
        self.dense.bias.copy_(mean[H:] - weight_HH @ mean[:H])

    @staticmethod
    def _sums(teacher: TeacherSlice, batches: Iterable[Batch]) -> MomentSums:
        """Of each token's input and output side by side, (2 H,)."""
        device = next(teacher.parameters()).device
        sums = MomentSums(2 * teacher.hidden_size)
        for batch in batches:
            mask = None if batch.attention_mask is None else batch.attention_mask.to(device)
            x_BTH = batch.hidden_states.to(device)
            both = torch.cat([x_BTH, teacher(x_BTH, mask)], dim=-1)
            sums.add(counted_tokens(both, batch).cpu().double())
        return sums


def _standard_normal(hidden_size: int) -> Iterator[Batch]:
    """The same batches of 8 x 128 tokens each time."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(-(-_TOKENS_PER_WEIGHT * hidden_size // (8 * 128))):
        yield Batch(torch.randn(8, 128, hidden_size, generator=generator))
