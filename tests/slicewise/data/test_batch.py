from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from slicewise.data.batch import Batch, Split, batch_seed
from slicewise.losses import l1_loss

splits = st.sampled_from(list(Split))
indices = st.integers(0, 2**30 - 1)
seeds = st.integers(-(2**63), 2**63)


# The seed of a batch


@given(seed=seeds, one=st.tuples(splits, indices), other=st.tuples(splits, indices))
def test_two_batches_never_share_a_seed(
    seed: int, one: tuple[Split, int], other: tuple[Split, int]
) -> None:
    assume(one != other)
    assert batch_seed(seed, *one) != batch_seed(seed, *other)


@given(seed=seeds, split=splits, index=st.integers(0, 2**31 - 1), bit=st.integers(0, 30))
def test_batches_far_apart_share_no_seed(seed: int, split: Split, index: int, bit: int) -> None:
    """A stride with a factor of two would come round after a power of two."""
    assert batch_seed(seed, split, index) != batch_seed(seed, split, index ^ (1 << bit))


@given(seed=seeds, split=splits, index=indices)
def test_seed_is_whole_in_the_generators_32_bits(seed: int, split: Split, index: int) -> None:
    assert 0 <= batch_seed(seed, split, index) < 2**32


@given(seed=seeds)
def test_a_long_stream_and_its_validation_share_no_seed(seed: int) -> None:
    seen = {batch_seed(seed, split, index) for split in Split for index in range(2000)}
    assert len(seen) == 2000 * len(Split)


def test_streams_of_different_seeds_differ() -> None:
    streams = {
        tuple(batch_seed(seed, Split.TRAIN, index) for index in range(100)) for seed in range(100)
    }
    assert len({first for first, *_ in streams}) == 100


@pytest.mark.parametrize(
    ("seed", "split", "index", "expected"),
    [
        (0, Split.TRAIN, 0, 1609362278),
        (0, Split.TRAIN, 7, 116757268),
        (0, Split.TRAIN, 2**31 - 1, 595458052),
        (0, Split.VALID, 0, 4263798039),
        (0, Split.VALID, 7, 2771193029),
        (3, Split.TRAIN, 1, 2323002343),
        (-1, Split.VALID, 1, 4132690079),
        (2**40, Split.VALID, 0, 3370500954),
    ],
)
def test_seeds_never_change(seed: int, split: Split, index: int, expected: int) -> None:
    """Or a fit that goes on, and one that is run again, would see other batches."""
    assert batch_seed(seed, split, index) == expected


# What counts


def test_loss_is_over_the_tokens_that_count() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 4, 8, generator=generator)
    keep_BT = torch.tensor([[True, True, False, False], [True, False, False, False], [True] * 4])
    lowest = torch.finfo(torch.float32).min
    mask = torch.zeros(3, 4).masked_fill(~keep_BT, lowest)[:, None, None]
    batch = Batch(prediction, mask)
    real_BT = batch.real_tokens()
    assert real_BT is not None
    assert torch.equal(real_BT, keep_BT)
    expected = (prediction - target)[keep_BT].abs().mean()
    torch.testing.assert_close(l1_loss(prediction, target, real_BT), expected)
    assert Batch(prediction).real_tokens() is None
    everything = torch.ones(3, 4, dtype=torch.bool)
    torch.testing.assert_close(l1_loss(prediction, target), l1_loss(prediction, target, everything))
