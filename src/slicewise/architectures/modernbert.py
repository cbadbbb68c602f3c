"""ModernBERT: rotary positions, local and global attention in turn, gated neurons, norms first.

Warner et al. 2024, https://arxiv.org/abs/2412.13663; rotary positions: Su et al. 2021,
https://arxiv.org/abs/2104.09864.

Shapes: B batch, T tokens, H hidden size, N heads, D attention hidden size (per head).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from slicewise.architecture import Architecture, Handed, OtherShape, own
from slicewise.attention import MASKED
from slicewise.layers import (
    Attention,
    EncoderLayer,
    FeedForward,
    NewLinear,
    attention_sizes,
    feed_forward_sizes,
)

_LOCAL = "sliding_attention"


class _Layer(Handed):
    """One of theirs, with the rotation and the mask of its kind.

    Args:
        layer: Theirs.
        rotary: The model's, which knows how far to turn each token.
        kind: Local or global, as the config calls it.
        theta: The base of the angles.
        window: How far a token sees to each side; None: everywhere.
    """

    def __init__(
        self, layer: nn.Module, rotary: nn.Module, kind: str, theta: float, window: int | None
    ) -> None:
        super().__init__(layer)
        self.rotary = rotary
        self.kind = kind
        self.theta = theta
        self.window = window

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        places_1T = torch.arange(hidden_states.shape[1], device=hidden_states.device)[None]
        y_BTH: Tensor = self.layer(
            hidden_states,
            attention_mask=_windowed(attention_mask, hidden_states, self.window),
            position_embeddings=self.rotary(hidden_states, places_1T, self.kind),
        )
        return y_BTH


class RotaryAttention(Attention):
    """Queries and keys turned by their place; a token may see only so far.

    Args:
        theta: The base of the angles.
        window: How far a token sees to each side; None: everywhere.
        sizes: As `Attention` takes them.
    """

    # A dimension is turned together with its partner, by an angle of its own.
    narrows = False

    def __init__(self, theta: float, window: int | None, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.theta = theta
        self.window = window

    def place(self, q_BNTD: Tensor, k_BNTD: Tensor) -> tuple[Tensor, Tensor]:
        T, D = q_BNTD.shape[2:]
        even = torch.arange(0, D, 2, device=q_BNTD.device, dtype=torch.float)
        place_T = torch.arange(T, device=q_BNTD.device, dtype=torch.float)
        angle_TD = torch.outer(place_T, 1.0 / self.theta ** (even / D)).repeat(1, 2)
        cos_TD, sin_TD = angle_TD.cos(), angle_TD.sin()
        return _turned(q_BNTD, cos_TD, sin_TD), _turned(k_BNTD, cos_TD, sin_TD)

    def scored(
        self, q_BNTD: Tensor, k_BNTD: Tensor, attention_mask: Tensor | None
    ) -> Tensor | None:
        return _windowed(attention_mask, q_BNTD[:, 0], self.window)


class ModernBert(Architecture):
    title = "ModernBERT"
    stack = "layers"
    activation_key = "hidden_activation"

    def run(self, model: PreTrainedModel, number: int, layer: nn.Module) -> nn.Module:
        config = model.config
        kind = config.layer_types[number]
        theta = config.rope_parameters[kind]["rope_theta"]
        rotary = model.get_submodule("rotary_emb")
        return _Layer(layer, rotary, kind, theta, _window(config, number))

    def with_layers(self, config: PreTrainedConfig, numbers: Sequence[int]) -> PreTrainedConfig:
        types = config.layer_types
        # Its weights cannot be drawn without a layer; the one is taken out again, and the config
        # still says of what kinds there were.
        config = super().with_layers(config, numbers or (0,))
        if numbers:
            config.layer_types = [types[number] for number in numbers]
        return config

    def take_layers_out(self, model: PreTrainedModel) -> nn.Module:
        final = self.final(model)
        super().take_layers_out(model)
        model.final_norm = nn.Identity()
        return final

    def final(self, model: PreTrainedModel) -> nn.Module:
        return model.get_submodule("final_norm")

    def num_positions(self, model: PreTrainedModel) -> int:
        count: int = model.config.max_position_embeddings
        return count

    def kind(self, config: PreTrainedConfig, number: int) -> dict[str, Any]:
        rope = config.rope_parameters[config.layer_types[number]]
        if rope["rope_type"] != "default":
            raise OtherShape(f"rope_type={rope['rope_type']}")
        return {
            "theta": rope["rope_theta"],
            "window": _window(config, number),
            # What enters the first layer is normed already.
            "normed": number == 0,
            "attention_bias": config.attention_bias,
            "mlp_bias": config.mlp_bias,
            "norm_bias": config.norm_bias,
        }

    def new_layer(
        self, sizes: Mapping[str, Any], kind: Mapping[str, Any], linear: NewLinear = nn.Linear
    ) -> EncoderLayer:
        H, eps, norm_bias = sizes["input_dim"], sizes["layer_norm_eps"], kind["norm_bias"]
        norm = nn.Identity() if kind["normed"] else nn.LayerNorm(H, eps=eps, bias=norm_bias)
        return EncoderLayer(
            RotaryAttention(
                kind["theta"],
                kind["window"],
                **attention_sizes(sizes),
                linear=linear,
                bias=kind["attention_bias"],
                norm=norm,
                norm_first=True,
            ),
            FeedForward(
                **feed_forward_sizes(sizes),
                linear=linear,
                bias=kind["mlp_bias"],
                norm=nn.LayerNorm(H, eps=eps, bias=norm_bias),
                norm_first=True,
                gated=True,
            ),
        )

    def parts_of(self, layer: nn.Module) -> dict[str, nn.Module | Tensor]:
        theirs: Any = own(layer)
        query, key, value = _cut(theirs.attn.Wqkv, 3)
        intermediate, gate = _cut(theirs.mlp.Wi, 2)
        return {
            "attention.query": query,
            "attention.key": key,
            "attention.value": value,
            "attention.dense": theirs.attn.Wo,
            "attention.norm": theirs.attn_norm,
            "feed_forward.intermediate": intermediate,
            "feed_forward.gate": gate,
            "feed_forward.output": theirs.mlp.Wo,
            "feed_forward.norm": theirs.mlp_norm,
        }

    @torch.no_grad()
    def write(self, ours: EncoderLayer, layer: nn.Module) -> None:
        super().write(ours, layer)
        theirs: Any = own(layer)
        attention, feed_forward = ours.attention, ours.feed_forward
        _paste(theirs.attn.Wqkv, [attention.query, attention.key, attention.value])
        _paste(theirs.mlp.Wi, [feed_forward.intermediate, feed_forward.gate])

    def why_not_plain(
        self, config: PreTrainedConfig, kinds: Sequence[Mapping[str, Any] | None]
    ) -> str:
        normed = [bool(kind and kind["normed"]) for kind in kinds]
        if normed == [number == 0 for number in range(len(kinds))]:
            return ""
        return "the original's first layer, which has one norm fewer, is not the first"


architecture = ModernBert()


def _window(config: PreTrainedConfig, number: int) -> int | None:
    window: int = config.sliding_window
    return window if config.layer_types[number] == _LOCAL else None


def _windowed(attention_mask: Tensor | None, x_BTH: Tensor, window: int | None) -> Tensor | None:
    """The additive mask, (B or 1, 1, 1 or T, T), of who may see whom."""
    T = x_BTH.shape[1]
    if window is None or window >= T - 1:
        return attention_mask
    place_T = torch.arange(T, device=x_BTH.device)
    far_TT = (place_T[:, None] - place_T).abs() > window
    mask_11TT = torch.zeros_like(far_TT, dtype=x_BTH.dtype).masked_fill(far_TT, MASKED)[None, None]
    return mask_11TT if attention_mask is None else mask_11TT + attention_mask


def _turned(x_BNTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    first, second = x_BNTD.float().chunk(2, dim=-1)
    turned_BNTD = x_BNTD.float() * cos_TD + torch.cat((-second, first), dim=-1) * sin_TD
    return turned_BNTD.to(x_BNTD.dtype)


def _cut(linear: nn.Linear, count: int) -> list[nn.Linear]:
    """A linear map of several outputs one after the other, as several maps."""
    size = linear.out_features // count
    cut = []
    for number in range(count):
        part = nn.Linear(linear.in_features, size, bias=linear.bias is not None, device="meta")
        rows = slice(number * size, (number + 1) * size)
        part.weight = nn.Parameter(linear.weight[rows].detach().clone())
        if linear.bias is not None:
            part.bias = nn.Parameter(linear.bias[rows].detach().clone())
        cut.append(part)
    return cut


def _paste(linear: nn.Linear, parts: Sequence[Any]) -> None:
    linear.weight.copy_(torch.cat([part.weight for part in parts]))
    if linear.bias is not None:
        linear.bias.copy_(torch.cat([part.bias for part in parts]))
