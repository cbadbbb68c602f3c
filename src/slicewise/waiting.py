"""Says what a wait is for, once it is long: a download, an import, a cache that is filled.

What is quick says nothing. Else it is a line on standard error, of one of several ranks; whoever
shows such things elsewhere is told too (`LISTENERS`).
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

# Seconds after which people ask themselves whether it still goes on.
SECONDS = 2.0

# Told what is waited for, and None when that is over.
Listener = Callable[[str | None], None]


def say_on_stderr(what: str | None) -> None:
    """One line; where a bar is drawn on the terminal, above it."""
    if what is not None:
        with contextlib.suppress(OSError, ValueError):
            print(f"{what} ...", file=sys.stderr, flush=True)


LISTENERS: list[Listener] = [say_on_stderr]


class Wait:
    """A wait that begins and ends in different places; else see `waiting_for`.

    Args:
        what: What is waited for: "Loading torch"; called for it if it takes time to find out.

    Example:
        >>> wait = Wait("Loading torch")
        >>> wait.begin()
        >>> wait.end()
    """

    def __init__(self, what: str | Callable[[], str]) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._said = False

    def begin(self) -> None:
        """From here on; that of one that has begun is another beginning."""
        self.end()
        self._timer = threading.Timer(SECONDS, self._say)
        self._timer.name = "waiting"
        # What hangs may be left.
        self._timer.daemon = True
        self._timer.start()

    def end(self) -> None:
        """To here; nothing is said any more."""
        timer, self._timer = self._timer, None
        if timer is None:
            return
        timer.cancel()
        with self._lock:
            if self._said:
                self._said = False
                _tell(None)

    def _say(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._said = True
                _tell(self._what if isinstance(self._what, str) else self._what())


@contextlib.contextmanager
def waiting_for(what: str | Callable[[], str]) -> Iterator[None]:
    """Says what is done in it, if that takes more than two seconds.

    Args:
        what: As `Wait` takes it.

    Example:
        >>> with waiting_for("Adding two and two"):
        ...     2 + 2
        4
    """
    wait = Wait(what)
    wait.begin()
    try:
        yield
    finally:
        wait.end()


def _tell(what: str | None) -> None:
    for listener in tuple(LISTENERS):
        listener(what)
