"""The blocks of an encoder layer: attention and feed-forward, each with its residual and norm.

BERT's are the plain ones (Devlin et al. 2019, https://arxiv.org/abs/1810.04805). What students are
made of, and what a teacher's layers are read into.

Shapes: B batch, T tokens, H hidden size, N heads, D attention hidden size (per head), V value_dim
(all heads), W = V / N, F intermediate size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN

from slicewise.attention import Dropout, attend

# Any: what is not an nn.Linear has its weights elsewhere, and who reads them knows where.
NewLinear = Callable[[int, int], Any]


class Attention(nn.Module):
    """Self-attention, residual and layer norm.

    Args:
        input_dim: H.
        num_attention_heads: N.
        attention_hidden_size: D, the size of a query or a key in each head.
        value_dim: V, a multiple of N.
        dropout: Probability, on the attention probabilities and before the layer norm.
        layer_norm_eps: Added to the variance in the layer norm.
        linear: Makes a projection from its input and output size; `nn.Linear` unless given.

    Example:
        >>> attention = Attention(24, 2, 4, 6, dropout=0.0, layer_norm_eps=1e-12)
        >>> attention(torch.randn(2, 5, 24)).shape
        torch.Size([2, 5, 24])
    """

    def __init__(
        self,
        input_dim: int,
        num_attention_heads: int,
        attention_hidden_size: int,
        value_dim: int,
        dropout: float,
        layer_norm_eps: float,
        linear: NewLinear = nn.Linear,
    ) -> None:
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.dropout_probability = dropout
        self.query = linear(input_dim, num_attention_heads * attention_hidden_size)
        self.key = linear(input_dim, num_attention_heads * attention_hidden_size)
        self.value = linear(input_dim, value_dim)
        self.dense = linear(value_dim, input_dim)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(input_dim, eps=layer_norm_eps)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, H), and an additive mask (B, 1, 1, T), to (B, T, H)."""
        x_BTH = hidden_states
        q_BNTD = self._split_heads(self.query(x_BTH))
        k_BNTD = self._split_heads(self.key(x_BTH))
        v_BNTW = self._split_heads(self.value(x_BTH))
        context_BNTW = attend(
            q_BNTD,
            k_BNTD,
            v_BNTW,
            attention_mask,
            self.dropout_probability if self.training else 0.0,
        )
        context_BTV = context_BNTW.transpose(1, 2).flatten(2)
        y_BTH: Tensor = self.norm(self.dropout(self.dense(context_BTV)) + x_BTH)
        return y_BTH

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, T, N * D) -> (B, N, T, D)."""
        B, T, _ = x.shape
        return x.view(B, T, self.num_attention_heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two projections with an activation between them, residual and layer norm.

    Args:
        input_dim: H.
        intermediate_size: F.
        dropout: Probability, before the layer norm.
        layer_norm_eps: Added to the variance in the layer norm.
        hidden_act: The activation, by its name in transformers; `gelu` as in BERT (Hendrycks and
            Gimpel 2016, https://arxiv.org/abs/1606.08415).
        linear: Makes a projection from its input and output size; `nn.Linear` unless given.

    Example:
        >>> feed_forward = FeedForward(24, 32, dropout=0.0, layer_norm_eps=1e-12)
        >>> feed_forward(torch.randn(2, 5, 24)).shape
        torch.Size([2, 5, 24])
    """

    def __init__(
        self,
        input_dim: int,
        intermediate_size: int,
        dropout: float,
        layer_norm_eps: float,
        hidden_act: str = "gelu",
        linear: NewLinear = nn.Linear,
    ) -> None:
        super().__init__()
        self.intermediate = linear(input_dim, intermediate_size)
        self.activation: nn.Module = ACT2FN[hidden_act]
        self.output = linear(intermediate_size, input_dim)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(input_dim, eps=layer_norm_eps)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        neurons_BTF = self.activation(self.intermediate(hidden_states))
        y_BTH: Tensor = self.norm(self.dropout(self.output(neurons_BTF)) + hidden_states)
        return y_BTH


class EncoderLayer(nn.Module):
    """Attention, then feed-forward.

    Args:
        attention: (B, T, H), and an additive mask (B, 1, 1, T), to (B, T, H).
        feed_forward: (B, T, H) -> (B, T, H).

    Example:
        >>> layer = EncoderLayer(
        ...     Attention(24, 2, 4, 6, dropout=0.0, layer_norm_eps=1e-12),
        ...     FeedForward(24, 32, dropout=0.0, layer_norm_eps=1e-12))
        >>> layer(torch.randn(2, 5, 24)).shape
        torch.Size([2, 5, 24])
    """

    def __init__(self, attention: Attention, feed_forward: FeedForward) -> None:
        super().__init__()
        self.attention = attention
        self.feed_forward = feed_forward

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, H), and an additive mask (B, 1, 1, T), to (B, T, H)."""
        y_BTH: Tensor = self.feed_forward(self.attention(hidden_states, attention_mask))
        return y_BTH
