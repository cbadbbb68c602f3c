"""What child processes do in `test_child`: functions that can be imported, without pytest."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from sweep import child
from sweep.child import ChildProcess, let_interrupts_through, start_ahead

# Whether something has been loaded ahead.
_loaded = False


def describe(pipe: Connection, *arguments: Any) -> None:
    """Sends what it finds around it."""
    found = {
        "arguments": arguments,
        "group": os.getpgrp(),
        "parent": os.getppid(),
        "environment": dict(os.environ),
        "path": sys.path,
        "stdin": sys.stdin.read(),
        "loaded": _loaded,
    }
    pipe.send(found)


def load() -> Iterator[None]:
    """Loads something ahead."""
    global _loaded
    _loaded = True
    yield


def load_for_ever() -> Iterator[None]:
    """Loads one thing after the other, until it is left."""
    while True:
        yield from load()
        time.sleep(0.01)


def start_ahead_and_end(pipe: Connection, end: int) -> None:
    """Sends the number of a process that it has started ahead, and ends."""
    start_ahead("tests.sweep.children.describe", load)
    assert child._ahead is not None
    send_and_end(pipe, [child._ahead.process.pid], end)


def echo(pipe: Connection) -> None:
    """Sends back what it receives, until the pipe is closed."""
    try:
        while True:
            pipe.send(pipe.recv())
    except EOFError:
        return


def echo_once(pipe: Connection) -> None:
    """Sends back what it receives, and ends."""
    pipe.send(pipe.recv())


def send_and_end(pipe: Connection, messages: Sequence[Any], end: int | str) -> None:
    """Sends messages, and ends: with a code, by a signal, or with an exception."""
    for message in messages:
        pipe.send(message)
    if isinstance(end, str):
        raise RuntimeError(end)
    if end >= 0:
        os._exit(end)
    os.kill(os.getpid(), -end)


def leave_behind(pipe: Connection, end: int) -> None:
    """Ends like `send_and_end`, but not without a process that holds the pipe open."""
    descendant = os.fork()
    if descendant == 0:
        pause_for_ever()
    send_and_end(pipe, [descendant], end)


def wait_for_interrupt(pipe: Connection) -> None:
    """Lets interrupts through when it is told to, and sends what comes then."""
    pipe.send("held back")
    pipe.recv()
    try:
        let_interrupts_through()
        time.sleep(60)
    except KeyboardInterrupt:
        pipe.send("interrupted")


def live(pipe: Connection, seconds: float) -> None:
    """Lives so long, if nothing comes between that does not belong to its start."""
    pipe.send("begun")
    try:
        let_interrupts_through()
    except KeyboardInterrupt:
        pipe.send("held back")
    time.sleep(seconds)
    pipe.send("lived")


def pause(pipe: Connection) -> None:
    """Does nothing, for ever."""
    pause_for_ever()


def only_listen(pipe: Connection) -> None:
    """Ends when its pipe is closed, and on no signal that can be ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    echo(pipe)


def have_child(pipe: Connection, main: Callable[..., None], die: bool) -> None:
    """Starts a child of its own and sends its number; then dies at once, or waits."""
    mine = ChildProcess(main)
    pipe.send(mine.pid)
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
    pause_for_ever()


def have_children_under_interrupts(pipe: Connection, number: int) -> None:
    """Has so many children live for a moment, one after another; sends what became of them."""
    signal.signal(signal.SIGINT, lambda *_: None)
    let_interrupts_through()
    pipe.send("ready")
    for _ in range(number):
        one = ChildProcess(live, (0.2,))
        said: list[Any] = []
        ended = False
        while not ended:
            wait(one.handles())
            messages, ended = one.receive()
            said += messages
        one.wait()
        pipe.send((said, one.death()))


def pause_for_ever() -> None:
    while True:
        signal.pause()
