from __future__ import annotations

import signal
import threading
import time

import pytest

from sweep import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_the_threads_of_a_dying_parent_send_is_one_request(number: signal.Signals) -> None:
    stop = threading.Event()
    with signals.stop_on_signals(stop):
        for _ in range(4):
            signal.raise_signal(number)
        assert stop.is_set()
        time.sleep(signals._AT_ONCE_SECONDS)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_one_of_each_signal_is_one_request() -> None:
    stop = threading.Event()
    with signals.stop_on_signals(stop):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(signals._AT_ONCE_SECONDS)
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
