"""What every data source must be.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import torch
from slicewise.data.batch import Batch, BatchIndex, Split

from my_package.data import MyData

SIZES = {"hidden_size": 24, "batch_size": 4, "seq_length": 8, "rank": 3}


def batch(split: Split, number: int, seed: int = 0) -> Batch:
    data = MyData(**SIZES, seed=seed)
    return data.make_batch(BatchIndex(split, number), torch.device("cpu"))


def test_a_batch_has_its_sizes_and_its_name() -> None:
    x_BTH, mask_B11T, origin = batch(Split.TRAIN, 7)
    assert x_BTH.shape == (4, 8, 24)
    assert x_BTH.dtype == torch.float32
    assert mask_B11T is not None
    assert mask_B11T.shape == (4, 1, 1, 8)
    assert origin == (Split.TRAIN, 7)


def test_every_text_has_a_token() -> None:
    real_BT = batch(Split.TRAIN, 0).real_tokens()
    assert real_BT is not None
    assert real_BT.any(1).all()


def test_seed_split_and_number_decide_a_batch_and_nothing_else() -> None:
    first_BTH = batch(Split.TRAIN, 0).hidden_states
    assert torch.equal(batch(Split.TRAIN, 0).hidden_states, first_BTH)
    for other in (batch(Split.TRAIN, 1), batch(Split.VALID, 0), batch(Split.TRAIN, 0, seed=1)):
        assert not torch.equal(other.hidden_states, first_BTH)


def test_what_makes_other_batches_has_another_digest() -> None:
    assert MyData(24, rank=3).digest() != MyData(24, rank=4).digest()
