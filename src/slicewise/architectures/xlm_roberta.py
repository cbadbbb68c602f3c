"""XLM-RoBERTa, whose layers are BERT's: Conneau et al. 2020, https://arxiv.org/abs/1911.02116."""

from __future__ import annotations

from slicewise.architectures.bert import Bert


class XlmRoberta(Bert):
    title = "XLM-RoBERTa"


architecture = XlmRoberta()
