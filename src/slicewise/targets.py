"""The teacher's outputs, computed once and shared by all fits that need the same ones.

Teacher slice, data settings and seed decide them, so all trials of a sweep see the same targets.
They lie in safetensors files, one for each batch, in a folder named by a fingerprint of all that
decides them. A file appears whole or not at all, so any number of processes may write and be
killed; its metadata carry a checksum, and what is damaged is computed again.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from slicewise.atomic import write_atomically
from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.recent import Made, Recent
from slicewise.digest import frozen_digest
from slicewise.waiting import waiting_for

log = logging.getLogger(__name__)

# Part of every fingerprint: files of another format are never looked at.
_FORMAT = "safetensors, crc32"
_NAME = "target"
_CHECKSUM = "crc32"
# About as many bytes as a file has besides the values.
_HEADER_SIZE = 200
# A folder that was used so recently may be in use.
_SECONDS_IN_USE = 600.0
# Between two marks of a folder that is in use.
_SECONDS_TO_MARK = 60.0


def fingerprint(teacher: nn.Module, **decisive: Any) -> str:
    """Names the targets of a teacher: 32 hexadecimal digits.

    Args:
        teacher: A slice, or a whole encoder; what it computes counts, not where it comes from.
        decisive: Whatever else decides the outputs to the last bit, as JSON values: the data
            and its seed, the precision, the device, the versions.

    Example:
        >>> from slicewise.targets import fingerprint
        >>> from slicewise.teacher import random_bert
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
        >>> one = fingerprint(random_bert(**sizes), seed=0)
        >>> one == fingerprint(random_bert(**sizes), seed=0)
        True
        >>> one == fingerprint(random_bert(**sizes), seed=1)
        False
    """
    named = {"format": _FORMAT, "teacher": frozen_digest(teacher), **decisive}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:32]


class TargetStore:
    """A folder of targets.

    Args:
        root: Holds the folders of all fingerprints.
        name: The fingerprint.
        limit: Bytes that all folders may take. When this one has no room left, those that have
            not been used for longest are removed, but none of the last ten minutes; then no
            more is written.

    Example:
        >>> import pathlib, tempfile, torch
        >>> from slicewise.data.batch import BatchIndex, Split
        >>> from slicewise.targets import TargetStore
        >>> first = BatchIndex(Split.TRAIN, 0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = TargetStore(pathlib.Path(folder), "a-fingerprint", limit=10**6)
        ...     before = store.read(first)
        ...     written = store.write(first, torch.ones(1, 1, 3))
        ...     after = store.read(first)
        >>> before, written, after
        (None, True, tensor([[[1., 1., 1.]]]))
    """

    def __init__(self, root: Path, name: str, limit: int) -> None:
        self.folder = root / name
        self._root = root
        self._limit = limit
        self._full = False
        self._unmeasured = 0
        self._used = 0
        self._marked = 0.0
        self.folder.mkdir(parents=True, exist_ok=True)
        self.touch()

    def touch(self) -> None:
        """Marks the folder as used now."""
        self._marked = time.monotonic()
        with contextlib.suppress(OSError):
            os.utime(self.folder)

    def read(self, index: BatchIndex) -> Tensor | None:
        """The target of a batch, or None where there is none that is whole.

        The tensor is mapped into memory: processes that read the same share it.
        """
        path = self._path(index)
        # A fit may take hours.
        if time.monotonic() - self._marked > _SECONDS_TO_MARK:
            self.touch()
        try:
            return _load(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError) as error:
            log.warning("%s is damaged (%s): computed again", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def write(self, index: BatchIndex, target: Tensor) -> bool:
        """Keeps a target, if there is room; says whether."""
        if self._full or not self._has_room(target.nbytes + _HEADER_SIZE):
            return False
        try:
            write_atomically(self._path(index), functools.partial(_save, target))
        except (OSError, SafetensorError) as error:
            log.warning("No target is kept from here on: %s", error)
            self._full = True
            return False
        return True

    def _path(self, index: BatchIndex) -> Path:
        return self.folder / f"{index.split.name.lower()}-{index.number:08d}.safetensors"

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes fit; measured now and then, as others write too."""
        self._unmeasured += size
        if self._used == 0 or self._unmeasured > self._limit // 50:
            self._used = _size_of(self._root)
            self._unmeasured = size
        while self._used + self._unmeasured > self._limit:
            freed = self._remove_least_recent()
            if freed == 0:
                log.info("Targets: %s is full (data.cache_limit)", self._root)
                self._full = True
                return False
            self._used -= freed
        return True

    def _remove_least_recent(self) -> int:
        """Removes the folder that has not been used for longest; returns its bytes."""
        others = [path for path in self._root.iterdir() if path.is_dir() and path != self.folder]
        old = []
        for path in others:
            with contextlib.suppress(FileNotFoundError):
                last_use = path.stat().st_mtime
                if time.time() - last_use > _SECONDS_IN_USE:
                    old.append((last_use, path))
        if not old:
            return 0
        _, oldest = min(old)
        size = _size_of(oldest)
        log.info("Targets: removing %s, not used for longest", oldest)
        shutil.rmtree(oldest, ignore_errors=True)
        return size


@dataclass
class CachedTargets:
    """Targets out of a store, out of memory, or from the teacher.

    Validation targets stay in memory. Those of training are read ahead, while the step before
    runs. Where not all of them fit, those that came first stay, and the others are computed each
    time: a fit asks for all of them, in one order, so what was used last is needed last.

    Args:
        compute: Asks the teacher.
        store: Where targets are kept on disk; None: nowhere.
        memory_limit: Bytes of training targets that are kept in memory; none unless told, as a
            fit sees each training batch once, and only another fit sees it again.
        keep_valid: Whether validation targets are kept in memory, as every validation wants them.
        only_if_faster: Before the first training target is read from the store, measure whether
            the teacher would be faster; if so, do without the store.
        dtype: What training targets are rounded to, whether they are kept or not: all fits see the
            same ones. In bfloat16 twice as many are kept. None: they stay as the teacher made
            them; those of validation always do.
        step: From one training batch of this rank to its next, in `BatchIndex.number`: the number
            of ranks.

    Attributes:
        computed: How often the teacher was asked for a target.
        recent: The last training targets that are kept nowhere else, for fits side by side.
        recent_batches: The last training batches, or the first, for the same fits.
        fits: How many fits have shared them side by side.

    Example:
        >>> import torch
        >>> from slicewise.data.batch import BatchIndex, Split
        >>> from slicewise.data.noise import NoiseDataModule
        >>> from slicewise.targets import CachedTargets
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=48)
        >>> targets = CachedTargets(lambda batch: teacher(*batch[:2]))
        >>> data = NoiseDataModule(hidden_size=24, batch_size=2, seq_length=5)
        >>> batch = data.make_batch(BatchIndex(Split.VALID, 0), torch.device("cpu"))
        >>> for _ in range(3):
        ...     target_BTH = targets(batch)
        >>> target_BTH.shape, targets.computed
        (torch.Size([2, 5, 24]), 1)
    """

    compute: Callable[[Batch], Tensor]
    store: TargetStore | None = None
    memory_limit: int = 0
    keep_valid: bool = True
    only_if_faster: bool = False
    dtype: torch.dtype | None = None
    step: int = 1
    computed: int = 0
    recent: Recent[Tensor] = field(default_factory=Recent)
    recent_batches: Recent[Batch] = field(default_factory=Recent)
    fits: int = 0
    _without_batches: bool = False
    _memory: dict[BatchIndex, Tensor] = field(default_factory=dict)
    _made: dict[BatchIndex, Made] = field(default_factory=dict)
    _kept: int = 0
    _ahead: dict[BatchIndex, Future[Tensor | None]] = field(default_factory=dict)
    _reader: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="targets")
    )

    def __call__(self, batch: Batch) -> Tensor:
        """The teacher's output for a batch, (B, T, H), on the batch's device."""
        target = self.find(batch)
        if target is None:
            target = self.rounded(self.compute(batch), batch)
            self.keep(batch, target)
        return target if self.dtype is None else target.float()

    def share_recent(self, most: int) -> None:
        """Has fits that go on side by side share what each of them needs within so many steps."""
        self.recent.most = self.recent_batches.most = most

    def keep_batches(self) -> None:
        """Keeps the first training batches of fits side by side, in as much memory again."""
        if not self._without_batches:
            self.recent_batches.limit = self.memory_limit

    def give_up_batches(self) -> None:
        """Keeps none from here on. On a GPU nobody may be reading one."""
        self._without_batches = True
        self.recent_batches.give_up()

    def rounded(self, target: Tensor, batch: Batch | None = None) -> Tensor:
        """What the teacher has made, as fits learn it; of a training batch unless given."""
        origin = None if batch is None else batch.origin
        learned = origin is None or origin.split is Split.TRAIN
        return target if self.dtype is None or not learned else target.to(self.dtype)

    def find(self, batch: Batch) -> Tensor | None:
        """The teacher's output, where it is known already, on the batch's device; of `dtype`."""
        index = batch.origin
        if index is None:
            return None
        target = self._memory.get(index)
        if target is not None and (made := self._made.get(index)) is not None:
            made.wait()
            if made.is_there():
                # It is there for whoever comes, and stays longer than anybody reads it.
                del self._made[index]
        if target is None:
            target = self.recent.find(index)
        if target is None:
            if self.only_if_faster and index.split is Split.TRAIN:
                self._choose(batch, index)
            target = self._from_store(index)
            if target is None:
                return None
            target = target.to(batch.hidden_states.device, non_blocking=True)
            self._remember(index, target)
        return target.to(batch.hidden_states.device, non_blocking=True)

    def keep(self, batch: Batch, target: Tensor) -> None:
        """Takes in what the teacher made of a batch, `rounded`, for whoever needs it next."""
        index = batch.origin
        if index is None:
            return
        self.computed += 1
        if self.store is not None:
            self._reader.submit(self.store.write, index, target.detach().cpu())
        self._remember(index, target)

    def _choose(self, batch: Batch, index: BatchIndex) -> None:
        """Measures the teacher against the store, once, and keeps to the faster."""
        self.only_if_faster = False
        assert self.store is not None
        with waiting_for("Measuring whether the teacher is faster than the disk"):
            self._choose_faster(batch, index)

    def _choose_faster(self, batch: Batch, index: BatchIndex) -> None:
        assert self.store is not None
        # To warm up; a GPU's graph is recorded in the fourth call.
        for _ in range(4 if batch.hidden_states.is_cuda else 1):
            self._timed(lambda: self.compute(batch), batch)
        target, asking = self._timed(lambda: self.compute(batch), batch)
        if not self.store.write(index, self.rounded(target).cpu()):
            self.store = None
            return
        store = self.store
        _, reading = self._timed(lambda: store.read(index).to(target.device), batch)  # type: ignore[union-attr]
        faster = reading < asking
        log.info(
            "Targets: %.1f ms a batch to read, %.1f ms to compute: %s",
            1000 * reading,
            1000 * asking,
            f"kept in {store.folder}" if faster else "not kept",
        )
        if not faster:
            self.store = None

    @staticmethod
    def _timed(work: Callable[[], Tensor], batch: Batch) -> tuple[Tensor, float]:
        started = time.perf_counter()
        result = work()
        if batch.hidden_states.is_cuda:
            torch.cuda.synchronize()
        return result, time.perf_counter() - started

    def _from_store(self, index: BatchIndex) -> Tensor | None:
        if self.store is None:
            return None
        coming = self._ahead.pop(index, None)
        target = self.store.read(index) if coming is None else coming.result()
        # Of each fit that is at a place of its own, the last.
        while len(self._ahead) > self.recent.most:
            del self._ahead[next(iter(self._ahead))]
        if index.split is Split.TRAIN and target is not None:
            following = index._replace(number=index.number + self.step)
            self._ahead[following] = self._reader.submit(self.store.read, following)
        return target

    def _remember(self, index: BatchIndex, target: Tensor) -> None:
        size = target.numel() * target.element_size()
        learned = index.split is Split.TRAIN
        if learned and self._kept + size > self.memory_limit:
            if self.recent.most > 0:
                # A graph writes its next result over it.
                target = target.clone() if target.is_cuda else target
                self.recent.keep(index, target, target)
            return
        if learned:
            self._kept += size
        elif not self.keep_valid:
            return
        kept = self._memory[index] = target.clone()
        if (made := Made.now(kept)) is not None:
            self._made[index] = made


def _save(target: Tensor, path: Path) -> None:
    """Writes a safetensors file of one tensor, with the checksum of its values in the metadata."""
    target = target.contiguous()
    save_file({_NAME: target}, path, metadata={_CHECKSUM: _checksum(target)})


def _load(path: Path) -> Tensor:
    """The tensor that `_save` wrote, mapped into memory.

    Raises:
        FileNotFoundError: There is none.
        OSError, SafetensorError, ValueError: It is not what was written.
    """
    with safe_open(path, "pt") as file:
        target: Tensor = file.get_tensor(_NAME)
        metadata = file.metadata() or {}
    if metadata.get(_CHECKSUM) != _checksum(target):
        raise ValueError("its checksum is wrong")
    return target


def _checksum(target: Tensor) -> str:
    """Of the values, and of what says how to read them."""
    values = target.flatten().view(torch.uint8).numpy().data
    return str(zlib.crc32(values, zlib.crc32(f"{target.dtype} {tuple(target.shape)}".encode())))


def _size_of(folder: Path) -> int:
    """Bytes of all files in a folder and below; others may remove some meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total
