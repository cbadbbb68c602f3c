"""Whether the trials of a study share the teacher's outputs, and where: `data.cache`."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch

from slicewise.data.batch import Batch
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.errors import ArgumentError
from slicewise.targets import CachedTargets, TargetStore, fingerprint
from slicewise.teacher import TeacherSlice
from slicewise.trust import name_of
from sweep.trial.provenance import package_versions
from sweep.trial.settings import CACHE_FOLDER, TrialSettings

log = logging.getLogger(__name__)

_GB = 10**9
# What the last fit has asked.
_in_use: list[CachedTargets] = []


def shared_targets(
    settings: TrialSettings,
    teacher: TeacherSlice,
    data: HiddenStatesDataModule,
    trainer: lightning.Trainer,
    directory: Path,
    in_study: bool,
) -> CachedTargets:
    """What gives a fit its targets; the same object for all trials that need the same ones.

    Args:
        settings: Of the trial.
        teacher: Its teacher.
        data: Its data, which has to name what it makes (`digest`) where anything is kept.
        trainer: Its trainer: the devices and the precision decide targets too.
        directory: The trial's; `multirun/.cache` is found from there.
        in_study: A single fit keeps nothing on disk unless told.

    Raises:
        ArgumentError: The data module does not name what it makes.
    """
    mode = settings.data.cache.mode
    content = _content(data, mode)
    if mode == "auto" and not in_study:
        mode = "valid"
    device = trainer.strategy.root_device.type
    dtype = rounded_to(device, str(trainer.precision))
    decisive = _decisive(settings, trainer)
    if dtype is not None:
        decisive["rounded"] = str(dtype)
    name = fingerprint(teacher, content=content, **decisive)
    root = directory.absolute().parent.parent / CACHE_FOLDER
    on_gpu = device == "cuda"
    capture = on_gpu and settings.steps.capture
    if on_gpu and mode == "auto":
        mode = "device"
    cache = settings.data.cache
    limit = cache.limit if mode == "device" else cache.limit_off_gpu
    targets = _targets(name, mode, limit, root, trainer.world_size, teacher, capture, dtype)
    if targets.store is not None:
        targets.store.touch()
    _in_use[:] = [targets]
    return targets


def give_up_batches() -> None:
    """Frees what the batches take that are kept in a GPU's memory; the teacher's outputs, which
    take longer to make, stay."""
    if any(targets.recent_batches.limit for targets in _in_use):
        # Whoever was handed one may be reading it.
        torch.cuda.synchronize()
        for targets in _in_use:
            targets.give_up_batches()


def rounded_to(device: str, precision: str) -> torch.dtype | None:
    """What training targets are rounded to; None: nothing.

    A GPU's memory is where they are kept, and holds twice as many in bfloat16. Where the fit
    computes in it anyway, the loss at the end stays the same to 1e-4 (docs/performance.md). All
    fits there learn the rounded ones, kept or not: what is kept decides no loss.

    Args:
        device: Its kind.
        precision: Lightning's name for it.

    Example:
        >>> rounded_to("cuda", "bf16-mixed"), rounded_to("cpu", "bf16-mixed")
        (torch.bfloat16, None)
    """
    return torch.bfloat16 if device == "cuda" and precision.startswith("bf16") else None


def _content(data: HiddenStatesDataModule, mode: str) -> dict[str, Any]:
    """What names the batches, whoever's data module makes them.

    Raises:
        ArgumentError: Nothing does, and the targets are to be kept.
    """
    kind = type(data)
    content = {"class": name_of(kind), "size": data.size, "seed": data.seed}
    # Not a digest that it inherits, which names the batches of another class.
    if "digest" in vars(kind):
        return {**content, "digest": data.digest()}
    if mode == "off":
        return content
    raise ArgumentError(
        "data.cache",
        mode,
        f"off, as {name_of(kind)} has no digest of its own",
        "For the teacher's outputs to be kept, write the method digest(self) -> str: it names "
        "whatever decides a batch besides sizes and seed\n"
        "Without: ++data.cache=off",
    )


def _decisive(settings: TrialSettings, trainer: lightning.Trainer) -> dict[str, Any]:
    """All that decides a target to the last bit besides the teacher's weights."""
    device = trainer.strategy.root_device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "data": settings.data.content(),
        "precision": str(trainer.precision),
        # A compiled teacher may round in another way.
        "compiled": settings.steps.compile,
        "device": kind,
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
    }


@functools.lru_cache(maxsize=1)
def _targets(
    name: str,
    mode: str,
    limit: int | None,
    root: Path,
    world_size: int,
    teacher: TeacherSlice,
    capture: bool,
    dtype: torch.dtype | None,
) -> CachedTargets:
    """Kept from trial to trial, for those that share a fingerprint."""

    def compute(batch: Batch) -> torch.Tensor:
        if capture:
            return teacher.captured(batch.hidden_states, batch.attention_mask)[0].clone()
        target_BTH: torch.Tensor = teacher(batch.hidden_states, batch.attention_mask)
        return target_BTH

    if mode == "device":
        # A copy within a GPU's memory takes no time beside the teacher; the fits need the rest.
        share = torch.cuda.mem_get_info()[0] // 4
        limit = share if limit is None else min(limit, share)
        log.info("Targets: kept on the GPU, up to %.1f GB", limit / _GB)
    assert limit is not None

    return CachedTargets(
        compute,
        store=TargetStore(root, name, limit) if mode in ("auto", "disk") else None,
        memory_limit=limit if mode in ("memory", "device") else 0,
        keep_valid=mode != "off",
        only_if_faster=mode == "auto",
        dtype=dtype,
        step=world_size,
    )
