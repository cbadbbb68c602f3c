"""CamemBERT, whose layers are BERT's: Martin et al. 2020, https://arxiv.org/abs/1911.03894."""

from __future__ import annotations

from slicewise.architectures.bert import Bert


class Camembert(Bert):
    title = "CamemBERT"


architecture = Camembert()
