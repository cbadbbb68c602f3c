"""A sliced encoder as a model of transformers.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from slicewise.encoder.description import ARCHITECTURE, KEY, build_blocks
from slicewise.encoder.sliced import Block
from slicewise.teacher import architecture_of, without_layers
from slicewise.whole import additive_mask

# `model.slicewise.safetensors`: not the name that transformers looks for by itself, so that
# without slicewise nobody takes the weights for those of a whole model of the family.
VARIANT = "slicewise"
WEIGHTS_NAME = f"model.{VARIANT}.safetensors"


class SlicedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What `AutoModel.from_pretrained` makes of a folder that `save_model` wrote.

    Args:
        config: Of the family that the original is of; its entry `slicewise` describes the blocks.
    """

    config_class = PreTrainedConfig
    base_model_prefix = ""
    _supports_sdpa = True

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.embeddings, self.final = embeddings_of(config)
        self.blocks = nn.ModuleList(build_blocks(getattr(config, KEY)))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> BaseModelOutput:
        """Token ids (B, T) to hidden states (B, T, H).

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 1 for real tokens; all unless given.
            token_type_ids: (B, T), where the family knows them.
            output_hidden_states: Also return those before the first block and after each.
        """
        assert input_ids is not None, "input_ids are needed: inputs_embeds are not supported"
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        keep_BT = attention_mask.bool()
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        entered = self.embeddings(input_ids=input_ids, attention_mask=keep_BT, **types)
        mask = additive_mask(keep_BT)
        states = [entered.last_hidden_state]
        for block in self.blocks:
            states.append(block(states[-1], mask))
        # As in transformers: the last of the hidden states are the final ones.
        states[-1] = self.final(states[-1])
        return BaseModelOutput(
            last_hidden_state=states[-1],
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`, from the weights' own name."""
        return super().from_pretrained(*arguments, **{**options, "variant": VARIANT})

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """As `PreTrainedModel.save_pretrained`, under the weights' own name."""
        super().save_pretrained(*arguments, **{**options, "variant": VARIANT})

    def _init_weights(self, module: nn.Module) -> None:
        """All weights are read from a file."""


def config_for(
    config: PreTrainedConfig, num_layers: int, description: dict[str, Any]
) -> dict[str, Any]:
    """The `config.json` of a sliced encoder.

    It stays one of the original's family, which every release of transformers knows: what needs no
    weights but an ONNX file runs where slicewise is not installed.

    Args:
        config: Of the model that the embeddings are of.
        num_layers: Of the original.
        description: Of the blocks.
    """
    architecture = architecture_of(config, "the original")
    config = architecture.with_layers(config, range(num_layers))
    config.architectures = [ARCHITECTURE]
    written = {**config.to_dict(), KEY: description}
    # Where it was loaded from is nobody else's business.
    written.pop("_name_or_path", None)
    return written


def embeddings_of(config: PreTrainedConfig) -> tuple[PreTrainedModel, nn.Module]:
    """A model of the family without layers, and what follows the last of them.

    Args:
        config: Of the family.
    """
    architecture = architecture_of(config, "the model")
    config = architecture.with_layers(config, ())
    config.architectures = None
    # Chosen for what is around it; not every family has each.
    config._attn_implementation_internal = None
    if hasattr(config, KEY):
        delattr(config, KEY)
    model: PreTrainedModel = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    if hasattr(model, "pooler"):
        # Its weights are nowhere.
        setattr(model, "pooler", None)  # noqa: B010
    return model, without_layers(model, architecture)


def blocks_of(model: SlicedModel) -> list[Block]:
    """Its blocks, first to last."""
    return list(model.blocks)  # type: ignore[arg-type]
