"""Time that passes when a test says so."""

from __future__ import annotations


class Clock:
    """In the place of a module's `time`: however busy the machine, a moment is as long as it is.

    Example:
        >>> clock = Clock()
        >>> began = clock.monotonic()
        >>> clock.sleep(2.5)
        >>> clock.monotonic() - began
        2.5
    """

    def __init__(self) -> None:
        self._now = 1000.0

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
