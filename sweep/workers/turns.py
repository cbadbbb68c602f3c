"""Several threads of one process, of which one runs: they pass their turn on where it suits them.

A thread that has not got the turn waits, and changes nothing; what a process has one of is swapped
with the turn (`sweep.workers.process_state`). So whatever runs in such a thread runs as it would
alone. Two of them share the processor by turns, but what one has launched on a GPU, or in a thread
of its own, goes on while the other has its turn.
"""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from collections.abc import Callable

from sweep.workers.process_state import ProcessState

# How long a thread that runs may take to come to the end of its turn, once all are to end.
_LEAVING_SECONDS = 5.0


class Dismissed(BaseException):
    """This thread is to end, and to leave everything as it is; nothing catches it."""


class Seat:
    """A thread's place among those that take turns.

    Args:
        turns: Those who take turns.
        work: What the thread does.

    Attributes:
        ended: Whether its work is done.
        error: What it ended with that was not meant for it.
    """

    def __init__(self, turns: Turns, work: Callable[[Seat], None] | None) -> None:
        self.ended = False
        self.error: BaseException | None = None
        self._turns = turns
        self._work = work
        self._go = threading.Semaphore(0)
        self._state: ProcessState | None = None
        self._begun = False

    @property
    def others(self) -> int:
        """How many take turns besides."""
        return self._turns.count - 1

    def pass_turn(self) -> None:
        """Lets the others go on; returns when it is this one's turn again.

        Raises:
            Dismissed: It never will be.
        """
        self._turns._pass_on(self)

    def _wait(self, seconds: float | None = None) -> bool:
        return self._go.acquire(timeout=seconds)


class Turns:
    """Who of several threads runs: the one that made this, or one of those that it has started.

    They go on one after the other, in the order in which they came. The first turn of each comes
    back here, as does the last.
    """

    def __init__(self) -> None:
        self._main = Seat(self, None)
        self._holder = self._main
        self._waiting: deque[Seat] = deque()
        self._wanted = False
        self._closing = False
        self.count = 0

    def start(self, work: Callable[[Seat], None]) -> Seat:
        """Starts a thread; returns when it has passed its first turn on, or ended."""
        seat = Seat(self, work)
        seat._state = ProcessState.now().for_another()
        self.count += 1
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(self._run, seat), name="side by side", daemon=True
        ).start()
        self._hand_over(seat, None)
        return seat

    def go_on(self, seconds: float | None = None) -> None:
        """Lets the others run until one of them ends, or for about so many seconds."""
        if self._waiting:
            self._hand_over(self._waiting.popleft(), seconds)

    def close(self) -> None:
        """Ends all of them, each where it would pass its turn on.

        After an error, or Ctrl-C, that may have come while another had the turn: it gets some
        seconds for it.
        """
        self._closing = True
        if self._holder is not self._main and not self._main._wait(_LEAVING_SECONDS):
            return
        while self._waiting:
            seat = self._waiting.popleft()
            self._holder = seat
            seat._go.release()
            if not self._main._wait(_LEAVING_SECONDS):
                return
        if self._main._state is not None:
            self._main._state.restore()

    def _hand_over(self, seat: Seat, seconds: float | None) -> None:
        main = self._main
        main._state = ProcessState.now()
        self._wanted = False
        self._holder = seat
        seat._go.release()
        if not main._wait(seconds):
            # At the end of the turn that is under way.
            self._wanted = True
            main._wait()
        main._state.restore()

    def _pass_on(self, seat: Seat) -> None:
        """Ends a seat's turn; returns with its next one."""
        if self._closing:
            raise Dismissed
        to_main = self._wanted or not seat._begun
        seat._begun = True
        if not (to_main or self._waiting):
            return
        self._waiting.append(seat)
        following = self._main if to_main else self._waiting.popleft()
        seat._state = ProcessState.now()
        self._holder = following
        following._go.release()
        seat._wait()
        seat._state.restore()
        if self._closing:
            raise Dismissed

    def _run(self, seat: Seat) -> None:
        """The whole of a thread."""
        seat._wait()
        assert seat._state is not None
        assert seat._work is not None
        seat._state.restore()
        try:
            seat._work(seat)
        except Dismissed:
            pass
        except BaseException as error:
            seat.error = error
        seat.ended = True
        self.count -= 1
        self._holder = self._main
        self._main._go.release()
