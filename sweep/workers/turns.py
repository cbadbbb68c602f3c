"""Several pieces of work in one thread, of which one goes on: they pass on their turn.

Each has a stack of its own, which waits where it passed its turn on (a greenlet). What a process,
or its thread, has one of is swapped with the turn (`sweep.workers.process_state`), so whatever runs
so runs as it would alone. Two of them share the processor by turns, but what one has launched on a
GPU, or in a thread of its own, goes on while the other has its turn.

Threads would do worse: OpenMP keeps a team for each that multiplies matrices, and where the teams
have more members than there are processors, it has them sleep between any two products; memory is
kept for each as well.
"""

from __future__ import annotations

import contextvars
import math
import time
from collections import deque
from collections.abc import Callable

from greenlet import getcurrent, greenlet

from sweep.workers.process_state import put_aside


class Dismissed(BaseException):
    """This work is to end, and to leave everything as it is; nothing catches it."""


class Seat:
    """The place of one among those that take turns.

    Args:
        turns: Those who take turns.
        work: What it does.

    Attributes:
        ended: Whether its work is done.
        error: What it ended with that was not meant for it.
    """

    def __init__(self, turns: Turns, work: Callable[[Seat], None]) -> None:
        self.ended = False
        self.error: BaseException | None = None
        self._turns = turns
        self._work = work
        self._begun = False
        # Whoever is the current one now has the turn back when the work is done.
        self._stack = greenlet(self._run)
        self._stack.gr_context = contextvars.copy_context()

    @property
    def others(self) -> int:
        """How many take turns besides."""
        return self._turns.count - 1

    def pass_turn(self) -> None:
        """Lets the others go on; returns when it is this one's turn again.

        Raises:
            Dismissed: It never will be.
        """
        begun, self._begun = self._begun, True
        self._turns._pass_on(self, is_first=not begun)

    def make_way(self) -> None:
        """As `pass_turn`, in the middle of a preparation: for the one that made the turns, this one
        has not begun yet.

        Raises:
            Dismissed: It never will be its turn again.
        """
        self._turns._pass_on(self, is_first=False)

    @property
    def _is_there(self) -> bool:
        """Whether it has passed its first turn on, or ended."""
        return self._begun or self.ended

    def _run(self) -> None:
        """The whole of its work."""
        try:
            self._work(self)
        except Dismissed:
            pass
        except BaseException as error:
            self.error = error
        self.ended = True
        self._turns.count -= 1


class Turns:
    """Who of several runs: the one that made this, or one of those that it has started.

    They go on one after the other, in the order in which they came. The first turn of each comes
    back here, as does the last.

    Example:
        >>> turns, said = Turns(), []
        >>> def work(seat):
        ...     for number in range(2):
        ...         said.append(number)
        ...         seat.pass_turn()
        >>> seats = [turns.start(work), turns.start(work)]
        >>> while not all(seat.ended for seat in seats):
        ...     turns.go_on()
        >>> said
        [0, 0, 1, 1]
    """

    def __init__(self) -> None:
        self._main = getcurrent()
        self._waiting: deque[Seat] = deque()
        # When the one that made this wants its turn, by `time.monotonic`.
        self._wanted = math.inf
        self.count = 0

    def start(self, work: Callable[[Seat], None]) -> Seat:
        """Starts one; returns when it has passed its first turn on, or ended."""
        seat = Seat(self, work)
        self.count += 1
        self._wanted = math.inf
        with put_aside() as state:
            state.for_another().restore()
            seat._stack.switch()
        while not seat._is_there:
            # One of those that it has made way for has ended.
            self.go_on()
        return seat

    def go_on(self, seconds: float | None = None) -> None:
        """Lets the others run until one of them ends, or for about so many seconds."""
        self._wanted = math.inf if seconds is None else time.monotonic() + seconds
        if self._waiting:
            with put_aside():
                self._waiting.popleft()._stack.switch()

    def close(self) -> None:
        """Ends all of them, each where it has passed its turn on."""
        with put_aside():
            while self._waiting:
                self._waiting.popleft()._stack.throw(Dismissed)

    def _pass_on(self, seat: Seat, is_first: bool) -> None:
        """Ends a seat's turn; returns with its next one."""
        to_main = is_first or time.monotonic() >= self._wanted
        if to_main or self._waiting:
            self._waiting.append(seat)
            following = self._main if to_main else self._waiting.popleft()._stack
            with put_aside():
                following.switch()
