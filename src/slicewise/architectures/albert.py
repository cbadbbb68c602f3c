"""ALBERT: BERT's layers, one of which runs in all places (Lan et al. 2020).

https://arxiv.org/abs/1909.11942.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from slicewise.architecture import Architecture, Handed, OtherShape


class _Run(Handed):
    """One run of a group of layers: the group is the same in many of them."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        y_BTH: Tensor = self.layer(hidden_states, attention_mask)
        return y_BTH


class Albert(Architecture):
    title = "ALBERT"
    stack = "encoder.albert_layer_groups"
    parts = {  # noqa: RUF012
        "attention.query": "albert_layers.0.attention.query",
        "attention.key": "albert_layers.0.attention.key",
        "attention.value": "albert_layers.0.attention.value",
        "attention.dense": "albert_layers.0.attention.dense",
        "attention.norm": "albert_layers.0.attention.LayerNorm",
        "feed_forward.intermediate": "albert_layers.0.ffn",
        "feed_forward.output": "albert_layers.0.ffn_output",
        "feed_forward.norm": "albert_layers.0.full_layer_layer_norm",
    }

    def layer_names(self, model: PreTrainedModel) -> list[str]:
        groups = [_group(model.config, number) for number in range(model.config.num_hidden_layers)]
        return [f"{self.stack}.{group}" for group in groups]

    def run(self, model: PreTrainedModel, number: int, layer: nn.Module) -> nn.Module:
        return _Run(layer)

    def shortened(self, config: PreTrainedConfig, num_layers: int) -> PreTrainedConfig:
        # How many layers there are decides which group runs where.
        return copy.deepcopy(config)

    def with_layers(self, config: PreTrainedConfig, numbers: Sequence[int]) -> PreTrainedConfig:
        config = super().with_layers(config, numbers)
        if len(numbers) < config.num_hidden_groups:
            config.num_hidden_groups = max(1, len(numbers))
        return config

    def take_layers_out(self, model: PreTrainedModel) -> nn.Module:
        encoder: Any = model.get_submodule("encoder")
        encoder.albert_layer_groups = nn.ModuleList()
        # The model's own config still says how many layers there were.
        encoder.config = self.with_layers(model.config, ())
        return nn.Identity()

    def kind(self, config: PreTrainedConfig, number: int) -> dict[str, Any]:
        if config.inner_group_num != 1:
            raise OtherShape(f"inner_group_num={config.inner_group_num}, several in one")
        return {"tied": _group(config, number)}

    def why_not_plain(self, config: PreTrainedConfig, kinds: Sequence[Any]) -> str:
        count, groups = len(kinds), config.num_hidden_groups
        expected = [int(number / (count / groups)) for number in range(count)]
        found = [kind["tied"] for kind in kinds]
        return "" if found == expected else "groups that run in other places"


architecture = Albert()


def _group(config: PreTrainedConfig, number: int) -> int:
    """Which group runs in a place, as transformers counts."""
    return int(number / (config.num_hidden_layers / config.num_hidden_groups))
