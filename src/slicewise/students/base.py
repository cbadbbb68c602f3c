"""What every student family has in common.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from slicewise.data.batch import Batch
from slicewise.errors import ArgumentError

if TYPE_CHECKING:
    # Only its name: a saved student loads without transformers.
    from slicewise.teacher import TeacherSlice


class Student(nn.Module, ABC):
    """A module that stands in for a teacher slice.

    A family is one module with one subclass of `Student`, in `slicewise.students` or in a package
    of your own. Students learn from hidden states, as those of FitNets do (Romero et al. 2015,
    https://arxiv.org/abs/1412.6550).

    Attributes:
        config: The arguments that build this student again, all plain JSON values.
        initialisations: Where its first weights may come from: `random`, what the constructor
            leaves; `teacher`, what `start_from` makes of them.
        reproduces_teacher: Whether a student with nothing but `sizes_from` a teacher, started from
            it, returns what the teacher does: whether nothing is lost where nothing is left out.

    Example:
        A family of your own, in the module `my_package.mine`, say:

        >>> import torch
        >>> class Scale(Student):
        ...     def __init__(self, input_dim):
        ...         super().__init__()
        ...         self.config = {"input_dim": input_dim}
        ...         self.factor_H = nn.Parameter(torch.ones(input_dim))
        ...
        ...     @classmethod
        ...     def sizes_from(cls, teacher):
        ...         return {"input_dim": teacher.hidden_size}
        ...
        ...     def forward(self, hidden_states, attention_mask=None):
        ...         return hidden_states * self.factor_H

        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> student = Scale(**Scale.sizes_from(teacher))
        >>> student(torch.randn(2, 5, 24)).shape, student.is_trainable
        (torch.Size([2, 5, 24]), True)
        >>> student.start_from(teacher)
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: init=teacher: allowed: random
    """

    config: dict[str, Any]
    initialisations: ClassVar[tuple[str, ...]] = ("random",)
    reproduces_teacher: ClassVar[bool] = False

    @abstractmethod
    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Returns hidden states.

        Args:
            hidden_states: (B, T, H).
            attention_mask: Additive, (B, 1, 1, T): 0 where a token may be attended to, a large
                negative number where not.

        Returns:
            (B, T, H).
        """

    @classmethod
    def sizes_from(cls, teacher: TeacherSlice) -> dict[str, Any]:
        """Arguments of the constructor that are taken from the teacher where they are not given.

        Args:
            teacher: The slice to stand in for.
        """
        return {}

    def start_from(self, teacher: TeacherSlice, batches: Iterable[Batch] = ()) -> None:
        """Takes the first weights from the teacher's.

        Args:
            teacher: The slice to stand in for, on any device.
            batches: What enters the slice, on any device; the teacher runs on them once, to see
                which of its weights matter. Without any, the weights alone must tell. Padding
                tokens do not count.

        Raises:
            ArgumentError: This family cannot, or the student has more of something than the
                teacher.
        """
        raise ArgumentError("init", "teacher", "random")

    @property
    def is_trainable(self) -> bool:
        """Whether any parameter learns; a student that comes ready made has none."""
        return any(parameter.requires_grad for parameter in self.parameters())
