"""The ranks that fit one student together, started once and kept warm from trial to trial.

Lightning would start them by running the command line again, which is the whole sweep
(lightning #2727 and #11300, hydra #2070). Here the process that asks the study for trials starts
the ranks itself. It trains nothing: it hands out trials, answers rank 0's questions to the study,
writes the record, and ends all ranks as soon as one of them fails the others.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections.abc import Iterator
from multiprocessing.connection import wait
from typing import Any

from sweep.child import ChildProcess
from sweep.devices import cpu_count
from sweep.ranks.messages import Answer, Place, Question, Stop
from sweep.ranks.placement import Placement
from sweep.ranks.rank import run_rank
from sweep.ranks.verdict import in_step, verdict
from sweep.trial.active import ActiveTrial
from sweep.trial.outcome import End, Outcome, RankDied
from sweep.trial.record import TrialRecord
from sweep.trial.run import Share
from sweep.trial.task import Task

log = logging.getLogger(__name__)

# How soon a Ctrl-C reaches the ranks.
_POLL_SECONDS = 0.2
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
        self._ranks: list[ChildProcess] = []

    def run(self, task: Task, active: ActiveTrial) -> Share:
        """Has all ranks run a task, and waits for them.

        Raises:
            RankDied: A rank is gone, or the ranks lost each other. All have been ended.
        """
        shares: dict[int, Share] = {}
        try:
            self.start()
            for rank in self._ranks:
                rank.send(task)
            self._collect(shares, active)
            decided = verdict(shares, self.world_size)
        except BaseException:
            self.end()
            raise
        whole = len(shares) == self.world_size and in_step(shares.values())
        if not whole or decided.outcome.end.is_of_one_rank:
            # Whoever crashed may be able to do no more on its GPU.
            self.end()
        return decided

    def start(self) -> None:
        """Starts the ranks, where they do not run yet, and has them meet.

        Raises:
            RankDied: A rank is gone, or has not started in time.
        """
        if self._ranks:
            return
        log.info("Starting %d ranks", self.world_size)
        for number in range(self.world_size):
            place = Place(
                number, self.world_size, self.placement.accelerator, self.placement.timeout
            )
            self._ranks.append(ChildProcess(run_rank, (place,), _environment(place)))
        deadline = time.monotonic() + _SECONDS_TO_START
        missing = set(range(self.world_size))
        while missing:
            if time.monotonic() > deadline:
                raise RankDied(f"rank {min(missing)} did not start")
            for number, meeting in self._receive():
                missing.discard(number)
                if number == 0:
                    for rank in self._ranks[1:]:
                        rank.send(meeting)

    def end(self) -> None:
        """Ends all ranks, whatever they do, with all that they have started."""
        for rank in self._ranks:
            rank.kill()
        for rank in self._ranks:
            rank.wait()
        self._ranks = []

    def leave(self) -> None:
        """Lets the ranks go, which have nothing to do."""
        for rank in self._ranks:
            rank.close()
        deadline = time.monotonic() + _SECONDS_TO_LEAVE
        for rank in self._ranks:
            rank.wait(max(0.0, deadline - time.monotonic()))
        self.end()

    def _collect(self, shares: dict[int, Share], active: ActiveTrial) -> None:
        """Waits for the shares of all ranks, as long as that has a point."""
        deadline = float("inf")
        told = False
        while len(shares) < self.world_size and time.monotonic() < deadline:
            try:
                for number, message in self._receive():
                    if isinstance(message, Question):
                        asked = time.monotonic()
                        answer = getattr(active, message.method)(*message.arguments)
                        # A storage that is away costs waiting, and no rank its share.
                        deadline += time.monotonic() - asked
                        self._ranks[number].send(Answer(answer))
                    elif isinstance(message, Share):
                        shares[number] = message
                        end = message.outcome.end
                        failed = end is End.LOST or end.is_of_one_rank
                        seconds = _SECONDS_TO_FAIL_TOO if failed else self.placement.timeout
                        deadline = min(deadline, time.monotonic() + seconds)
            except RankDied:
                if any(share.outcome.end.is_of_one_rank for share in shares.values()):
                    # It died of what another has told us.
                    return
                raise
            if active.stop.is_set() and not told:
                self._ranks[0].send(Stop())
                told = True

    def _receive(self) -> Iterator[tuple[int, Any]]:
        """What the ranks send, each with its number; waits a moment for the first message.

        Log records go to the log.

        Raises:
            RankDied: A rank has ended; whatever had been sent by then has been received.
        """
        wait([handle for rank in self._ranks for handle in rank.handles()], _POLL_SECONDS)
        received = [rank.receive() for rank in self._ranks]
        for number, (messages, _) in enumerate(received):
            for message in messages:
                if isinstance(message, logging.LogRecord):
                    logging.getLogger(message.name).handle(message)
                else:
                    yield number, message
        for number, (_, ended) in enumerate(received):
            if ended:
                # Data workers that it has left behind would keep memory, and its GPU.
                self._ranks[number].kill()
                self._ranks[number].wait()
                raise RankDied(f"rank {number} died ({self._ranks[number].death()})")


def _environment(place: Place) -> dict[str, str]:
    """What torchrun sets for a rank, which Lightning recognises."""
    shared = str(max(1, cpu_count() // place.world_size))
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", shared),
        "RANK": str(place.rank),
        "LOCAL_RANK": str(place.rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_WORLD_SIZE": str(place.world_size),
        "TORCHELASTIC_RUN_ID": "slicewise",
        "MASTER_ADDR": "127.0.0.1",
        # For Lightning to see; the ranks meet where rank 0 says.
        "MASTER_PORT": "0",
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
