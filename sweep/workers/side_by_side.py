"""Several trials of a worker side by side: `hydra.sweeper.side_by_side`.

Each is the fit that it would be alone, on a stack of its own; they take turns of a step, or of as
many as a GPU is handed at once (`sweep.workers.turns`). So they ask the teacher once, make a batch
once, and fill a GPU most of which a small student leaves idle: there each launches its steps on a
stream of its own, and passes its turn on while they run. A trial that ends makes room for the next.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import Trial

from slicewise.errors import ArgumentError
from sweep.devices import started_by_torchrun, visible_gpus
from sweep.loading import load_libraries, wants_gpu
from sweep.ranks.placement import Placement
from sweep.study.shared import Rest
from sweep.trial.outcome import Crowded, Outcome
from sweep.workers.turns import Seat, Turns

log = logging.getLogger(__name__)

# Past it a GPU gains little (docs/performance.md), and the sampler knows less of what came before.
_ON_A_GPU = 8
# On a CPU, where the teacher is asked anew for each batch: once for all of them.
_WITH_THE_TEACHER_COMPUTED = 4
# Each has a CUDA stream of its own, and its teacher another; torch has 32 that are served alike.
_MOST = 10
# Between two questions to the study whether others have left a trial, while trials run.
_ASK_AGAIN_SECONDS = 5.0
# What is free must be so much more than what each of those that run has taken.
_MARGIN = 1.25
# Of a process as a whole: what is set for one trial is set for all of them.
_OF_THE_PROCESS = ("trainer", "steps")

_KEY = "hydra.sweeper.side_by_side"


def settled(
    side_by_side: Any, config: DictConfig, task_function: TaskFunction, workers: int = 1
) -> int:
    """How many trials a worker runs side by side at most.

    Args:
        side_by_side: A number, or `auto`.
        config: The sweep's.
        task_function: What runs a trial; its attribute `side_by_side` says that it can.
        workers: How many there are on this machine.

    Raises:
        ArgumentError: It is no such number, or trials have to run one at a time.
    """
    number = isinstance(side_by_side, int) and not isinstance(side_by_side, bool)
    if side_by_side != "auto" and not (number and 1 <= side_by_side <= _MOST):
        # A number in quotation marks is a text.
        given = json.dumps(side_by_side) if isinstance(side_by_side, str) else side_by_side
        raise ArgumentError(_KEY, given, f"auto, or an integer from 1 to {_MOST}")
    if side_by_side == 1:
        return 1
    reason = _why_one_at_a_time(config, task_function)
    if reason is None:
        if side_by_side == "auto":
            return _automatic(config, workers)
        return int(side_by_side)
    if side_by_side == "auto":
        return 1
    raise ArgumentError(_KEY, side_by_side, f"1, or auto: {reason}")


def _automatic(config: DictConfig, workers: int) -> int:
    if on_gpu(config):
        # Several processes on one GPU fill it by themselves.
        return _ON_A_GPU if workers <= len(visible_gpus()) else 1
    is_computed = OmegaConf.select(config, "data.cache") in ("off", False)
    return _WITH_THE_TEACHER_COMPUTED if is_computed else 1


def on_gpu(config: DictConfig) -> bool:
    """Whether trials of this configuration run on a GPU."""
    return wants_gpu(config.get("trainer") or {}) and bool(visible_gpus())


def _why_one_at_a_time(config: DictConfig, task_function: TaskFunction) -> str | None:
    """Why no trial can run beside another; None where it can."""
    if not getattr(task_function, "side_by_side", False):
        return "only fits of single slices share a process"
    if OmegaConf.select(config, "hydra.sweeper.max_retries") == 0:
        return "hydra.sweeper.max_retries=0 leaves each trial one attempt, which is made alone"
    return why_alone(config)


def why_alone(config: DictConfig) -> str | None:
    """Why no trial can run beside one of this configuration; None where one can.

    Raises:
        SlicewiseError: No trial can run with it at all.
    """

    def given(key: str) -> Any:
        with contextlib.suppress(OmegaConfBaseException):
            return OmegaConf.select(config, key)
        return None

    def kinds(group: str) -> Iterator[tuple[str, str]]:
        nodes = config.get(group)
        for name in map(str, nodes if isinstance(nodes, DictConfig) else ()):
            yield name, str(given(f"{group}.{name}._target_")).rpartition(".")[2]

    if started_by_torchrun() or Placement.of(config).world_size > 1:
        return "a fit on several devices has its processes for itself"
    seeds = given("objective.seeds")
    if (len(seeds) if OmegaConf.is_list(seeds) else seeds or 1) not in (0, 1):
        return f"objective.seeds={seeds} fits several students a trial"
    if "seconds" in (given("objective.metrics") or ()):
        return "objective.metrics=[seconds] counts what others take too"
    if given("trainer.max_time") is not None:
        return "trainer.max_time counts what others take too"
    if isinstance(interval := given("trainer.val_check_interval"), (str, DictConfig)):
        return f"trainer.val_check_interval={interval} goes by the clock"
    if given("trainer.profiler") not in (None, False, "simple"):
        return "trainer.profiler watches one fit of a process at a time"
    for name, kind in kinds("callbacks"):
        if kind == "Timer":
            return f"callbacks.{name} counts what others take too"
    for name, kind in kinds("logger"):
        if "Wandb" in kind:
            return f"logger={name} has one run a process"
    if given("hydra.job.chdir") or given("hydra.job.env_set"):
        return "hydra.job.chdir and hydra.job.env_set are set for a whole process"
    return None


@dataclass
class Claimed:
    """A trial that has been claimed, and what it needs of the process.

    Attributes:
        trial: Which.
        name: That it bears in the study.
        place: Among those side by side, from 0.
        asked: When, by `time.monotonic`.
        config: Its configuration; None where it has none that is possible.
        runs_alone: Whether nothing may run beside it: for what its configuration asks of the
            process, since it is given up if that dies once more, which should be nobody's fault, or
            since it ran out of memory beside others.
    """

    trial: Trial
    name: str
    place: int
    asked: float
    config: DictConfig | None
    runs_alone: bool

    @functools.cached_property
    def of_the_process(self) -> str | None:
        """What it sets for the whole process; None where it does nothing."""
        if self.config is None:
            return None
        try:
            nodes = [OmegaConf.select(self.config, key) for key in _OF_THE_PROCESS]
            plain = [OmegaConf.to_container(n, resolve=True) for n in nodes if n is not None]
        except OmegaConfBaseException:
            return None
        return json.dumps(plain, sort_keys=True, default=str)


@dataclass(eq=False)
class _Running:
    """A trial that runs.

    Attributes:
        claimed: Which.
        seat: Its place among the others.
        outcome: How it ended.
    """

    claimed: Claimed
    seat: Seat | None = None
    outcome: Outcome | None = None

    @property
    def has_ended(self) -> bool:
        return self.seat is not None and self.seat.ended


class SideBySide:
    """Runs trials of a worker side by side, as long as there are any.

    Args:
        most: How many at most.
        on_gpu: Whether they run on a GPU.
        claim: Claims a trial for a place that is free.
        run: Runs one to whatever end, from its place, and tells the study.
        put_back: Puts one back that has not ended.
        is_stopping: Whether no more are to be begun.
    """

    def __init__(
        self,
        most: int,
        on_gpu: bool,
        claim: Callable[[int], Claimed | Rest],
        run: Callable[[Claimed, Seat], Outcome],
        put_back: Callable[[Claimed], None],
        is_stopping: Callable[[], bool],
    ) -> None:
        self.ran = 0
        self._most = most
        self._streams = self._new_streams(most) if on_gpu else []
        self._on_gpu = bool(self._streams)
        self._claim = claim
        self._run = run
        self._put_back = put_back
        self._is_stopping = is_stopping
        self._turns = Turns()
        self._running: list[_Running] = []
        # Claimed, and waiting for those to end that it cannot run beside.
        self._held: Claimed | None = None
        # Bytes, when the first of those that run began.
        self._used_before = 0

    def work(self) -> Rest | None:
        """Claims and runs, until none is left that runs.

        Returns:
            Why no other was to be had; None where it was told to stop.
        """
        try:
            while True:
                rest = self._fill()
                if not self._running:
                    return rest
                self._turns.go_on(_ASK_AGAIN_SECONDS if rest is Rest.WAIT else None)
                self._take_ended()
        except (Exception, KeyboardInterrupt):
            # Of those that go on elsewhere none has done anything that would count against it.
            going_on = [] if self._held is None else [self._held]
            going_on += [running.claimed for running in self._running if not running.has_ended]
            self._turns.close()
            for claimed in going_on:
                # Where the study is away, they are those of a dead worker.
                with contextlib.suppress(Exception):
                    self._put_back(claimed)
            raise
        except BaseException:
            self._turns.close()
            raise

    def _fill(self) -> Rest | None:
        """Begins as many as there is room for; returns why no other was to be had, if so."""
        while self._has_room():
            if self._is_stopping():
                if self._held is not None:
                    self._put_back(self._held)
                    self._held = None
                return None
            if self._held is None:
                claimed = self._claim(self._free_place())
                if isinstance(claimed, Rest):
                    return claimed
                self._held = claimed
            if not self._fits(self._held):
                return None
            claimed, self._held = self._held, None
            self._begin(claimed)
        return None

    def _fits(self, claimed: Claimed) -> bool:
        """Whether it can run beside those that do."""
        if not self._running:
            return True
        others = {running.claimed.of_the_process for running in self._running}
        own = claimed.of_the_process
        return not claimed.runs_alone and (own is None or others <= {own, None})

    def _has_room(self) -> bool:
        if not self._running:
            return True
        if len(self._running) >= self._most:
            return False
        if any(running.claimed.runs_alone for running in self._running):
            return False
        if self._on_gpu and not self._is_enough_free():
            _give_back_memory()
        return self._is_enough_free()

    def _is_enough_free(self) -> bool:
        taken = _used_bytes(self._on_gpu) - self._used_before
        return _free_bytes(self._on_gpu) > _MARGIN * taken / len(self._running)

    def _begin(self, claimed: Claimed) -> None:
        """Starts a trial; it has taken its first steps afterwards."""
        if not self._running:
            self._used_before = _used_bytes(self._on_gpu)
        running = _Running(claimed)
        stream = self._streams[claimed.place] if self._streams else None

        def work(seat: Seat) -> None:
            with _current(stream):
                running.outcome = self._run(claimed, seat)

        self._running.append(running)
        self.ran += 1
        running.seat = self._turns.start(work)
        self._take_ended()

    def _take_ended(self) -> None:
        """Lets go of those that have ended.

        Raises:
            BaseException: One of them ended with that, and so does the worker.
        """
        together = len(self._running)
        for running in list(self._running):
            assert running.seat is not None
            if not running.seat.ended:
                continue
            if running.seat.error is not None:
                raise running.seat.error
            self._running.remove(running)
            outcome = running.outcome
            if outcome is not None and isinstance(outcome.error, Crowded):
                self._most = max(1, together // 2)
                most = self._most
                many = f"{most} trials side by side" if most > 1 else "one trial at a time"
                log.warning("Out of memory: %s from here on", many)
                if self._on_gpu:
                    _give_back_memory()

    def _new_streams(self, number: int) -> list[Any]:
        """One for each place; none where torch finds no GPU."""
        load_libraries(on_gpu=True)
        import torch

        from slicewise.cuda_graph import own_stream

        if not torch.cuda.is_available():
            return []
        # Before the first turn: whoever begins while CUDA has not has no stream to come back to.
        torch.cuda.init()  # type: ignore[no-untyped-call]
        return [own_stream(self) for _ in range(number)]

    def _free_place(self) -> int:
        taken = {running.claimed.place for running in self._running}
        return next(place for place in itertools.count() if place not in taken)


@contextlib.contextmanager
def _current(stream: Any) -> Iterator[None]:
    """Makes a stream the current one; None: leaves it as it is."""
    if stream is None:
        yield
        return
    import torch

    # What was prepared on the stream of all. Not the whole GPU: that would finish all that the
    # others have launched, and then have nothing to do.
    torch.cuda.default_stream().synchronize()
    with torch.cuda.stream(stream):
        yield
        stream.synchronize()


def _give_back_memory() -> None:
    """What torch keeps of trials that have ended, their graphs' above all, passes for used, and
    batches are made again if need be.

    To give it back waits for the whole GPU, so only where there seems to be no room.
    """
    import torch

    from sweep.trial.cache import give_up_batches

    give_up_batches()
    torch.cuda.empty_cache()


def _free_bytes(on_gpu: bool) -> int:
    """Memory that nobody uses: a GPU's, or this machine's."""
    if on_gpu:
        import torch

        free: int = torch.cuda.mem_get_info()[0]
        return free
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return 2**62


def _used_bytes(on_gpu: bool) -> int:
    """Memory that this process uses."""
    if on_gpu:
        import torch

        free, total = torch.cuda.mem_get_info()
        return int(total - free)
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    return 0
