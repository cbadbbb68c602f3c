"""The article's student: attention whose projections are small stacks, and no feed-forward block.

Shapes: B batch, T tokens, H hidden size, N heads, D attention hidden size (per head),
V value_dim (all heads), W = V / N.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from slicewise.arguments import (
    check_integers,
    check_multiple,
    check_numbers,
    check_probabilities,
)
from slicewise.attention import Dropout, attend
from slicewise.errors import ArgumentError
from slicewise.students.base import Student

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice


def _stack(width: int, output_dim: int, num_layers: int) -> nn.Sequential:
    """`num_layers` x (Linear(width, width), GELU), then Linear(width, output_dim)."""
    hidden: list[nn.Module] = []
    for _ in range(num_layers):
        hidden += [nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(*hidden, nn.Linear(width, output_dim))


class ApproximateAttention(Student):
    """Approximate attention, with the article's parameter names.

    Scaled dot-product attention (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) whose
    projections may be deep and narrow. All defaults are the article's.

    Args:
        input_dim: H, the hidden size of the teacher.
        num_attention_heads: N; 12, which BERT-base and MiniLM have too.
        attention_hidden_size: D, the size of a query or a key in each head; 32, which is MiniLM's,
            and half of BERT-base's.
        value_dim: V, the size of the values of all heads together; half of `input_dim` unless
            given, where BERT has all of it. It must divide by `num_attention_heads`.
        output_dim: Equal to `input_dim`, since the output is added to the input.
        qkv_layers: Hidden layers in each of the query, key, value and dense stacks; 2 unless
            given, where BERT has none.
        dropout: Probability, on the attention probabilities and before the layer norm; 0.1 as in
            BERT's own training.
        layer_norm_eps: Added to the variance in the layer norm; 1e-12 as in BERT.

    Raises:
        ArgumentError: A size is not positive, the heads do not divide `value_dim`, `output_dim`
            differs from `input_dim`, or `dropout` is not a probability below 1.

    Example:
        >>> import torch
        >>> from slicewise.cost import count_parameters
        >>> student = ApproximateAttention(
        ...     24, num_attention_heads=2, attention_hidden_size=4, qkv_layers=1)
        >>> student(torch.randn(2, 5, 24)).shape
        torch.Size([2, 5, 24])
        >>> count_parameters(ApproximateAttention(768))  # In the place of 14,175,744 of two layers.
        5022336
    """

    def __init__(
        self,
        input_dim: int,
        num_attention_heads: int = 12,
        attention_hidden_size: int = 32,
        value_dim: int | None = None,
        output_dim: int | None = None,
        qkv_layers: int = 2,
        dropout: float = 0.1,
        layer_norm_eps: float = 1e-12,
    ) -> None:
        super().__init__()
        check_integers(1, input_dim=input_dim)
        value_dim = input_dim // 2 if value_dim is None else value_dim
        output_dim = input_dim if output_dim is None else output_dim
        self.config = {
            "input_dim": input_dim,
            "num_attention_heads": num_attention_heads,
            "attention_hidden_size": attention_hidden_size,
            "value_dim": value_dim,
            "output_dim": output_dim,
            "qkv_layers": qkv_layers,
            "dropout": dropout,
            "layer_norm_eps": layer_norm_eps,
        }
        check_integers(
            1,
            num_attention_heads=num_attention_heads,
            attention_hidden_size=attention_hidden_size,
            value_dim=value_dim,
        )
        check_integers(0, qkv_layers=qkv_layers)
        check_probabilities(dropout=dropout)
        check_numbers(0, layer_norm_eps=layer_norm_eps)
        check_multiple("value_dim", value_dim, "num_attention_heads", num_attention_heads)
        if output_dim != input_dim:
            raise ArgumentError(
                "output_dim",
                output_dim,
                f"input_dim={input_dim}, as the output is added to the input",
            )

        self.num_attention_heads = num_attention_heads
        self.dropout_probability = dropout
        query_dim = num_attention_heads * attention_hidden_size
        self.query = _stack(input_dim, query_dim, qkv_layers)
        self.key = _stack(input_dim, query_dim, qkv_layers)
        self.value = _stack(input_dim, value_dim, qkv_layers)
        self.dense = _stack(value_dim, output_dim, qkv_layers)
        self.dropout = Dropout(dropout)
        # The article's name, so that its checkpoints load.
        self.LayerNorm = nn.LayerNorm(output_dim, eps=layer_norm_eps)

    @classmethod
    def sizes_from(cls, teacher: TeacherSlice) -> dict[str, Any]:
        return {"input_dim": teacher.hidden_size, "output_dim": teacher.hidden_size}

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x_BTH = hidden_states
        q_BNTD = self._split_heads(self.query(x_BTH))
        k_BNTD = self._split_heads(self.key(x_BTH))
        v_BNTW = self._split_heads(self.value(x_BTH))
        dropout_p = self.dropout_probability if self.training else 0.0
        context_BNTW = attend(q_BNTD, k_BNTD, v_BNTW, attention_mask, dropout_p)
        context_BTV = context_BNTW.transpose(1, 2).flatten(2)
        y_BTH: Tensor = self.LayerNorm(self.dropout(self.dense(context_BTV)) + x_BTH)
        return y_BTH

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, T, N * D) -> (B, N, T, D)."""
        B, T, _ = x.shape
        return x.view(B, T, self.num_attention_heads, -1).transpose(1, 2)
