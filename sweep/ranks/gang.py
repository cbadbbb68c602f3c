"""The ranks that fit one student together, started once and kept warm from trial to trial.

Lightning would start them by running the command line again, which is the whole sweep
(lightning #2727 and #11300, hydra #2070). Here the process that asks the study for trials starts
the ranks itself. It trains nothing: it hands out trials, answers rank 0's questions to the study,
writes the record, and ends all ranks as soon as one of them fails the others.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

from sweep.devices import cpu_count
from sweep.ranks.messages import Answer, Meeting, Place, Question, Stop
from sweep.ranks.placement import Placement
from sweep.ranks.verdict import in_step, verdict
from sweep.trial.active import ActiveTrial
from sweep.trial.outcome import End, Outcome, RankDied
from sweep.trial.record import TrialRecord
from sweep.trial.run import Share
from sweep.trial.task import Task

log = logging.getLogger(__name__)

# How soon a Ctrl-C reaches the ranks.
_LOOK_SECONDS = 0.2
# After one rank has failed, how long another may take to fail the same way.
_SECONDS_TO_FAIL_TOO = 5.0
# Importing torch and Lightning, all ranks at the same time on a busy machine.
_SECONDS_TO_START = 300.0
_SECONDS_TO_LEAVE = 5.0

_current: Gang | None = None


def fit(task: Task, active: ActiveTrial) -> Share:
    """Fits one student on several ranks of this machine; see `sweep.trial.fit`.

    Raises:
        ArgumentError: Where they shall run is not allowed.
    """
    placement = Placement.of(task.config)
    placement.check_num_nodes()
    try:
        return _gang_for(placement).run(task, active)
    except RankDied as death:
        return Share(Outcome.of(death), TrialRecord.begin(task, 0))


class Gang:
    """Rank processes on this machine, in step with each other.

    Args:
        placement: On what, how many, and how long one may wait for the others.
    """

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self.world_size = placement.world_size
        self._ranks: list[_RankProcess] = []

    def run(self, task: Task, active: ActiveTrial) -> Share:
        """Has all ranks run a task, and waits for them.

        Raises:
            RankDied: A rank is gone, or the ranks lost each other. All have been ended.
        """
        shares: dict[int, Share] = {}
        try:
            self.start()
            for rank in self._ranks:
                rank.say(task)
            self._collect(shares, active)
            decided = verdict(shares, self.world_size)
        except BaseException:
            self.end()
            raise
        if not (len(shares) == self.world_size and in_step(shares.values())):
            self.end()
        return decided

    def start(self) -> None:
        """Starts the ranks, where they do not run yet."""
        if self._ranks:
            return
        log.info("Starting %d ranks", self.world_size)
        for number in range(self.world_size):
            place = Place(
                number, self.world_size, self.placement.accelerator, self.placement.timeout
            )
            self._ranks.append(_RankProcess(place))
        deadline = time.monotonic() + _SECONDS_TO_START
        first, *others = self._ranks
        meeting = self._first_message(first, deadline)
        for rank in others:
            rank.say(meeting)
        for rank in others:
            self._first_message(rank, deadline)

    def end(self) -> None:
        """Ends all ranks, whatever they do."""
        for rank in self._ranks:
            rank.kill()
        self._ranks = []

    def leave(self) -> None:
        """Lets the ranks go, which have nothing to do."""
        for rank in self._ranks:
            rank.line.close()
        for rank in self._ranks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                rank.process.wait(_SECONDS_TO_LEAVE)
        self.end()

    def _collect(self, shares: dict[int, Share], active: ActiveTrial) -> None:
        """Waits for the shares of all ranks, as long as that has a point."""
        deadline = float("inf")
        told = False
        while len(shares) < self.world_size and time.monotonic() < deadline:
            for rank in self._speaking(_LOOK_SECONDS):
                try:
                    message = rank.hear()
                except RankDied:
                    if any(share.outcome.end is End.CRASHED for share in shares.values()):
                        # It died of what another has told us.
                        return
                    raise
                if isinstance(message, logging.LogRecord):
                    logging.getLogger(message.name).handle(message)
                elif isinstance(message, Question):
                    asked = time.monotonic()
                    answer = getattr(active, message.method)(*message.arguments)
                    # A storage that is away costs waiting, and no rank its share.
                    deadline += time.monotonic() - asked
                    rank.say(Answer(answer))
                elif isinstance(message, Share):
                    shares[rank.number] = message
                    failed = message.outcome.end in (End.CRASHED, End.LOST)
                    patience = _SECONDS_TO_FAIL_TOO if failed else self.placement.timeout
                    deadline = min(deadline, time.monotonic() + patience)
            if active.stop.is_set() and not told:
                self._ranks[0].say(Stop())
                told = True

    def _speaking(self, seconds: float) -> list[_RankProcess]:
        """The ranks that have something to say; waits so long for the first."""
        ready = wait([rank.line for rank in self._ranks], seconds)
        return [rank for rank in self._ranks if rank.line in ready]

    def _first_message(self, rank: _RankProcess, deadline: float) -> Meeting:
        while True:
            if not rank.line.poll(max(0.0, deadline - time.monotonic())):
                raise RankDied(f"rank {rank.number} did not start")
            message = rank.hear()
            if isinstance(message, Meeting):
                return message
            logging.getLogger(message.name).handle(message)


@dataclass
class _RankProcess:
    """One of the ranks, and the line to it."""

    place: Place

    def __post_init__(self) -> None:
        self.line, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sweep.ranks.rank", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=self._environment(),
                # The terminal's Ctrl-C is for us: a rank that died of it could not save.
                process_group=0,
            )
        self.say(self.place)

    @property
    def number(self) -> int:
        return self.place.rank

    def say(self, message: Any) -> None:
        """Raises RankDied where nobody listens."""
        try:
            self.line.send(message)
        except OSError:
            raise self._death() from None

    def hear(self) -> Any:
        """Raises RankDied where nobody speaks any more."""
        try:
            return self.line.recv()
        except (EOFError, OSError):
            raise self._death() from None

    def kill(self) -> None:
        self.line.close()
        self.process.kill()
        self.process.wait()

    def _death(self) -> RankDied:
        try:
            code = self.process.wait(_SECONDS_TO_LEAVE)
        except subprocess.TimeoutExpired:
            return RankDied(f"rank {self.number} hung up")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return RankDied(f"rank {self.number} died ({how})")

    def _environment(self) -> dict[str, str]:
        """As torchrun sets it, which Lightning recognises."""
        place = self.place
        shared = str(max(1, cpu_count() // place.world_size))
        return {
            "OMP_NUM_THREADS": shared,
            **os.environ,
            "RANK": str(place.rank),
            "LOCAL_RANK": str(place.rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(place.world_size),
            "LOCAL_WORLD_SIZE": str(place.world_size),
            "TORCHELASTIC_RUN_ID": "slicewise",
            "MASTER_ADDR": "127.0.0.1",
            # For Lightning to see; the ranks meet where rank 0 says.
            "MASTER_PORT": "0",
            # What this program would find on its path, a rank must find too.
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }


def _gang_for(placement: Placement) -> Gang:
    """The gang of this process: the one that ran the last trial, if it fits."""
    global _current
    if _current is None or _current.placement != placement:
        disband()
        _current = Gang(placement)
    return _current


@atexit.register
def disband() -> None:
    """Lets the ranks of this process go."""
    global _current
    if _current is not None:
        _current.leave()
    _current = None
