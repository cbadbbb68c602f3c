"""Ranks that were started from outside: torchrun ... -m sweep trainer=ddp trainer.devices=K.

Rank 0 is the program: it composes the configuration, asks the study, writes the record. The others
wait for what it wants fitted. Whoever started the ranks ends all of them when one dies, and starts
them again; here that is only reported.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import itertools
import logging
import os
import pickle
import threading
import warnings
from datetime import timedelta
from typing import Any

from omegaconf import DictConfig
from torch import distributed
from torch._C._distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from slicewise.errors import ArgumentError
from sweep.ranks.placement import Placement
from sweep.ranks.rank import RankTrial, backend_of, run_share
from sweep.ranks.verdict import verdict
from sweep.resolvers import register_resolvers
from sweep.trial import lockstep
from sweep.trial.active import ActiveTrial
from sweep.trial.outcome import Outcome, RankDied
from sweep.trial.run import Share
from sweep.trial.task import Task

# Between two trials the others wait for rank 0, which may have to wait for other workers.
_IDLE = timedelta(days=30)
_CONFIG = "config"
_numbers = itertools.count()


def fit(task: Task, active: ActiveTrial) -> Share:
    """Fits one student on all ranks; called by rank 0; see `sweep.trial.fit`.

    Raises:
        ArgumentError: The ranks are not those that the trainer asks for.
    """
    placement = Placement.of(task.config)
    _check_world_size(placement)
    _join(task.config)
    name = f"trial/{next(_numbers)}"
    store, _, world_size = _meeting()
    store.set(name, _dumped(task))
    shares = {0: run_share(task, active)}
    others = {rank: f"{name}/{rank}" for rank in range(1, world_size)}
    with contextlib.suppress(distributed.DistStoreError):
        store.wait(list(others.values()), timedelta(seconds=placement.timeout))
    for rank, key in others.items():
        if store.check([key]):
            shares[rank] = _loaded(store.get(key))
    try:
        decided = verdict(shares, world_size)
        if decided.outcome.end.is_of_one_rank and len(shares) < world_size:
            raise RankDied(decided.outcome.reason)
    except RankDied as death:
        return Share(Outcome.of(death), shares[0].record)
    return decided


def follow() -> None:
    """Takes part in what rank 0 fits, until it ends; called by all other ranks."""
    logging.basicConfig(level=logging.WARNING, format=f"[rank {os.environ['RANK']}] %(message)s")
    warnings.filterwarnings("ignore")
    register_resolvers()
    store, rank, _ = _meeting()
    _join(_loaded(store.get(_CONFIG)))
    for number in _numbers:
        name = f"trial/{number}"
        store.wait([name], _IDLE)
        task = _loaded(store.get(name))
        if task is None:
            return
        active = RankTrial(task, threading.Event())
        store.set(f"{name}/{rank}", _dumped(run_share(task, active)))


def _join(config: DictConfig) -> None:
    """Meets the other ranks, where torchrun says."""
    if distributed.is_initialized():
        return
    store, rank, world_size = _meeting()
    if rank == 0:
        store.set(_CONFIG, _dumped(config))
        atexit.register(_dismiss)
    placement = Placement.of(config)
    lockstep.set_timeout(placement.timeout)
    distributed.init_process_group(
        backend_of(placement.accelerator),
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=placement.timeout),
    )


def _dismiss() -> None:
    """Tells the other ranks that there is no more to do."""
    with contextlib.suppress(RuntimeError):
        _meeting()[0].set(f"trial/{next(_numbers)}", _dumped(None))


@functools.cache
def _meeting() -> tuple[Store, int, int]:
    """The store that all ranks share, this rank, and how many there are."""
    store, rank, world_size = next(rendezvous("env://", timeout=_IDLE))
    return store, rank, world_size


def _dumped(value: Any) -> str:
    """A store keeps bytes, but takes text only."""
    return base64.b64encode(pickle.dumps(value)).decode()


def _loaded(text: bytes) -> Any:
    return pickle.loads(base64.b64decode(text))


def _check_world_size(placement: Placement) -> None:
    started = int(os.environ["WORLD_SIZE"])
    if started != placement.world_size:
        raise ArgumentError(
            "trainer.devices",
            f"{placement.devices} (on trainer.num_nodes={placement.num_nodes})",
            f"what torchrun has started: {started} ranks in all",
            f"torchrun --nnodes={placement.num_nodes} --nproc-per-node={placement.devices} "
            "-m sweep ...",
        )
