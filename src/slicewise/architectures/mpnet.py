"""MPNet: BERT's layers with a bias by relative position, which all layers share.

Song et al. 2020, https://arxiv.org/abs/2004.09297; the buckets are those of T5 (Raffel et al. 2020,
https://arxiv.org/abs/1910.10683).

Shapes: B batch, T tokens, H hidden size, N heads, D attention hidden size (per head), R buckets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from slicewise.architecture import Architecture, Handed
from slicewise.layers import (
    Attention,
    EncoderLayer,
    FeedForward,
    NewLinear,
    attention_sizes,
    feed_forward_sizes,
)

# As transformers has them, whatever the config says.
_BUCKETS, _MAX_DISTANCE = 32, 128


class _Layer(Handed):
    """One of theirs, with the bias that their encoder would hand it.

    The table is a buffer: it belongs to the model around the layers, and is counted there, once.
    """

    table_RN: Tensor

    def __init__(self, layer: nn.Module, table_RN: Tensor) -> None:
        super().__init__(layer)
        self.register_buffer("table_RN", table_RN.detach().clone())

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        B, T, _ = hidden_states.shape
        bias_1NTT = _bias(self.table_RN, T)
        output: tuple[Tensor, ...] = self.layer(
            hidden_states, attention_mask, bias_1NTT.expand(B, -1, -1, -1)
        )
        return output[0]


class BiasedAttention(Attention):
    """Scores with a bias by relative position; the table of it does not learn.

    Args:
        buckets: R.
        sizes: As `Attention` takes them.
    """

    table_RN: Tensor

    def __init__(self, buckets: int, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.register_buffer("table_RN", torch.zeros(buckets, self.num_attention_heads))

    def scored(self, q_BNTD: Tensor, k_BNTD: Tensor, attention_mask: Tensor | None) -> Tensor:
        bias_1NTT = _bias(self.table_RN, q_BNTD.shape[2])
        return bias_1NTT if attention_mask is None else bias_1NTT + attention_mask

    def take_besides(self, source: Attention, heads: list[int]) -> None:
        assert isinstance(source, BiasedAttention)
        self.table_RN.copy_(source.table_RN[:, heads])


class MPNet(Architecture):
    title = "MPNet"
    stack = "encoder.layer"
    parts = {  # noqa: RUF012
        "attention.query": "attention.attn.q",
        "attention.key": "attention.attn.k",
        "attention.value": "attention.attn.v",
        "attention.dense": "attention.attn.o",
        "attention.norm": "attention.LayerNorm",
        "feed_forward.intermediate": "intermediate.dense",
        "feed_forward.output": "output.dense",
        "feed_forward.norm": "output.LayerNorm",
    }

    def shared_names(self, model: PreTrainedModel) -> list[str]:
        return ["encoder.relative_attention_bias"]

    def run(self, model: PreTrainedModel, number: int, layer: nn.Module) -> nn.Module:
        table: Any = model.get_submodule("encoder.relative_attention_bias")
        return _Layer(layer, table.weight)

    def kind(self, config: PreTrainedConfig, number: int) -> dict[str, Any]:
        return {"buckets": config.relative_attention_num_buckets}

    def new_layer(
        self, sizes: Mapping[str, Any], kind: Mapping[str, Any], linear: NewLinear = nn.Linear
    ) -> EncoderLayer:
        return EncoderLayer(
            BiasedAttention(kind["buckets"], **attention_sizes(sizes), linear=linear),
            FeedForward(**feed_forward_sizes(sizes), linear=linear),
        )

    def parts_of(self, layer: nn.Module) -> dict[str, nn.Module | Tensor]:
        assert isinstance(layer, _Layer)
        return {**super().parts_of(layer), "attention.table_RN": layer.table_RN}


architecture = MPNet()


def _bias(table_RN: Tensor, T: int) -> Tensor:
    """What is added to the scores, (1, N, T, T)."""
    place_T = torch.arange(T, device=table_RN.device)
    # How far the query lies after the key.
    distance_TT = place_T[:, None] - place_T
    half = _BUCKETS // 2
    exact = half // 2
    far_TT = distance_TT.abs()
    log_TT = torch.log(far_TT.clamp(min=1).float() / exact) / math.log(_MAX_DISTANCE / exact)
    coarse_TT = (exact + (log_TT * (half - exact)).long()).clamp(max=half - 1)
    bucket_TT = torch.where(far_TT < exact, far_TT, coarse_TT) + half * (distance_TT < 0)
    return table_RN[bucket_TT].permute(2, 0, 1)[None]
