"""RoBERTa, whose layers are BERT's: Liu et al. 2019, https://arxiv.org/abs/1907.11692."""

from __future__ import annotations

from slicewise.architectures.bert import Bert


class Roberta(Bert):
    title = "RoBERTa"


architecture = Roberta()
