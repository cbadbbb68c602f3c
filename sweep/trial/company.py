"""What a fit does for those that run beside it in one process, by turns."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import torch

from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.distiller import Distiller
from slicewise.targets import CachedTargets
from sweep.trial.active import ActiveTrial, Place
from sweep.trial.settings import TrialSettings

_disk = ThreadPoolExecutor(1, thread_name_prefix="disk")


def share(
    place: Place, distiller: Distiller, targets: CachedTargets, data: HiddenStatesDataModule
) -> None:
    """Lets the fits that run beside this one go on whenever it can wait, and shares with those that
    are at the same step what both need there."""
    distiller.pause = place.pass_turn
    at_once = data.at_once or 1
    # Those of the round before last are needed by nobody.
    targets.share_recent(max(2 * at_once, place.others + 1))
    data.recent = targets.recent_batches


def way_for_others(active: ActiveTrial, settings: TrialSettings) -> Callable[[], None]:
    """What lets those beside this one go on, while it is prepared or concluded: with what they
    launch in a turn a GPU has something to do meanwhile.

    Where no target is kept, all must be at the same steps, for the teacher to be asked once.
    """
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if active.place is None or not on_gpu or settings.data.cache.mode == "off":
        return lambda: None
    return active.place.make_way


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
