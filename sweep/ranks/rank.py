"""One rank of a gang: a process that fits students together with others.

Started by `sweep.ranks.gang`; under `torchrun` only `run_share` is of use.
It lives as long as the gang: what it loads or compiles for one trial, the next one finds.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from types import MappingProxyType
from typing import Any

from slicewise.waiting import LISTENERS
from sweep.child import let_interrupts_through
from sweep.loading import load_libraries
from sweep.ranks.messages import Answer, Meeting, Place, Question, Stop
from sweep.resolvers import register_resolvers
from sweep.trial.active import ActiveTrial, activated
from sweep.trial.outcome import End
from sweep.trial.run import Share
from sweep.trial.task import Task


class RankTrial(ActiveTrial):
    """The trial as a rank sees it; rank 0 asks through the gang, the others are told by rank 0.

    Args:
        task: What the rank runs.
        ask: Calls a method of the active trial where the study is.
    """

    def __init__(self, task: Task, stop: threading.Event, ask: Any = None) -> None:
        super().__init__(stop)
        self.in_study = task.params is not None
        self.number = task.number
        self.params = task.params or {}
        self._ask = ask

    def is_lost(self) -> bool:
        if not self.abandoned.is_set() and self._ask is not None and self._ask("is_lost"):
            self.abandoned.set()
        return self.abandoned.is_set()

    def report(
        self, value: float, step: int, known: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        self._ask("report", value, step, dict(known))

    def should_prune(self) -> bool:
        return bool(self._ask("should_prune"))


class _Pipe:
    """The pipe to the gang: one thread receives, all others may send."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self.stop = threading.Event()
        threading.Thread(target=self._receive, name="gang", daemon=True).start()

    def send(self, message: Any) -> None:
        with self._sending:
            self._connection.send(message)

    def next_task(self) -> Any:
        """Waits for what to do next."""
        return self._tasks.get()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the active trial where the study is."""
        self.send(Question(method, arguments))
        return self._answers.get().value

    def _receive(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                if isinstance(message, Stop):
                    self.stop.set()
                elif isinstance(message, Answer):
                    self._answers.put(message)
                else:
                    self._tasks.put(message)
        except (EOFError, OSError):
            # The gang has ended: no one waits for what this rank does, and it may wait for ever.
            os._exit(0)


class _ToGang(QueueHandler):
    """Log records go to the process that writes the trial's log."""

    def __init__(self, pipe: _Pipe, rank: int) -> None:
        super().__init__(pipe)  # type: ignore[arg-type]
        self._pipe = pipe
        self._rank = rank
        # The trial's log adds when and where.
        self.setFormatter(logging.Formatter("%(message)s"))

    def enqueue(self, record: logging.LogRecord) -> None:
        if self._rank > 0:
            record.msg = f"[rank {self._rank}] {record.msg}"
        self._pipe.send(record)


def run_rank(connection: Connection, place: Place) -> None:
    """Runs tasks until the gang closes its end of the pipe."""
    # The gang decides what a signal means.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    let_interrupts_through()
    pipe = _Pipe(connection)
    rank = place.rank
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING,
        handlers=[_ToGang(pipe, rank)],
        force=True,
    )
    logging.captureWarnings(rank > 0)
    if rank > 0:
        # It would say the same as rank 0.
        LISTENERS.clear()
    register_resolvers()
    _meet(pipe, place)
    while True:
        task = pipe.next_task()
        pipe.stop.clear()
        active = RankTrial(task, pipe.stop, pipe.ask if rank == 0 else None)
        pipe.send(run_share(task, active))


def run_share(task: Task, active: ActiveTrial) -> Share:
    """Runs this rank's share of a trial, to whatever end.

    Args:
        task: Which trial.
        active: The same in its study.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.utils import setup_globals
    from hydra.utils import get_method
    from omegaconf import OmegaConf

    load_libraries()
    fit = get_method(task.fit)

    setup_globals()
    HydraConfig.instance().set_config(OmegaConf.create({"hydra": task.hydra}))
    with activated(active):
        share: Share = fit(task, active)
    if share.outcome.end is End.CRASHED:
        # Its traceback does not travel.
        logging.getLogger(__name__).error("The fit failed", exc_info=share.outcome.error)
    return share


def _meet(pipe: _Pipe, place: Place) -> None:
    """Joins the other ranks, through a store that rank 0 keeps."""
    from torch import distributed
    from torch._C._distributed_c10d import TCPStore

    from sweep.trial import lockstep

    lockstep.set_timeout(place.timeout)
    if sys.platform == "linux":
        # Ranks of one machine need not be seen from outside.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    patience = timedelta(seconds=place.timeout)
    port = 0 if place.rank == 0 else pipe.next_task().port
    store = TCPStore(
        "127.0.0.1",
        port,
        place.world_size,
        is_master=place.rank == 0,
        timeout=patience,
        wait_for_workers=False,
    )
    pipe.send(Meeting(store.port))
    distributed.init_process_group(
        backend_of(place.accelerator),
        store=store,
        rank=place.rank,
        world_size=place.world_size,
        timeout=patience,
    )


def backend_of(accelerator: str) -> str:
    """What ranks talk through: NCCL on GPUs, gloo elsewhere."""
    import torch

    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "nccl" if on_gpu else "gloo"
