"""The teacher slice itself: the row that every other is read against.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from slicewise.data.batch import Batch
from slicewise.students.base import Student
from slicewise.students.layers import (
    Encoder,
    Geometry,
    check_architecture,
    check_head_size,
    check_sizes,
    fitted,
    read_layers,
)
from slicewise.students.sizes import check_same

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice


class Original(Student):
    """A frozen copy of a teacher slice, which loads without the teacher.

    BERT: Devlin et al. 2019, https://arxiv.org/abs/1810.04805.

    Args:
        input_dim: H, the hidden size of the teacher.
        num_layers: How many layers.
        num_attention_heads: They divide `input_dim`.
        intermediate_size: Neurons of each feed-forward block.
        layer_norm_eps: Added to the variance in the layer norms; 1e-12 as in BERT.
        hidden_act: The activation, by its name in transformers; `gelu` as in BERT.
        architecture: What else its layers are, as JSON values: an architecture's name in
            transformers and a few words on each layer (`slicewise.students.layers.described`);
            of BERT's shape unless given.

    Raises:
        ArgumentError: A size is not positive, the heads do not divide `input_dim`, or there is
            no such activation.

    Example:
        >>> import torch
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> student = Original(**Original.sizes_from(teacher))
        >>> student.start_from(teacher)
        >>> x_BTH = torch.randn(2, 5, 24)
        >>> torch.allclose(student(x_BTH), teacher(x_BTH), atol=1e-5)
        True
    """

    initialisations = ("teacher",)
    reproduces_teacher = True

    def __init__(
        self,
        input_dim: int,
        num_layers: int,
        num_attention_heads: int,
        intermediate_size: int,
        layer_norm_eps: float = 1e-12,
        hidden_act: str = "gelu",
        architecture: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = {
            "input_dim": input_dim,
            "num_layers": num_layers,
            "num_attention_heads": num_attention_heads,
            "intermediate_size": intermediate_size,
            "layer_norm_eps": layer_norm_eps,
            "hidden_act": hidden_act,
        }
        self.config["architecture"] = fitted(architecture, num_layers)
        sizes = {**self.config, "dropout": 0.0}
        check_sizes(sizes)
        check_head_size(input_dim, num_attention_heads)
        sizes["attention_hidden_size"] = input_dim // num_attention_heads
        sizes["value_dim"] = input_dim
        self.encoder = Encoder(sizes)
        self.requires_grad_(False)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y_BTH: Tensor = self.encoder(hidden_states, attention_mask)
        return y_BTH

    @classmethod
    def sizes_from(cls, teacher: TeacherSlice) -> dict[str, Any]:
        return Geometry.of(teacher).sizes("attention_hidden_size")

    def start_from(self, teacher: TeacherSlice, batches: Iterable[Batch] = ()) -> None:
        """Copies the teacher's weights.

        Args:
            teacher: Of an architecture that has an adapter, and of this student's sizes.
            batches: Not needed.

        Raises:
            ArgumentError: A size is not the teacher's.
            SlicewiseError: No layer of ours computes what the teacher's layers do.
        """
        geometry = Geometry.of(teacher)
        check_same(self, geometry.sizes("attention_hidden_size", "architecture"))
        check_architecture(self, geometry)
        self.encoder.load_state_dict(read_layers(teacher, self.config["num_layers"]).state_dict())
