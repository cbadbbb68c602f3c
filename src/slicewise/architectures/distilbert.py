"""DistilBERT, BERT's layers under other names: Sanh et al. 2019, https://arxiv.org/abs/1910.01108."""

from __future__ import annotations

from slicewise.architecture import Architecture


class DistilBert(Architecture):
    title = "DistilBERT"
    stack = "transformer.layer"
    parts = {  # noqa: RUF012
        "attention.query": "attention.q_lin",
        "attention.key": "attention.k_lin",
        "attention.value": "attention.v_lin",
        "attention.dense": "attention.out_lin",
        "attention.norm": "sa_layer_norm",
        "feed_forward.intermediate": "ffn.lin1",
        "feed_forward.output": "ffn.lin2",
        "feed_forward.norm": "output_layer_norm",
    }
    neurons_key = "hidden_dim"
    activation_key = "activation"


architecture = DistilBert()
