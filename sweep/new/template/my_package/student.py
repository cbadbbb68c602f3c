"""A student family.

Shapes: B batch, T tokens, H hidden size, N neurons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slicewise import Student
from slicewise.arguments import check_integers
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from slicewise import TeacherSlice


class MyStudent(Student):
    """Adds to each token what a few neurons make of it and of the mean of its text.

    Args:
        input_dim: H, the hidden size of the teacher.
        width: N.

    Raises:
        ArgumentError: A size is not positive.
    """

    def __init__(self, input_dim: int, width: int = 64) -> None:
        super().__init__()
        check_integers(1, input_dim=input_dim, width=width)
        # Builds it again, out of a trial's folder.
        self.config = {"input_dim": input_dim, "width": width}
        self.of_token = nn.Linear(input_dim, width)
        self.of_text = nn.Linear(input_dim, width, bias=False)
        self.outer = nn.Linear(width, input_dim)
        self.norm = nn.LayerNorm(input_dim)

    @classmethod
    def sizes_from(cls, teacher: TeacherSlice) -> dict[str, Any]:
        return {"input_dim": teacher.hidden_size}

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        mean_B1H = _mean(hidden_states, attention_mask)
        inner_BTN = F.gelu(self.of_token(hidden_states) + self.of_text(mean_B1H))
        y_BTH: Tensor = self.norm(hidden_states + self.outer(inner_BTN))
        return y_BTH


def _mean(x_BTH: Tensor, mask_B11T: Tensor | None) -> Tensor:
    """The mean of the tokens that count."""
    if mask_B11T is None:
        return x_BTH.mean(1, keepdim=True)
    # Padding, which has a large negative number in the mask, weighs exactly zero.
    weights_B1T = mask_B11T[:, 0].softmax(-1).to(x_BTH.dtype)
    return weights_B1T @ x_BTH
