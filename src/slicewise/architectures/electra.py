"""ELECTRA, whose layers are BERT's: Clark et al. 2020, https://arxiv.org/abs/2003.10555."""

from __future__ import annotations

from slicewise.architectures.bert import Bert


class Electra(Bert):
    title = "ELECTRA"


architecture = Electra()
