from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from sweep import signals
from tests.clock import Clock


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(signals, "time", clock)
    return clock


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_the_threads_of_a_dying_parent_send_is_one_request(
    number: signal.Signals, clock: Clock
) -> None:
    stop = threading.Event()
    with signals.stop_on_signals(stop):
        for _ in range(4):
            signal.raise_signal(number)
            clock.sleep(0.2 * signals._AT_ONCE_SECONDS)
        assert stop.is_set()
        clock.sleep(2 * signals._AT_ONCE_SECONDS)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_one_of_each_signal_is_one_request(clock: Clock) -> None:
    stop = threading.Event()
    with signals.stop_on_signals(stop):
        signal.raise_signal(signal.SIGTERM)
        clock.sleep(2 * signals._AT_ONCE_SECONDS)
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()


def test_a_launcher_takes_for_one_request_what_a_fit_does(clock: Clock) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        # It is raised at the end, when all was done but this.
        with contextlib.suppress(KeyboardInterrupt), signals.Interrupts() as interrupts:
            # As `timeout` does: to its child, and to its child's process group.
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
                clock.sleep(0.5 * signals._AT_ONCE_SECONDS)
            signal.raise_signal(signal.SIGINT)
            assert interrupts.count == 1
            clock.sleep(2 * signals._AT_ONCE_SECONDS)
            signal.raise_signal(signal.SIGINT)
            assert interrupts.count == 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
