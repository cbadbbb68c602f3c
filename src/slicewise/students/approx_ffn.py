"""The article's attention, followed by the feed-forward block that it lacks.

Shapes: B batch, T tokens, H hidden size, F intermediate size.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from slicewise.data.batch import Batch
from slicewise.errors import SlicewiseError
from slicewise.layers import FeedForward
from slicewise.students.approx import ApproximateAttention
from slicewise.students.base import Student
from slicewise.students.keep import Keep, choices, take_best
from slicewise.students.layers import Geometry, check_sizes, read_layers
from slicewise.students.reduction import fit_to_slice, layer_moments, reduce_feed_forward
from slicewise.students.sizes import check_at_most, check_hidden_size

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice


class ApproximateAttentionWithFeedForward(Student):
    """`ApproximateAttention`, then a feed-forward block of BERT's (Devlin et al. 2019).

    Args:
        input_dim: H, the hidden size of the teacher.
        num_attention_heads: As in `ApproximateAttention`, and so are the next three.
        attention_hidden_size: The size of a query or a key in each head.
        value_dim: The size of the values of all heads together; half of `input_dim` unless given.
        output_dim: Equal to `input_dim`.
        qkv_layers: Hidden layers in each of the query, key, value and dense stacks; 1 unless
            given, the block taking some of the parameters of the article's 2.
        intermediate_size: F, the neurons of the feed-forward block; 1536, MiniLM's, unless given.
        dropout: Probability, on the attention probabilities and before the layer norms; 0 unless
            given: the teacher, in eval mode, drops nothing either.
        layer_norm_eps: Added to the variance in the layer norms; 1e-12 as in BERT.
        hidden_act: The activation of the feed-forward block, by its name in transformers; `gelu`
            as in BERT (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415).

    Raises:
        ArgumentError: As `ApproximateAttention`; also where `intermediate_size` is not positive
            or there is no such activation.

    Example:
        >>> import torch
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> family = ApproximateAttentionWithFeedForward
        >>> student = family(**{**family.sizes_from(teacher), "intermediate_size": 20})
        >>> student.start_from(teacher, [Batch(torch.randn(8, 16, 24))])
        >>> student(torch.randn(2, 5, 24)).shape
        torch.Size([2, 5, 24])
    """

    initialisations = ("random", "teacher")

    def __init__(
        self,
        input_dim: int,
        num_attention_heads: int = 12,
        attention_hidden_size: int = 32,
        value_dim: int | None = None,
        output_dim: int | None = None,
        qkv_layers: int = 1,
        intermediate_size: int = 1536,
        dropout: float = 0.0,
        layer_norm_eps: float = 1e-12,
        hidden_act: str = "gelu",
    ) -> None:
        super().__init__()
        attention = ApproximateAttention(
            input_dim,
            num_attention_heads,
            attention_hidden_size,
            value_dim,
            output_dim,
            qkv_layers,
            dropout,
            layer_norm_eps,
        )
        self.config = {
            **attention.config,
            "intermediate_size": intermediate_size,
            "hidden_act": hidden_act,
        }
        check_sizes(self.config)
        self.attention = attention
        self.feed_forward = FeedForward(
            input_dim, intermediate_size, dropout, layer_norm_eps, hidden_act
        )

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y_BTH: Tensor = self.feed_forward(self.attention(hidden_states, attention_mask))
        return y_BTH

    @classmethod
    def sizes_from(cls, teacher: TeacherSlice) -> dict[str, Any]:
        geometry = Geometry.of(teacher)
        names = (
            "input_dim",
            "num_attention_heads",
            "attention_hidden_size",
            "intermediate_size",
            "layer_norm_eps",
            "hidden_act",
        )
        return {name: getattr(geometry, name) for name in names} | {
            "output_dim": geometry.input_dim
        }

    def start_from(
        self, teacher: TeacherSlice, batches: Iterable[Batch] = (), keep: Keep = "first"
    ) -> None:
        """Takes the neurons of one of the teacher's layers that matter most, and its layer norms.

        The article's stacks have no counterpart in the teacher: the attention's projections stay
        random. How neurons are chosen is said at
        `slicewise.students.reduction.reduce_feed_forward`. With batches, the block's output is
        then fitted to what the whole slice returns (`fit_to_slice`).

        Args:
            teacher: Its feed-forward blocks of BERT's shape.
            batches: What enters the slice.
            keep: Which layer: `first`, `last`, a list of it, or `auto`, as in `BertLayer`.

        Raises:
            ArgumentError: The student has more neurons than the teacher, or there is no such layer.
            SlicewiseError: The teacher's layers are not of BERT's shape.
        """
        geometry = Geometry.of(teacher)
        check_hidden_size(self, teacher)
        (first,) = read_layers(teacher, 1)
        if first.feed_forward.norm_first or first.feed_forward.gate is not None:
            raise SlicewiseError(
                f"The neurons of {teacher.source} are gated, or normed before: this block's are "
                "not\nWithout them: student.init=random"
            )
        check_at_most(self, {"intermediate_size": geometry.intermediate_size})
        batches = list(batches)
        tried = choices(keep, 1, geometry.num_layers)
        source = read_layers(teacher, 1 + max(layers[-1] for layers in tried))
        moments = layer_moments(source, batches)

        def take(layers: tuple[int, ...]) -> None:
            (number,) = layers
            layer = list(source)[number]
            self.attention.LayerNorm.load_state_dict(layer.attention.norm.state_dict())
            reduce_feed_forward(layer.feed_forward, self.feed_forward, moments[number])
            fit_to_slice(self, "feed_forward", read_layers(teacher, geometry.num_layers), batches)

        take_best(self, teacher, batches, tried, take)
