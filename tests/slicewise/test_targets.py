"""The teacher's outputs, kept: whole or not at all, the same to the bit, within their limit."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from slicewise import targets as targets_module
from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.targets import CachedTargets, TargetStore, fingerprint
from slicewise.teacher import TeacherSlice, random_bert
from tests.waiting import eventually

FIRST = BatchIndex(Split.TRAIN, 0)


def _target(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def store(tmp_path: Path) -> TargetStore:
    return TargetStore(tmp_path, "a" * 32, limit=10**6)


def _path(store: TargetStore) -> Path:
    [path] = store.folder.glob("*.safetensors")
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_was_written_is_read(store: TargetStore, dtype: torch.dtype) -> None:
    target = _target().to(dtype)
    assert store.write(FIRST, target)
    found = store.read(FIRST)
    assert found is not None
    assert found.dtype == dtype
    assert torch.equal(found, target)
    assert store.read(BatchIndex(Split.VALID, 0)) is None


def test_files_are_safetensors(store: TargetStore) -> None:
    """Whoever reads those reads targets."""
    store.write(FIRST, _target())
    assert torch.equal(load_file(_path(store))["target"], _target())


def test_a_target_can_be_written_to_and_stays_what_it_was(store: TargetStore) -> None:
    """It is mapped, but the file is not the reader's."""
    store.write(FIRST, _target())
    found = store.read(FIRST)
    assert found is not None
    found.zero_()
    again = store.read(FIRST)
    assert again is not None
    assert torch.equal(again, _target())


def test_a_target_outlives_its_file(store: TargetStore) -> None:
    """Another process may remove it at any time."""
    store.write(FIRST, _target())
    found = store.read(FIRST)
    shutil.rmtree(store.folder)
    assert found is not None
    assert torch.equal(found, _target())


def test_where_nothing_can_be_written_all_is_computed(
    store: TargetStore, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(store.folder)
    assert not store.write(FIRST, _target())
    assert "No target is kept from here on" in caplog.text
    targets = CachedTargets(lambda batch: _target(), store)
    assert torch.equal(targets(Batch(_target(), origin=FIRST)), _target())


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_damage_is_taken_for_a_target(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A flipped bit anywhere, or an end that is missing."""
    store = TargetStore(tmp_path_factory.mktemp("store"), "a", limit=10**6)
    store.write(FIRST, _target())
    content = bytearray(_path(store).read_bytes())
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), "length")]
    else:
        place = data.draw(st.integers(0, len(content) - 1), "place")
        content[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
    _path(store).write_bytes(bytes(content))
    found = store.read(FIRST)
    # Not every space of the header decides something.
    assert found is None or torch.equal(found, _target())


def test_a_damaged_target_is_computed_again(
    store: TargetStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(FIRST, _target())
    path = _path(store)
    path.write_bytes(path.read_bytes()[:-1])
    targets = CachedTargets(lambda batch: _target(), store)
    assert torch.equal(targets(Batch(_target(), origin=FIRST)), _target())
    assert "is damaged" in caplog.text
    assert targets.computed == 1
    targets._reader.shutdown(wait=True)
    assert store.read(FIRST) is not None


def _write_for_ever(root: Path, seed: int) -> None:
    store, chance = TargetStore(root, "a", 10**9), random.Random(seed)
    while True:
        number = chance.randrange(4)
        store.write(BatchIndex(Split.TRAIN, number), _big(number))


def _big(number: int) -> Tensor:
    return torch.full((64, 64, 64), float(number))


def test_writers_that_are_killed_leave_no_half_target(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_for_ever, args=(tmp_path, i)) for i in range(3)]
    for writer in writers:
        writer.start()
    store = TargetStore(tmp_path, "a", 10**9)
    eventually(lambda: len(list(store.folder.glob("*.safetensors"))) >= 4, "a target of each")
    for writer in writers:
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    for number in range(4):
        found = store.read(BatchIndex(Split.TRAIN, number))
        assert found is not None
        assert torch.equal(found, _big(number))


def _age(store: TargetStore, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(store.folder, (then, then))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    size = 64**3 * 4
    stores = [TargetStore(tmp_path, name, limit=int(2.5 * size)) for name in "abc"]
    assert stores[0].write(FIRST, _big(0))
    assert stores[1].write(FIRST, _big(1))
    _age(stores[0], 7200)
    _age(stores[1], 3600)
    assert stores[2].write(FIRST, _big(2))
    assert not stores[0].folder.exists()
    assert stores[1].read(FIRST) is not None
    assert stores[2].read(FIRST) is not None


def test_what_is_in_use_stays_and_the_rest_is_computed(tmp_path: Path) -> None:
    size = 64**3 * 4
    stores = [TargetStore(tmp_path, name, limit=int(1.5 * size)) for name in "ab"]
    assert stores[0].write(FIRST, _big(0))
    assert not stores[1].write(FIRST, _big(1))
    assert stores[0].read(FIRST) is not None
    targets = CachedTargets(lambda batch: _big(1), stores[1])
    assert torch.equal(targets(Batch(_big(0), origin=FIRST)), _big(1))


def test_what_a_long_fit_reads_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading leaves no trace on a folder by itself."""
    size = 64**3 * 4
    stores = [TargetStore(tmp_path, name, limit=int(1.5 * size)) for name in "ab"]
    assert stores[0].write(FIRST, _big(0))
    _age(stores[0], 3600)
    monkeypatch.setattr(targets_module, "_SECONDS_TO_MARK", 0)
    assert stores[0].read(FIRST) is not None
    assert not stores[1].write(FIRST, _big(1))
    assert stores[0].read(FIRST) is not None


def _counting(targets: list[Tensor]) -> Callable[[Batch], Tensor]:
    def compute(batch: Batch) -> Tensor:
        targets.append(batch.hidden_states + 1)
        return targets[-1]

    return compute


def test_validation_targets_are_computed_once(tmp_path: Path) -> None:
    asked: list[Tensor] = []
    targets = CachedTargets(_counting(asked))
    batches = [Batch(_target(i), origin=BatchIndex(Split.VALID, i)) for i in range(3)]
    for batch in batches * 3:
        assert torch.equal(targets(batch), batch.hidden_states + 1)
    assert len(asked) == 3


def test_training_targets_in_memory_keep_to_their_limit() -> None:
    asked: list[Tensor] = []
    one = _target().numel() * 4
    targets = CachedTargets(_counting(asked), memory_limit=2 * one)
    batches = [Batch(_target(i), origin=BatchIndex(Split.TRAIN, i)) for i in range(3)]
    for batch in batches * 2:
        assert torch.equal(targets(batch), batch.hidden_states + 1)
    assert len(asked) == 4


@settings(deadline=None, max_examples=40)
@given(
    batches=st.integers(1, 12),
    room=st.integers(0, 14),
    fits=st.integers(2, 4),
    dtype=st.sampled_from([None, torch.bfloat16]),
)
def test_what_is_kept_of_an_epoch_stays(
    batches: int, room: int, fits: int, dtype: torch.dtype | None
) -> None:
    """Each fit asks for all of them in turn; who would throw out the oldest would keep none."""
    size = _target().to(dtype or torch.float32).nbytes
    asked: list[Tensor] = []
    targets = CachedTargets(_counting(asked), memory_limit=room * size + size // 2, dtype=dtype)
    epoch = [Batch(_target(i), origin=BatchIndex(Split.TRAIN, i)) for i in range(batches)]
    kept = None
    for _ in range(fits):
        asked.clear()
        found = [targets.find(batch) is not None for batch in epoch]
        for batch in epoch:
            targets(batch)
        assert kept is None or found == kept
        assert len(asked) == batches - sum(found)
        kept = [targets.find(batch) is not None for batch in epoch]
        assert sum(kept) == min(batches, room)
        assert sum(target.nbytes for target in targets._memory.values()) <= targets.memory_limit


def test_what_a_full_folder_holds_stays_in_other_processes(tmp_path: Path) -> None:
    size = _big(0).nbytes
    epoch = [Batch(_big(i), origin=BatchIndex(Split.TRAIN, i)) for i in range(6)]
    for process in range(3):
        asked: list[Tensor] = []
        store = TargetStore(tmp_path, "a", limit=int(3.5 * size))
        targets = CachedTargets(_counting(asked), store)
        for batch in epoch:
            assert torch.equal(targets(batch), batch.hidden_states + 1)
        targets._reader.shutdown(wait=True)
        assert len(asked) == (3 if process else 6)
        assert len(list(store.folder.iterdir())) == 3


def test_rounded_targets_are_the_same_kept_or_not() -> None:
    """Training ones; those of validation stay as they are."""
    exact = [Batch(_target(i), origin=BatchIndex(split, i)) for split in Split for i in range(2)]
    kept, computed = (
        CachedTargets(_counting([]), memory_limit=limit, dtype=torch.bfloat16)
        for limit in (10**6, 0)
    )
    for batch in exact * 2:
        assert batch.origin is not None
        target = batch.hidden_states + 1
        rounded = target.bfloat16().float() if batch.origin.split is Split.TRAIN else target
        assert torch.equal(kept(batch), rounded)
        assert torch.equal(computed(batch), rounded)
    assert kept.computed == len(exact)


def test_training_targets_are_read_ahead(store: TargetStore) -> None:
    batches = [Batch(_target(i), origin=BatchIndex(Split.TRAIN, i)) for i in range(0, 10, 2)]
    first = CachedTargets(_counting([]), store, step=2)
    for batch in batches:
        first(batch)
    first._reader.shutdown(wait=True)
    asked: list[Tensor] = []
    second = CachedTargets(_counting(asked), store, step=2)
    for batch in batches:
        assert torch.equal(second(batch), batch.hidden_states + 1)
        assert batch.origin is not None
        assert list(second._ahead) == [BatchIndex(Split.TRAIN, batch.origin.number + 2)]
    assert not asked


@pytest.mark.parametrize(("teacher_seconds", "kept"), [(0.2, True), (0.0, False)])
def test_the_store_is_used_where_it_is_faster(
    tmp_path: Path, teacher_seconds: float, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    target = torch.randn(64, 64, 64)

    def compute(batch: Batch) -> Tensor:
        # Not for no time: that would let another process go first.
        if teacher_seconds:
            time.sleep(teacher_seconds)
        return target

    store = TargetStore(tmp_path, "a", limit=10**9)
    targets = CachedTargets(compute, store, only_if_faster=True)
    assert torch.equal(targets(Batch(target, origin=FIRST)), target)
    assert (targets.store is store) is kept
    assert ("kept in" if kept else "not kept") in caplog.text


def test_a_batch_without_origin_is_always_computed() -> None:
    asked: list[Tensor] = []
    targets = CachedTargets(_counting(asked))
    for _ in range(2):
        targets(Batch(_target()))
    assert len(asked) == 2


def test_the_fingerprint_names_weights_and_settings(tiny_teacher: TeacherSlice) -> None:
    same = fingerprint(tiny_teacher, data={"seed": 0}, precision="32-true")
    assert same == fingerprint(tiny_teacher, precision="32-true", data={"seed": 0})
    other = random_bert(**_tiny(1))
    names = {
        same,
        fingerprint(tiny_teacher, data={"seed": 1}, precision="32-true"),
        fingerprint(tiny_teacher, data={"seed": 0}, precision="bf16-mixed"),
        fingerprint(other, data={"seed": 0}, precision="32-true"),
        # The same weights, put to another use.
        fingerprint(random_bert(**{**_tiny(0), "num_attention_heads": 4}), precision="32-true"),
        fingerprint(random_bert(**_tiny(0)), precision="32-true"),
    }
    assert len(names) == 6


def _tiny(seed: int) -> dict[str, int]:
    sizes = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    return {**sizes, "intermediate_size": 48, "seed": seed}
