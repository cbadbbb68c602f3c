"""What a fit does for those that run beside it in one process, by turns."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.distiller import Distiller
from slicewise.steps import ManualDistiller
from slicewise.targets import CachedTargets
from sweep.trial.active import ActiveTrial, Place
from sweep.trial.settings import TrialSettings

_disk = ThreadPoolExecutor(1, thread_name_prefix="disk")


def share(
    place: Place,
    settings: TrialSettings,
    distiller: Distiller,
    targets: CachedTargets,
    data: HiddenStatesDataModule,
) -> None:
    """Lets the fits that run beside this one go on whenever it can wait, and shares with them what
    both need."""
    distiller.pause = place.pass_turn
    targets.fits += 1
    if _keep_step(settings) or not targets.memory_limit:
        at_once = data.at_once or 1
        # Those of the round before last are needed by nobody.
        targets.share_recent(max(2 * at_once, place.others + 1))
    elif targets.fits > 1:
        # Each is at a place of its own: the last batches would be gone when another comes to them.
        targets.keep_batches()
    # Lightning hands a batch to a student as it is, which may write to it while another reads.
    if not _on_gpu() or isinstance(distiller, ManualDistiller):
        data.recent = targets.recent_batches


def way_for_others(active: ActiveTrial, settings: TrialSettings) -> Callable[[], None]:
    """What lets those beside this one go on, while it is prepared or concluded: with what they
    launch in a turn a GPU has something to do meanwhile."""
    if active.place is None or _keep_step(settings):
        return lambda: None
    return active.place.make_way


def _keep_step(settings: TrialSettings) -> bool:
    """Whether trials side by side are all at the same steps: on a CPU, and where no target is kept,
    for the teacher to be asked once."""
    return not _on_gpu() or settings.data.cache.mode == "off"


def _on_gpu() -> bool:
    is_used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return is_used


def write(work: Callable[[], object], active: ActiveTrial) -> None:
    """Writes to the disk what lies in the CPU's memory; those beside this one do not wait for it.

    Raises:
        Exception: Whatever the work raises.
    """
    if active.place is None or not active.has_company():
        work()
        return
    written = _disk.submit(work)
    try:
        while active.has_company() and not written.done():
            active.place.pass_turn()
    finally:
        # Whatever ends this one: nothing is written when another worker may have it.
        wait([written])
    written.result()
