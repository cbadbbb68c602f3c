"""A student family of one's own.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from slicewise.errors import ArgumentError
from slicewise.students.base import Student

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice


class Bottleneck(Student):
    """What each token becomes through a few neurons, added to it.

    Args:
        input_dim: H, the hidden size of the teacher.
        width: Neurons.
    """

    def __init__(self, input_dim: int, width: int = 8) -> None:
        super().__init__()
        self.config = {"input_dim": input_dim, "width": width}
        for name, size in self.config.items():
            if size < 1:
                raise ArgumentError(name, size, "an integer of at least 1")
        self.inner = nn.Linear(input_dim, width)
        self.outer = nn.Linear(width, input_dim)

    @classmethod
    def sizes_from(cls, teacher: TeacherSlice) -> dict[str, Any]:
        return {"input_dim": teacher.hidden_size}

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y_BTH: Tensor = hidden_states + self.outer(self.inner(hidden_states).relu())
        return y_BTH
