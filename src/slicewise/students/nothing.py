"""Nothing in the slice's place: what the model loses with the slice, and all that it saves.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from slicewise.data.batch import Batch
from slicewise.students.base import Student

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice


class Nothing(Student):
    """Returns what it gets: the slice is dropped (Fan et al. 2020,
    https://arxiv.org/abs/1909.11556).

    Example:
        >>> import torch
        >>> x_BTH = torch.randn(2, 5, 24)
        >>> Nothing()(x_BTH) is x_BTH
        True
    """

    initialisations = ("teacher",)

    def __init__(self) -> None:
        super().__init__()
        self.config = {}

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return hidden_states

    def start_from(self, teacher: TeacherSlice, batches: Iterable[Batch] = ()) -> None:
        """There is nothing to take."""
