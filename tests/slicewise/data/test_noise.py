from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.noise import NoiseDataModule, NoiseIndices, batch_seed, noise_batch
from slicewise.distiller import Distiller
from slicewise.errors import ArgumentError

CPU = torch.device("cpu")

splits = st.sampled_from(list(Split))
indices = st.integers(0, 2**31 - 1)
seeds = st.integers(-(2**63), 2**63)


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _take(stream: NoiseIndices, count: int) -> list[BatchIndex]:
    return list(itertools.islice(iter(stream), count))


# The seed of a batch


@given(seed=seeds, one=st.tuples(splits, indices), other=st.tuples(splits, indices))
def test_two_batches_never_share_a_seed(
    seed: int, one: tuple[Split, int], other: tuple[Split, int]
) -> None:
    assume(one != other)
    assert batch_seed(seed, *one) != batch_seed(seed, *other)


@given(seed=seeds, split=splits, index=indices, bit=st.integers(0, 30))
def test_batches_far_apart_share_no_seed(seed: int, split: Split, index: int, bit: int) -> None:
    """A stride with a factor of two would come round after a power of two."""
    assert batch_seed(seed, split, index) != batch_seed(seed, split, index ^ (1 << bit))


@given(seed=seeds, split=splits, index=indices)
def test_seed_is_whole_in_the_generators_32_bits(seed: int, split: Split, index: int) -> None:
    assert 0 <= batch_seed(seed, split, index) < 2**32


@given(seed=seeds)
def test_a_long_stream_and_its_validation_share_no_seed(seed: int) -> None:
    train = {batch_seed(seed, Split.TRAIN, index) for index in range(2000)}
    valid = {batch_seed(seed, Split.VALID, index) for index in range(2000)}
    assert len(train) == len(valid) == 2000
    assert not train & valid


def test_streams_of_different_seeds_differ() -> None:
    streams = {
        tuple(batch_seed(seed, Split.TRAIN, index) for index in range(100)) for seed in range(100)
    }
    assert len({first for first, *_ in streams}) == 100


# The batch


def test_same_batch_in_another_process(run_python: Callable[..., str]) -> None:
    program = """
import hashlib, torch
from slicewise.data.batch import Split
from slicewise.data.noise import noise_batch
torch.manual_seed(12345)
torch.set_num_threads(1)
for seed, split, index in [(0, 0, 0), (0, 0, 7), (0, 1, 7), (3, 0, 7)]:
    batch = noise_batch((2, 5, 24), seed, Split(split), index, torch.device("cpu"))
    print(hashlib.sha256(batch.numpy().tobytes()).hexdigest())
"""
    elsewhere = run_python(program, PYTHONHASHSEED="1").split()
    here = [
        _digest(noise_batch((2, 5, 24), seed, Split(split), index, CPU))
        for seed, split, index in [(0, 0, 0), (0, 0, 7), (0, 1, 7), (3, 0, 7)]
    ]
    assert elsewhere == here
    assert len(set(here)) == 4


def test_noise_is_standard_normal() -> None:
    batch = noise_batch((16, 64, 96), 0, Split.TRAIN, 0, CPU)
    assert batch.dtype == torch.float32
    assert abs(batch.mean().item()) < 0.02
    assert abs(batch.std().item() - 1) < 0.02


def test_making_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    noise_batch((2, 3, 4), 0, Split.TRAIN, 0, CPU)
    assert torch.equal(before, torch.get_rng_state())


# The indices of a rank


@given(
    num_batches=st.integers(1, 40),
    world_size=st.integers(1, 8),
    epochs=st.integers(1, 3),
)
def test_ranks_together_see_the_stream_of_one(
    num_batches: int, world_size: int, epochs: int
) -> None:
    total = num_batches * world_size
    ranks = [NoiseIndices(Split.TRAIN, total, rank, world_size) for rank in range(world_size)]
    seen = [_take(rank, epochs * num_batches) for rank in ranks]
    alone = _take(NoiseIndices(Split.TRAIN, total, 0, 1), epochs * total)
    together = [index for step in zip(*seen, strict=True) for index in step]
    assert together == alone
    assert len(set(together)) == len(together)


@given(num_batches=st.integers(1, 40), world_size=st.integers(1, 8))
def test_ranks_share_out_the_validation_set(num_batches: int, world_size: int) -> None:
    ranks = [NoiseIndices(Split.VALID, num_batches, rank, world_size) for rank in range(world_size)]
    seen = [list(rank) for rank in ranks]
    assert [len(rank) for rank in ranks] == [len(indices) for indices in seen]
    together = sorted(itertools.chain.from_iterable(seen))
    assert together == [BatchIndex(Split.VALID, index) for index in range(num_batches)]


@pytest.mark.parametrize(("num_batches", "world_size"), [(4, 1), (4, 2), (12, 3)])
def test_an_epoch_is_as_long_on_every_rank(num_batches: int, world_size: int) -> None:
    for split in Split:
        lengths = [
            len(NoiseIndices(split, num_batches, rank, world_size)) for rank in range(world_size)
        ]
        assert lengths == [num_batches // world_size] * world_size


@given(num_batches=st.integers(8, 40), world_size=st.integers(1, 8))
def test_ranks_train_for_equally_many_steps(num_batches: int, world_size: int) -> None:
    """Also where they do not divide the batches: each step waits for every rank."""
    ranks = [NoiseIndices(Split.TRAIN, num_batches, rank, world_size) for rank in range(world_size)]
    assert {len(rank) for rank in ranks} == {num_batches // world_size}


def test_validation_is_the_same_each_time() -> None:
    valid = NoiseIndices(Split.VALID, 5, 0, 1)
    assert list(valid) == list(valid)


def test_training_goes_on_over_epochs() -> None:
    train = NoiseIndices(Split.TRAIN, 3, 0, 1)
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
    straight = _take(NoiseIndices(Split.TRAIN, 8, rank, world_size), stop + more)
    stopped = NoiseIndices(Split.TRAIN, 8, rank, world_size)
    _take(stopped, stop)
    resumed = NoiseIndices(Split.TRAIN, 8, rank, world_size)
    resumed.load_state_dict(stopped.state_dict())
    assert _take(resumed, more) == straight[stop:]


# The data module


@pytest.mark.parametrize("name", ["batch_size", "seq_length", "train_batches", "valid_batches"])
@pytest.mark.parametrize("size", [0, -3])
def test_error_names_the_size(name: str, size: int) -> None:
    with pytest.raises(ArgumentError) as caught:
        NoiseDataModule(24, **{name: size})
    assert str(caught.value) == f"{name}={size}: allowed: an integer of at least 1"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("train_batches", {"train_batches": 1, "valid_batches": 4}),
        ("valid_batches", {"train_batches": 4, "valid_batches": 1}),
    ],
)
def test_every_rank_needs_a_batch(
    name: str, sizes: dict[str, int], new_trainer: Callable[..., Trainer]
) -> None:
    data = NoiseDataModule(24, **sizes)
    data.trainer = new_trainer(devices=2, strategy="ddp_spawn")
    assert data.trainer.world_size == 2
    with pytest.raises(ArgumentError, match="at least one for each of 2 ranks") as caught:
        [data.train_dataloader(), data.val_dataloader()]
    assert caught.value.name == name


def test_rank_comes_from_the_trainer(new_trainer: Callable[..., Trainer]) -> None:
    data = NoiseDataModule(24, train_batches=6, valid_batches=4)
    data.trainer = new_trainer(devices=2, strategy="ddp_spawn")
    train, valid = data.train_dataloader(), data.val_dataloader()
    assert (train.rank, train.world_size, len(train)) == (0, 2, 3)
    assert (valid.rank, valid.world_size, len(valid)) == (0, 2, 2)


class _Recorder(Callback):
    """Keeps a digest of each batch that reaches the module."""

    def __init__(self) -> None:
        self.train: list[str] = []
        self.valid: list[str] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.train.append(_digest(batch.hidden_states))

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.valid.append(_digest(batch.hidden_states))


def test_a_fit_trains_on_fresh_noise_and_validates_on_the_same(
    new_trainer: Callable[..., Trainer],
    new_distiller: Callable[..., Distiller],
    new_data: Callable[..., NoiseDataModule],
) -> None:
    recorder = _Recorder()
    data = new_data(train_batches=3, valid_batches=2, seed=5)
    new_trainer(max_epochs=2, callbacks=[recorder]).fit(new_distiller(), datamodule=data)
    assert recorder.train == [
        _digest(noise_batch(data.size, 5, Split.TRAIN, index, CPU)) for index in range(6)
    ]
    assert recorder.valid == 2 * [
        _digest(noise_batch(data.size, 5, Split.VALID, index, CPU)) for index in range(2)
    ]
    assert not set(recorder.train) & set(recorder.valid)
