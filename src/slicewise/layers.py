"""The blocks of an encoder layer: attention and feed-forward, each with its residual and norm.

What students are made of, and what a teacher's layers are read into. As they are here they are
BERT's (Devlin et al. 2019, https://arxiv.org/abs/1810.04805); an architecture's adapter subclasses
what is otherwise in its own.

Shapes: B batch, T tokens, H hidden size, N heads, D attention hidden size (per head), V value_dim
(all heads), W = V / N, F intermediate size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers.activations import ACT2FN

from slicewise.attention import Dropout, attend

# Any: what is not an nn.Linear has its weights elsewhere, and who reads them knows where.
# Called with the sizes of input and output, and with bias=False where there is to be none.
NewLinear = Callable[..., Any]


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
        bias: Whether projections have one.
        norm: The layer norm; one of `input_dim` unless given.
        norm_first: Whether it comes before the projections, and not after the residual.

    Attributes:
        query_side, key_side: The maps whose outputs queries and keys are scored by; a subclass
            that scores by more, such as positions, names them here too.
        narrows: Whether queries and keys may have fewer dimensions than the teacher's.

    Example:
        >>> import torch
        >>> attention = Attention(24, 2, 4, 6, dropout=0.0, layer_norm_eps=1e-12)
        >>> attention(torch.randn(2, 5, 24)).shape
        torch.Size([2, 5, 24])
    """

    query_side: tuple[str, ...] = ("query",)
    key_side: tuple[str, ...] = ("key",)
    narrows: ClassVar[bool] = True

    def __init__(
        self,
        input_dim: int,
        num_attention_heads: int,
        attention_hidden_size: int,
        value_dim: int,
        dropout: float,
        layer_norm_eps: float,
        linear: NewLinear = nn.Linear,
        bias: bool = True,
        norm: nn.Module | None = None,
        norm_first: bool = False,
    ) -> None:
        super().__init__()
        self.num_attention_heads = num_attention_heads
        self.dropout_probability = dropout
        self.norm_first = norm_first
        has_bias = _bias(bias)
        self.query = linear(input_dim, num_attention_heads * attention_hidden_size, **has_bias)
        self.key = linear(input_dim, num_attention_heads * attention_hidden_size, **has_bias)
        self.value = linear(input_dim, value_dim, **has_bias)
        self.dense = linear(value_dim, input_dim, **has_bias)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(input_dim, eps=layer_norm_eps) if norm is None else norm

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, H), and an additive mask (B, 1, 1, T), to (B, T, H)."""
        x_BTH = self.norm(hidden_states) if self.norm_first else hidden_states
        q_BNTD, k_BNTD = self.place(
            self.split_heads(self.query(x_BTH)), self.split_heads(self.key(x_BTH))
        )
        v_BNTW = self.split_heads(self.value(x_BTH))
        context_BNTW = attend(
            q_BNTD,
            k_BNTD,
            v_BNTW,
            self.scored(q_BNTD, k_BNTD, attention_mask),
            self.dropout_probability if self.training else 0.0,
        )
        context_BTV = context_BNTW.transpose(1, 2).flatten(2)
        sum_BTH = self.dropout(self.dense(context_BTV)) + hidden_states
        y_BTH: Tensor = sum_BTH if self.norm_first else self.norm(sum_BTH)
        return y_BTH

    def place(self, q_BNTD: Tensor, k_BNTD: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys with what positions make of them; a hook for subclasses."""
        return q_BNTD, k_BNTD

    def scored(
        self, q_BNTD: Tensor, k_BNTD: Tensor, attention_mask: Tensor | None
    ) -> Tensor | None:
        """What is added to the scores, the mask among it; a hook for subclasses.

        Args:
            q_BNTD, k_BNTD: As `place` returns them.
            attention_mask: Additive, (B, 1, 1, T), or None.

        Returns:
            What broadcasts to (B, N, T, T), or None.
        """
        return attention_mask

    def take_besides(self, source: Attention, heads: list[int]) -> None:
        """Takes over what a subclass has besides its maps; a hook.

        Args:
            source: The teacher's.
            heads: Which of its heads this one has.
        """

    def split_heads(self, x: Tensor) -> Tensor:
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
        bias: Whether projections have one.
        norm: The layer norm; one of `input_dim` unless given.
        norm_first: Whether it comes before the projections, and not after the residual.
        gated: Whether each neuron is multiplied by a linear map of its own (Dauphin et al. 2017,
            https://arxiv.org/abs/1612.08083).

    Example:
        >>> import torch
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
        bias: bool = True,
        norm: nn.Module | None = None,
        norm_first: bool = False,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.intermediate = linear(input_dim, intermediate_size, **_bias(bias))
        self.gate = linear(input_dim, intermediate_size, **_bias(bias)) if gated else None
        self.activation: nn.Module = ACT2FN[hidden_act]
        self.output = linear(intermediate_size, input_dim, **_bias(bias))
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(input_dim, eps=layer_norm_eps) if norm is None else norm

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, H)."""
        neurons_BTF = self.neurons(hidden_states)
        sum_BTH = self.dropout(self.output(neurons_BTF)) + hidden_states
        y_BTH: Tensor = sum_BTH if self.norm_first else self.norm(sum_BTH)
        return y_BTH

    def neurons(self, hidden_states: Tensor) -> Tensor:
        """What enters the output map, (B, T, F), of what enters the block, (B, T, H)."""
        x_BTH = self.norm(hidden_states) if self.norm_first else hidden_states
        neurons_BTF: Tensor = self.activation(self.intermediate(x_BTH))
        return neurons_BTF if self.gate is None else neurons_BTF * self.gate(x_BTH)


class EncoderLayer(nn.Module):
    """Attention, then feed-forward.

    Args:
        attention: (B, T, H), and an additive mask (B, 1, 1, T), to (B, T, H).
        feed_forward: (B, T, H) -> (B, T, H).

    Example:
        >>> import torch
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


def new_layer(sizes: Mapping[str, Any], linear: NewLinear = nn.Linear) -> EncoderLayer:
    """A layer of BERT's shape.

    Args:
        sizes: `input_dim`, `num_attention_heads`, `attention_hidden_size`, `value_dim`,
            `intermediate_size`, `dropout`, `layer_norm_eps`, `hidden_act`; other keys are not
            looked at.
        linear: Makes a projection from its input and output size; `nn.Linear` unless given.

    Example:
        >>> sizes = {
        ...     "input_dim": 24, "num_attention_heads": 2, "attention_hidden_size": 4,
        ...     "value_dim": 6, "intermediate_size": 32, "dropout": 0.0, "layer_norm_eps": 1e-12,
        ...     "hidden_act": "gelu"}
        >>> import torch
        >>> new_layer(sizes)(torch.randn(2, 5, 24)).shape
        torch.Size([2, 5, 24])
    """
    return EncoderLayer(
        Attention(**attention_sizes(sizes), linear=linear),
        FeedForward(**feed_forward_sizes(sizes), linear=linear),
    )


def attention_sizes(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `Attention` among those of `new_layer`."""
    names = (
        "input_dim",
        "num_attention_heads",
        "attention_hidden_size",
        "value_dim",
        "dropout",
        "layer_norm_eps",
    )
    return {name: sizes[name] for name in names}


def feed_forward_sizes(sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `FeedForward` among those of `new_layer`."""
    names = ("input_dim", "intermediate_size", "dropout", "layer_norm_eps", "hidden_act")
    return {name: sizes[name] for name in names}


def _bias(bias: bool) -> dict[str, bool]:
    # Said only where it is not as usual: what makes projections may know of none.
    return {} if bias else {"bias": False}
