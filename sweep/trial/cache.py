"""Whether the trials of a study share the teacher's outputs, and where: `data.cache`."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning import LightningDataModule

from slicewise.data.batch import Batch
from slicewise.targets import CachedTargets, TargetStore, fingerprint
from slicewise.teacher import TeacherSlice
from sweep.trial.provenance import package_versions
from sweep.trial.settings import DataSettings, TrialSettings

log = logging.getLogger(__name__)

CACHE_FOLDER = ".cache"
_GB = 10**9


def shared_targets(
    settings: TrialSettings,
    teacher: TeacherSlice,
    data: LightningDataModule,
    trainer: lightning.Trainer,
    directory: Path,
    in_study: bool,
) -> CachedTargets:
    """What gives a fit its targets; the same object for all trials that need the same ones.

    Args:
        settings: Of the trial.
        teacher: Its teacher.
        data: Its data; what it reads from files decides targets too (`digest`).
        trainer: Its trainer: the devices and the precision decide targets too.
        directory: The trial's; `multirun/.cache` is found from there.
        in_study: A single fit keeps nothing on disk unless told.
    """
    mode, limit = settings.data.cache.mode, settings.data.cache.limit
    if mode == "auto" and not in_study:
        mode = "valid"
    content = data.digest() if hasattr(data, "digest") else None
    name = fingerprint(teacher, content=content, **_decisive(settings.data, trainer))
    root = directory.absolute().parent.parent / CACHE_FOLDER
    on_gpu = trainer.strategy.root_device.type == "cuda"
    capture = on_gpu and settings.steps.capture
    if on_gpu and mode == "auto":
        mode = "device"
    targets = _targets(name, mode, limit, root, trainer.world_size, teacher, capture)
    if targets.store is not None:
        targets.store.touch()
    return targets


def _decisive(data: DataSettings, trainer: lightning.Trainer) -> dict[str, Any]:
    """All that decides a target to the last bit besides the teacher's weights."""
    device = trainer.strategy.root_device
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "data": data.content(),
        "precision": str(trainer.precision),
        "device": kind,
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
    }


@functools.lru_cache(maxsize=1)
def _targets(
    name: str,
    mode: str,
    limit: int,
    root: Path,
    world_size: int,
    teacher: TeacherSlice,
    capture: bool,
) -> CachedTargets:
    """Kept from trial to trial, for those that share a fingerprint."""

    def compute(batch: Batch) -> torch.Tensor:
        if capture:
            return teacher.captured(batch.hidden_states, batch.attention_mask)[0].clone()
        target_BTH: torch.Tensor = teacher(batch.hidden_states, batch.attention_mask)
        return target_BTH

    if mode == "device":
        # A copy within a GPU's memory takes no time beside the teacher; the fits need the rest.
        limit = min(limit, torch.cuda.mem_get_info()[0] // 4)
        log.info("Targets: kept on the GPU, up to %.1f GB", limit / _GB)

    return CachedTargets(
        compute,
        store=TargetStore(root, name, limit) if mode in ("auto", "disk") else None,
        memory_limit=limit if mode in ("memory", "device") else 0,
        keep_valid=mode != "off",
        only_if_faster=mode == "auto",
        step=world_size,
    )
