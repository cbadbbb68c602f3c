"""Encoder layers of BERT's shape (Devlin et al. 2019, https://arxiv.org/abs/1810.04805).

They are what several families are made of, and what a teacher's layers are read into.

Shapes: B batch, T tokens, H hidden size, N heads, D attention hidden size (per head), V value_dim
(all heads), W = V / N, F intermediate size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from slicewise.arguments import (
    check_integers,
    check_multiple,
    check_numbers,
    check_probabilities,
)
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.layers import Attention, EncoderLayer, FeedForward, NewLinear

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice

_SIZES = (
    "input_dim",
    "num_layers",
    "num_attention_heads",
    "attention_hidden_size",
    "value_dim",
    "intermediate_size",
)

# Where a layer of ours finds its weights in a teacher's: BERT, RoBERTa, ELECTRA ... and DistilBERT.
_NAMES = (
    {
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.dense": "attention.output.dense",
        "attention.norm": "attention.output.LayerNorm",
        "feed_forward.intermediate": "intermediate.dense",
        "feed_forward.output": "output.dense",
        "feed_forward.norm": "output.LayerNorm",
    },
    {
        "attention.query": "attention.q_lin",
        "attention.key": "attention.k_lin",
        "attention.value": "attention.v_lin",
        "attention.dense": "attention.out_lin",
        "attention.norm": "sa_layer_norm",
        "feed_forward.intermediate": "ffn.lin1",
        "feed_forward.output": "ffn.lin2",
        "feed_forward.norm": "output_layer_norm",
    },
)


class Encoder(nn.Module):
    """Layers one after the other.

    Args:
        sizes: What each layer is made of: `input_dim`, `num_layers`, `num_attention_heads`,
            `attention_hidden_size`, `value_dim`, `intermediate_size`, `dropout`,
            `layer_norm_eps`, `hidden_act`; other keys are not looked at.
        linear: Makes a projection from its input and output size; `nn.Linear` unless given.

    Example:
        >>> encoder = Encoder({
        ...     "input_dim": 24, "num_layers": 3, "num_attention_heads": 2,
        ...     "attention_hidden_size": 4, "value_dim": 6, "intermediate_size": 32,
        ...     "dropout": 0.0, "layer_norm_eps": 1e-12, "hidden_act": "gelu"})
        >>> len(list(encoder)), encoder(torch.randn(2, 5, 24)).shape
        (3, torch.Size([2, 5, 24]))
    """

    def __init__(self, sizes: Mapping[str, Any], linear: NewLinear = nn.Linear) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(
                Attention(
                    sizes["input_dim"],
                    sizes["num_attention_heads"],
                    sizes["attention_hidden_size"],
                    sizes["value_dim"],
                    sizes["dropout"],
                    sizes["layer_norm_eps"],
                    linear,
                ),
                FeedForward(
                    sizes["input_dim"],
                    sizes["intermediate_size"],
                    sizes["dropout"],
                    sizes["layer_norm_eps"],
                    sizes["hidden_act"],
                    linear,
                ),
            )
            for _ in range(sizes["num_layers"])
        )

    def __iter__(self) -> Iterator[EncoderLayer]:
        """Its layers, first to last."""
        return iter(cast(list[EncoderLayer], self.layers))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, H), and an additive mask (B, 1, 1, T), to (B, T, H)."""
        x_BTH = hidden_states
        for layer in self:
            x_BTH = layer(x_BTH, attention_mask)
        return x_BTH


@dataclass(frozen=True)
class Geometry:
    """The sizes of a teacher slice, by the names that students call them.

    Example:
        >>> from slicewise.teacher import random_bert
        >>> geometry = Geometry.of(
        ...     random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32))
        >>> geometry.num_attention_heads, geometry.attention_hidden_size, geometry.hidden_act
        (2, 12, 'gelu')
    """

    input_dim: int
    num_layers: int
    num_attention_heads: int
    attention_hidden_size: int
    intermediate_size: int
    layer_norm_eps: float
    hidden_act: str

    @classmethod
    def of(cls, teacher: TeacherSlice) -> Geometry:
        """Reads them off the first layer; all layers of an encoder are alike.

        Raises:
            SlicewiseError: The teacher's layers are not of BERT's shape.
        """
        layer: Any = teacher.layers[0]
        parts = parts_of_layer(layer, teacher.source)
        # BERT's attention is two levels deep, DistilBERT's one; the other names differ as well.
        attention = getattr(layer.attention, "self", layer.attention)
        settings = attention.config
        heads = getattr(attention, "num_attention_heads", None) or attention.n_heads
        hidden_act = getattr(settings, "hidden_act", None) or settings.activation
        if hidden_act not in ACT2FN:
            raise _other_shape(teacher.source)
        return cls(
            input_dim=teacher.hidden_size,
            num_layers=len(teacher.layers),
            num_attention_heads=heads,
            attention_hidden_size=parts["attention.query"].out_features // heads,
            intermediate_size=parts["feed_forward.intermediate"].out_features,
            layer_norm_eps=parts["feed_forward.norm"].eps,
            hidden_act=hidden_act,
        )


@torch.no_grad()
def read_layers(teacher: TeacherSlice, num_layers: int) -> Encoder:
    """A copy of the teacher's first layers, frozen, in eval mode and on the teacher's device.

    Args:
        teacher: Of BERT's shape.
        num_layers: How many layers.

    Raises:
        ArgumentError: The teacher has fewer.
        SlicewiseError: The teacher's layers are not of BERT's shape.

    Example:
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> encoder = read_layers(teacher, num_layers=2)
        >>> x_BTH = torch.randn(2, 5, 24)
        >>> torch.allclose(encoder(x_BTH), teacher(x_BTH), atol=1e-5)
        True
    """
    geometry = Geometry.of(teacher)
    if num_layers > geometry.num_layers:
        raise ArgumentError(
            "num_layers", num_layers, f"1 to {geometry.num_layers}, the layers of the teacher"
        )
    source = teacher.layers[:num_layers]
    encoder = Encoder(
        {
            **vars(geometry),
            "num_layers": num_layers,
            "value_dim": geometry.num_attention_heads * geometry.attention_hidden_size,
            "dropout": 0.0,
        }
    )
    for layer, ours in zip(source, encoder, strict=True):
        for name, part in parts_of_layer(layer, teacher.source).items():
            ours.set_submodule(name, copy.deepcopy(part), strict=True)
    encoder.requires_grad_(False).eval()
    # The names can fit where the computation does not: layer norms before the blocks, say.
    x_BTH = torch.randn(1, 4, geometry.input_dim, generator=torch.Generator().manual_seed(0))
    x_BTH = x_BTH.to(next(encoder.parameters()).device)
    y_BTH = x_BTH
    for layer in source:
        output = layer(y_BTH, None)
        y_BTH = output[0] if isinstance(output, tuple) else output
    if not torch.allclose(encoder(x_BTH), y_BTH, atol=1e-4):
        raise _other_shape(teacher.source)
    return encoder


def check_sizes(arguments: Mapping[str, Any]) -> None:
    """Refuses arguments that no layer can be made of.

    Args:
        arguments: `dropout`, `layer_norm_eps`, `hidden_act`, and those sizes that there are.

    Raises:
        ArgumentError: A size is not positive, the heads do not divide `value_dim`, `dropout` is
            not a probability below 1, `layer_norm_eps` is negative, or transformers has no
            activation `hidden_act`.

    Example:
        >>> check_sizes(
        ...     {"num_layers": 0, "dropout": 0.0, "layer_norm_eps": 1e-12, "hidden_act": "gelu"})
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: num_layers=0: allowed: an integer of at least 1
    """
    check_integers(1, **{name: arguments[name] for name in _SIZES if name in arguments})
    check_probabilities(dropout=arguments["dropout"])
    check_numbers(0, layer_norm_eps=arguments["layer_norm_eps"])
    if arguments["hidden_act"] not in ACT2FN:
        raise ArgumentError("hidden_act", arguments["hidden_act"], ", ".join(sorted(ACT2FN)))
    if "value_dim" in arguments:
        heads = arguments["num_attention_heads"]
        check_multiple("value_dim", arguments["value_dim"], "num_attention_heads", heads)


def check_head_size(input_dim: int, num_attention_heads: int) -> None:
    """Refuses heads that do not divide the hidden size, where they share it.

    Raises:
        ArgumentError: They do not.

    Example:
        >>> check_head_size(input_dim=24, num_attention_heads=12)
    """
    if input_dim % num_attention_heads:
        divisors = [n for n in range(1, input_dim + 1) if input_dim % n == 0]
        raise ArgumentError(
            "num_attention_heads",
            num_attention_heads,
            f"a divisor of input_dim={input_dim}: {', '.join(map(str, divisors))}",
        )


def parts_of_layer(layer: nn.Module, source: str) -> dict[str, Any]:
    """The linear maps and layer norms of a teacher's layer, by our names."""
    modules = dict(layer.named_modules())
    for names in _NAMES:
        if set(names.values()) <= set(modules):
            return {ours: modules[theirs] for ours, theirs in names.items()}
    raise _other_shape(source)


def _other_shape(source: str) -> SlicewiseError:
    return SlicewiseError(
        f"The layers of {source} are not of BERT's shape, which this student takes sizes or "
        "weights from\nWithout them: student=approx"
    )
