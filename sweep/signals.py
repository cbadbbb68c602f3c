"""Ctrl-C and a polite kill, as fits and the local launcher understand them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

# Signals of a dying parent's threads came within 5 ms on a busy machine; nobody types as fast.
_AT_ONCE_SECONDS = 0.3


@contextlib.contextmanager
def stop_on_signals(stop: threading.Event, where: str = "at the next batch") -> Iterator[None]:
    """Ctrl-C and a polite kill stop at the next batch; the same once more stops at once.

    One of each is no impatience: a cluster asks all processes of a job to end, and then the
    launcher asks its workers. Nor is the same at once: the kernel tells a process that its parent
    has died once for each of the parent's threads.

    Args:
        stop: Set by the first signal.
        where: What is said of where that stops.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    received: dict[int, float] = {}

    def handle(number: int, frame: Any) -> None:
        if number in received:
            if time.monotonic() - received[number] < _AT_ONCE_SECONDS:
                return
            raise KeyboardInterrupt
        received[number] = time.monotonic()
        stop.set()
        # print() must not be entered where the signal may have interrupted it.
        with contextlib.suppress(OSError):  # Nobody reads it.
            os.write(1, f"\nStopping {where} ...\n".encode())

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupts:
    """Ctrl-C and SIGTERM as something to wait for, while entered in the main thread.

    As exceptions they could come between the start of a process and the note that it was
    started. Signals that someone else handles, or ignores, are left to them.

    Attributes:
        count: How often it was asked; one of each, and the same at once, are one request, as to
            `stop_on_signals`. `timeout 3600 python -m sweep ...` sends two.
    """

    def __init__(self) -> None:
        self.count = 0
        self._received: dict[int, float] = {}
        self.handle, self._writer = os.pipe()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            ordinary = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
            for number, handler in ordinary.items():
                if signal.getsignal(number) == handler:
                    self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, error: object, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.handle)
        os.close(self._writer)
        if self.count and error is None:
            # It came when all was done but this.
            raise KeyboardInterrupt

    def clear(self) -> None:
        """Makes the handle wait for the next one; `count` stays."""
        os.read(self.handle, 1024)

    def _notice(self, number: int, frame: Any) -> None:
        before, now = self._received.get(number), time.monotonic()
        if self._received and (before is None or now - before < _AT_ONCE_SECONDS):
            self._received.setdefault(number, now)
            return
        self._received[number] = now
        self.count += 1
        os.write(self._writer, b"!")
