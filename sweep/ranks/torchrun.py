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
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import distributed
from torch._C._distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from slicewise.errors import ArgumentError
from sweep.ranks.messages import (
    End,
    Outcome,
    Task,
    devices_per_node,
    number_of_ranks,
    raise_or_return,
    rank_timeout,
    verdict,
)
from sweep.ranks.rank import RankTrial, backend_of, run_share
from sweep.resolvers import register_resolvers
from sweep.trial.active import RankDied, active_trial
from sweep.trial.record import recorded_result

# Between two trials the others wait for rank 0, which may have to wait for other workers.
_IDLE = timedelta(days=30)
_CONFIG = "config"
_numbers = itertools.count()


def run_trial(config: DictConfig) -> float | tuple[float, ...]:
    """Fits one student on all ranks, in Hydra's output directory; called by rank 0.

    Raises:
        RankDied: The ranks lost each other.
        Exception: As `sweep.trial.fit.run_trial`.
    """
    _check_world_size(config)
    directory = Path(HydraConfig.get().runtime.output_dir)
    active = active_trial()
    result = recorded_result(directory, active)
    if result is not None:
        return result
    _join(config)
    params = None if active is None else dict(active.params)
    task = Task(config, HydraConfig.get(), params, 0 if active is None else active.number)
    name = f"trial/{next(_numbers)}"
    store, _, world_size = _meeting()
    store.set(name, _dumped(task))
    own = run_share(task, active)
    others = {rank: f"{name}/{rank}" for rank in range(1, world_size)}
    with contextlib.suppress(distributed.DistStoreError):
        store.wait(list(others.values()), timedelta(seconds=rank_timeout(config)))
    outcomes: dict[int, Outcome] = {0: own}
    for rank, key in others.items():
        if store.check([key]):
            outcomes[rank] = _loaded(store.get(key))
    decided = verdict(outcomes, world_size)
    if decided.end is End.RAISED and len(outcomes) < world_size:
        raise RankDied(decided.reason)
    if decided.end is not End.STOPPED and not (active is not None and active.is_lost()):
        decided.record.conclude(directory)
    if active is not None:
        active.attributes |= decided.record.attributes()
    return raise_or_return(decided)


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
        active = None if task.params is None else RankTrial(task)
        store.set(f"{name}/{rank}", _dumped(run_share(task, active)))


def _join(config: DictConfig) -> None:
    """Meets the other ranks, where torchrun says."""
    if distributed.is_initialized():
        return
    store, rank, world_size = _meeting()
    if rank == 0:
        store.set(_CONFIG, _dumped(config))
        atexit.register(_dismiss)
    accelerator = str(OmegaConf.select(config, "trainer.accelerator", default="auto"))
    distributed.init_process_group(
        backend_of(accelerator),
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=rank_timeout(config)),
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


def _check_world_size(config: DictConfig) -> None:
    started, wanted = int(os.environ["WORLD_SIZE"]), number_of_ranks(config)
    if started != wanted:
        nodes = OmegaConf.select(config, "trainer.num_nodes", default=1)
        raise ArgumentError(
            "trainer.devices",
            f"{devices_per_node(config)} (on trainer.num_nodes={nodes})",
            f"what torchrun has started: {started} ranks in all",
            f"torchrun --nnodes={nodes} --nproc-per-node={devices_per_node(config)} -m sweep ...",
        )
