"""Nothing in the slice's place: what the model loses with the slice, and all that it saves.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from slicewise.arguments import check_integers
from slicewise.data.batch import Batch
from slicewise.students.base import Student
from slicewise.students.sizes import check_hidden_size

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice


class Nothing(Student):
    """Returns what it gets: the slice is dropped (Fan et al. 2020,
    https://arxiv.org/abs/1909.11556).

    Args:
        input_dim: H, the hidden size of the teacher.

    Raises:
        ArgumentError: `input_dim` is not positive.

    Example:
        >>> import torch
        >>> x_BTH = torch.randn(2, 5, 24)
        >>> Nothing(24)(x_BTH) is x_BTH
        True
    """

    initialisations = ("teacher",)

    def __init__(self, input_dim: int) -> None:
        super().__init__()
        self.config = {"input_dim": input_dim}
        check_integers(1, input_dim=input_dim)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return hidden_states

    @classmethod
    def sizes_from(cls, teacher: TeacherSlice) -> dict[str, Any]:
        return {"input_dim": teacher.hidden_size}

    def start_from(self, teacher: TeacherSlice, batches: Iterable[Batch] = ()) -> None:
        """Takes nothing.

        Args:
            teacher: Of any family.
            batches: Not looked at.

        Raises:
            ArgumentError: `input_dim` is not the teacher's hidden size.
        """
        check_hidden_size(self, teacher)
