"""What rank 0 decides, on ranks that are processes of their own."""

from __future__ import annotations

import multiprocessing
import time
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from sweep.trial import lockstep
from tests.waiting import PATIENCE

TIMEOUT = 2.0


def _run(
    rank: int, both: Barrier, store: str, seconds: float, may_wait: bool, results: Any
) -> None:
    # One that loads torch longer than the other says nothing meanwhile.
    both.wait(PATIENCE)
    distributed.init_process_group(
        "gloo",
        store=distributed.FileStore(store, 2),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=TIMEOUT),
    )
    lockstep.set_timeout(TIMEOUT)

    def decide() -> int:
        assert rank == 0
        time.sleep(seconds)
        return 3

    def deny() -> bool:
        return False

    try:
        decision = lockstep.agreed(decide, may_wait)
        assert not lockstep.agreed(deny, may_wait)
        results.put((rank, decision))
    except RuntimeError:
        results.put((rank, "lost contact"))


def _decisions(folder: Path, seconds: float, may_wait: bool) -> dict[int, Any]:
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    both = spawn.Barrier(2)
    arguments = (both, str(folder / "store"), seconds, may_wait, results)
    processes = [spawn.Process(target=_run, args=(rank, *arguments)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=PATIENCE) for _ in processes)
    for process in processes:
        process.join(PATIENCE)
    return found


def test_one_process_decides_by_itself() -> None:
    assert lockstep.agreed(lambda: 7) == lockstep.agreed(lambda: 7, may_wait=True) == 7


@pytest.mark.parametrize("may_wait", [False, True])
def test_all_ranks_have_the_decision_of_the_first(tmp_path: Path, may_wait: bool) -> None:
    assert _decisions(tmp_path, 0.0, may_wait) == {0: 3, 1: 3}


def test_a_decision_that_waits_for_a_storage_costs_no_rank_its_share(tmp_path: Path) -> None:
    assert _decisions(tmp_path, 4 * TIMEOUT, may_wait=True) == {0: 3, 1: 3}


def test_a_rank_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    assert _decisions(tmp_path, 4 * TIMEOUT, may_wait=False)[1] == "lost contact"
