"""BERT: Devlin et al. 2019, https://arxiv.org/abs/1810.04805."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slicewise.architecture import Architecture

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Bert(Architecture):
    title = "BERT"
    stack = "encoder.layer"
    parts = {  # noqa: RUF012
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.dense": "attention.output.dense",
        "attention.norm": "attention.output.LayerNorm",
        "feed_forward.intermediate": "intermediate.dense",
        "feed_forward.output": "output.dense",
        "feed_forward.norm": "output.LayerNorm",
    }


architecture = Bert()


def random_model(**sizes: Any) -> PreTrainedModel:
    """A model of random weights and without a pooler, of torch's generator.

    Args:
        sizes: As its config takes them.
    """
    from transformers import BertConfig, BertModel  # Only tests and benchmarks make one.

    return BertModel(BertConfig(**sizes), add_pooling_layer=False)
