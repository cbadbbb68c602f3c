"""DeBERTa, second and third version: scores by content and by relative position, disentangled.

He et al. 2021, https://arxiv.org/abs/2006.03654 and https://arxiv.org/abs/2111.09543.

Shapes: B batch, T tokens, H hidden size, N heads, D attention hidden size (per head), R relative
positions, twice as many as one side has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from slicewise.architecture import Architecture, Handed, OtherShape, own
from slicewise.layers import (
    Attention,
    EncoderLayer,
    FeedForward,
    NewLinear,
    attention_sizes,
    feed_forward_sizes,
)


class _Layer(Handed):
    """One of theirs, with the relative positions that their encoder would hand it.

    The table is a buffer: it belongs to the model around the layers, and is counted there, once.

    Args:
        layer: Theirs.
        table_RH: An embedding for each relative position; None: there are none.
        conv: What their first layer is followed by in some models.
        buckets: As `_distances` takes them.
        most: The largest distance that is told apart.
    """

    table_RH: Tensor | None

    def __init__(
        self,
        layer: nn.Module,
        table_RH: Tensor | None,
        conv: nn.Module | None,
        buckets: int,
        most: int,
    ) -> None:
        super().__init__(layer)
        self.register_buffer("table_RH", None if table_RH is None else table_RH.detach().clone())
        self.conv = conv
        self.buckets = buckets
        self.scale = _scale(buckets, most)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        B, T, _ = hidden_states.shape
        if attention_mask is None:
            keep_BT = hidden_states.new_ones(B, T, dtype=torch.bool)
        else:
            keep_BT = (attention_mask[:, 0, 0] >= 0).expand(B, T)
        distance_1TT = _distances(T, self.buckets, self.scale, hidden_states.device)[None]
        output_BTH: Tensor = self.layer(
            hidden_states,
            keep_BT[:, None, None, :] & keep_BT[:, None, :, None],
            relative_pos=None if self.table_RH is None else distance_1TT,
            rel_embeddings=self.table_RH,
        )[0]
        if self.conv is not None:
            output_BTH = self.conv(hidden_states, output_BTH, keep_BT.long())
        return output_BTH


class DisentangledAttention(Attention):
    """Scores of content by content, content by position, and position by content.

    Args:
        kind: As the adapter's `kind` returns it.
        sizes: As `Attention` takes them.
    """

    table_RH: Tensor

    def __init__(self, kind: Mapping[str, Any], **sizes: Any) -> None:
        super().__init__(**sizes)
        self.buckets: int = kind["buckets"]
        self.scale = _scale(kind["buckets"], kind["most"])
        self.by_position = "c2p" in kind["scores"]
        self.of_position = "p2c" in kind["scores"]
        H, N, D = (
            sizes[name] for name in ("input_dim", "num_attention_heads", "attention_hidden_size")
        )
        self.register_buffer("table_RH", torch.zeros(kind["positions"], H))
        if not kind["shared"]:
            if self.by_position:
                self.position_key = nn.Linear(H, N * D)
                self.key_side = ("key", "position_key")
            if self.of_position:
                self.position_query = nn.Linear(H, N * D)
                self.query_side = ("query", "position_query")
        self.factor = 1 + self.by_position + self.of_position

    def place(self, q_BNTD: Tensor, k_BNTD: Tensor) -> tuple[Tensor, Tensor]:
        # Each kind of score has its share of the variance.
        return q_BNTD * self.factor**-0.5, k_BNTD

    def scored(
        self, q_BNTD: Tensor, k_BNTD: Tensor, attention_mask: Tensor | None
    ) -> Tensor | None:
        if not (self.by_position or self.of_position):
            return attention_mask
        B, N, T, D = q_BNTD.shape
        span = len(self.table_RH) // 2
        distance_TT = _distances(T, self.buckets, self.scale, q_BNTD.device)
        bias_BNTT: Any = 0 if attention_mask is None else attention_mask
        if self.by_position:
            keys_1NRD = self.split_heads(self._last(self.key_side)(self.table_RH[None]))
            score_BNTR = q_BNTD @ keys_1NRD.transpose(-1, -2) * D**-0.5
            place_TT = (distance_TT + span).clamp(0, 2 * span - 1)
            bias_BNTT = bias_BNTT + score_BNTR.gather(-1, place_TT.expand(B, N, T, T))
        if self.of_position:
            queries_1NRD = self.split_heads(self._last(self.query_side)(self.table_RH[None]))
            score_BNTR = k_BNTD @ queries_1NRD.transpose(-1, -2) * (D * self.factor) ** -0.5
            place_TT = (span - distance_TT).clamp(0, 2 * span - 1)
            by_key_BNTT = score_BNTR.gather(-1, place_TT.expand(B, N, T, T))
            bias_BNTT = bias_BNTT + by_key_BNTT.transpose(-1, -2)
        scored_BNTT: Tensor = bias_BNTT
        return scored_BNTT

    def take_besides(self, source: Attention, heads: list[int]) -> None:
        assert isinstance(source, DisentangledAttention)
        self.table_RH.copy_(source.table_RH)

    def _last(self, side: tuple[str, ...]) -> nn.Module:
        """What projects positions: a map of their own, or the one of the content."""
        return self.get_submodule(side[-1])


class _PassOn(nn.Module):
    """In the place of their layers: their encoder wants one at least."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return hidden_states, None


class DebertaV2(Architecture):
    title = "DeBERTa-v2/v3"
    stack = "encoder.layer"
    parts = {  # noqa: RUF012
        "attention.query": "attention.self.query_proj",
        "attention.key": "attention.self.key_proj",
        "attention.value": "attention.self.value_proj",
        "attention.dense": "attention.output.dense",
        "attention.norm": "attention.output.LayerNorm",
        "feed_forward.intermediate": "intermediate.dense",
        "feed_forward.output": "output.dense",
        "feed_forward.norm": "output.LayerNorm",
    }

    def shared_names(self, model: PreTrainedModel) -> list[str]:
        return ["encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv"]

    @torch.no_grad()
    def run(self, model: PreTrainedModel, number: int, layer: nn.Module) -> nn.Module:
        encoder: Any = model.get_submodule("encoder")
        conv = encoder.conv if number == 0 else None
        config = model.config
        return _Layer(layer, encoder.get_rel_embedding(), conv, _buckets(config), _most(config))

    def take_layers_out(self, model: PreTrainedModel) -> nn.Module:
        encoder: Any = model.get_submodule("encoder")
        encoder.layer = nn.ModuleList([_PassOn()])
        encoder.conv = None
        return nn.Identity()

    def num_positions(self, model: PreTrainedModel) -> int:
        count: int = model.config.max_position_embeddings
        return count

    def kind(self, config: PreTrainedConfig, number: int) -> dict[str, Any] | None:
        if number == 0 and getattr(config, "conv_kernel_size", 0) > 0:
            raise OtherShape("its first is followed by a convolution")
        if not config.relative_attention:
            if config.pos_att_type:
                raise OtherShape("pos_att_type without relative_attention")
            return None
        buckets, most = _buckets(config), _most(config)
        return {
            "buckets": buckets,
            "most": most,
            "positions": 2 * (buckets if buckets > 0 else most),
            "scores": list(config.pos_att_type or []),
            "shared": bool(getattr(config, "share_att_key", False)),
        }

    def new_layer(
        self, sizes: Mapping[str, Any], kind: Mapping[str, Any], linear: NewLinear = nn.Linear
    ) -> EncoderLayer:
        return EncoderLayer(
            DisentangledAttention(kind, **attention_sizes(sizes), linear=linear),
            FeedForward(**feed_forward_sizes(sizes), linear=linear),
        )

    def parts_of(self, layer: nn.Module) -> dict[str, nn.Module | Tensor]:
        parts = super().parts_of(layer)
        attention: Any = own(layer).get_submodule("attention.self")
        for side in ("key", "query"):
            projection = getattr(attention, f"pos_{side}_proj", None)
            if projection is not None:
                parts[f"attention.position_{side}"] = projection
        assert isinstance(layer, _Layer)
        if layer.table_RH is not None:
            parts["attention.table_RH"] = layer.table_RH
        return parts


architecture = DebertaV2()


def _buckets(config: PreTrainedConfig) -> int:
    buckets: int = getattr(config, "position_buckets", -1)
    return buckets


def _most(config: PreTrainedConfig) -> int:
    most: int = getattr(config, "max_relative_positions", -1)
    return most if most >= 1 else config.max_position_embeddings


def _scale(buckets: int, most: int) -> float:
    """By which the logarithms of distances are divided; as exactly as transformers does it.

    They are rounded up, and the last bit of a number in single precision decides where.
    """
    if buckets <= 0:
        return 0.0
    # On the CPU, whatever device a model is being made on.
    return float(torch.log(torch.tensor((most - 1) / (buckets // 2), device="cpu")))


def _distances(T: int, buckets: int, scale: float, device: torch.device) -> Tensor:
    """How far each query lies after each key, (T, T).

    Args:
        T: Tokens.
        buckets: Distances beyond half of them are counted ever more coarsely; -1: none are.
        scale: As `_scale` returns it.
        device: Where.
    """
    place_T = torch.arange(T, device=device)
    distance_TT = place_T[:, None] - place_T
    if buckets <= 0:
        return distance_TT
    middle = buckets // 2
    far_TT = distance_TT.abs().clamp(min=middle - 1).float()
    log_TT = torch.log(far_TT / middle) / scale * (middle - 1)
    coarse_TT = (torch.ceil(log_TT) + middle) * distance_TT.sign()
    return torch.where(distance_TT.abs() <= middle, distance_TT, coarse_TT.long())
