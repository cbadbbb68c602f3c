"""The numbers of the batches: what a rank gets, and where it goes on."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from slicewise.data.batch import BatchIndex, Split
from slicewise.data.hidden_states import BatchIndices


def _take(stream: BatchIndices, count: int) -> list[BatchIndex]:
    return list(itertools.islice(iter(stream), count))  # type: ignore[arg-type]


@given(
    num_batches=st.integers(1, 40),
    world_size=st.integers(1, 8),
    epochs=st.integers(1, 3),
)
def test_ranks_together_see_the_stream_of_one(
    num_batches: int, world_size: int, epochs: int
) -> None:
    total = num_batches * world_size
    ranks = [BatchIndices(Split.TRAIN, total, rank, world_size) for rank in range(world_size)]
    seen = [_take(rank, epochs * num_batches) for rank in ranks]
    alone = _take(BatchIndices(Split.TRAIN, total, 0, 1), epochs * total)
    together = [index for step in zip(*seen, strict=True) for index in step]
    assert together == alone
    assert len(set(together)) == len(together)


@given(repeat=st.integers(1, 5), world_size=st.integers(1, 4), epochs=st.integers(1, 5))
def test_what_is_repeated_are_the_first_batches_in_every_epoch(
    repeat: int, world_size: int, epochs: int
) -> None:
    seen = [
        _take(BatchIndices(Split.TRAIN, 40, rank, world_size, repeat=repeat), epochs * repeat)
        for rank in range(world_size)
    ]
    for rank, indices in enumerate(seen):
        assert indices == _take(BatchIndices(Split.TRAIN, 40, rank, world_size), repeat) * epochs


@given(num_batches=st.integers(1, 40), world_size=st.integers(1, 8))
def test_ranks_share_out_the_validation_set(num_batches: int, world_size: int) -> None:
    ranks = [BatchIndices(Split.VALID, num_batches, rank, world_size) for rank in range(world_size)]
    seen = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(indices) for indices in seen]
    together = sorted(itertools.chain.from_iterable(seen))
    assert together == [BatchIndex(Split.VALID, index) for index in range(num_batches)]


@pytest.mark.parametrize(("num_batches", "world_size"), [(4, 1), (4, 2), (12, 3)])
@pytest.mark.parametrize("split", [Split.TRAIN, Split.VALID])
def test_an_epoch_is_as_long_on_every_rank(num_batches: int, world_size: int, split: Split) -> None:
    lengths = [
        len(BatchIndices(split, num_batches, rank, world_size)) for rank in range(world_size)
    ]
    assert lengths == [num_batches // world_size] * world_size


@given(num_batches=st.integers(8, 40), world_size=st.integers(1, 8))
def test_ranks_train_for_equally_many_steps(num_batches: int, world_size: int) -> None:
    """Also where they do not divide the batches: each step waits for every rank."""
    ranks = [BatchIndices(Split.TRAIN, num_batches, rank, world_size) for rank in range(world_size)]
    assert {len(rank) for rank in ranks} == {num_batches // world_size}


@given(
    world_size=st.integers(1, 4),
    rank=st.integers(0, 3),
    at_once=st.integers(1, 5),
    rounds=st.integers(1, 5),
)
def test_several_at_once_are_those_that_come_one_by_one(
    world_size: int, rank: int, at_once: int, rounds: int
) -> None:
    assume(rank < world_size)
    total = at_once * rounds * world_size
    together = BatchIndices(Split.TRAIN, total, rank, world_size, at_once)
    assert len(together) == rounds
    handed = list(itertools.islice(iter(together), rounds))
    alone = BatchIndices(Split.TRAIN, total, rank, world_size)
    assert list(itertools.chain.from_iterable(handed)) == _take(alone, at_once * rounds)
    assert together.state_dict() == alone.state_dict()


def test_validation_is_the_same_each_time() -> None:
    valid = BatchIndices(Split.VALID, 5, 0, 1)
    assert list(valid) == list(valid)


def test_training_goes_on_over_epochs() -> None:
    train = BatchIndices(Split.TRAIN, 3, 0, 1)
    assert [index for _, index in _take(train, 3) + _take(train, 3)] == [0, 1, 2, 3, 4, 5]


@given(
    world_size=st.integers(1, 4),
    rank=st.integers(0, 3),
    stop=st.integers(0, 30),
    more=st.integers(1, 30),
)
def test_resumed_stream_goes_on_where_it_stopped(
    world_size: int, rank: int, stop: int, more: int
) -> None:
    assume(rank < world_size)
    straight = _take(BatchIndices(Split.TRAIN, 8, rank, world_size), stop + more)
    stopped = BatchIndices(Split.TRAIN, 8, rank, world_size)
    _take(stopped, stop)
    resumed = BatchIndices(Split.TRAIN, 8, rank, world_size)
    resumed.load_state_dict(stopped.state_dict())
    assert _take(resumed, more) == straight[stop:]
