"""A child process: jobs of the local launcher and ranks of a gang are such.

It is started with `subprocess` rather than `multiprocessing`, which takes no environment, blocks
on a child that dies before it reads its arguments, and waits at exit for children that wait for us.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO, Any

# What it imports it finds where its parent would, from the first import on.
_PROGRAM = (
    "import pickle, sys; start = open({start}, 'rb'); sys.path[:] = pickle.load(start); "
    "from sweep.child import _run; _run(start, {pipe})"
)
# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1


class ChildProcess:
    """A process that calls a function of this program, and the pipe to it.

    It leads a process group of its own: the terminal's Ctrl-C does not reach it, and it can be
    killed with all that it has started. SIGINT is held back until it calls
    `let_interrupts_through`. On Linux it gets SIGTERM when the thread that started it ends,
    killed or not; elsewhere, and where it ignores that, the end of the pipe must be enough.

    Args:
        main: A function that can be imported; called as `main(pipe, *arguments)`, with a
            `Connection`, when the process has started.
        arguments: Anything that can be pickled.
        environment: Variables to set, besides those of this process.
    """

    def __init__(
        self,
        main: Callable[..., None],
        arguments: tuple[Any, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._pipe, theirs = Pipe()
        # Through a file, as writing to a process that never reads can take forever.
        with theirs, tempfile.TemporaryFile() as start:
            for content in (sys.path, os.getpid(), (main, arguments)):
                pickle.dump(content, start)
            start.seek(0)
            flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
            program = _PROGRAM.format(start=start.fileno(), pipe=theirs.fileno())
            # For `ps`.
            name = f"{main.__module__}.{main.__qualname__}"
            with _interrupts_held_back():
                self._process = subprocess.Popen(
                    [sys.executable, *flags, "-c", program, name],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **(environment or {})},
                    pass_fds=(start.fileno(), theirs.fileno()),
                    process_group=0,
                )
        self._end = _open_pidfd(self.pid)

    @property
    def pid(self) -> int:
        """Also the number of its process group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal; None before `wait` has seen the end."""
        return self._process.returncode

    def handles(self) -> list[Connection | int]:
        """What becomes ready for `multiprocessing.connection.wait` when it sends or ends."""
        handles: list[Connection | int] = [] if self._pipe.closed else [self._pipe]
        return handles if self._end is None else [*handles, self._end]

    def send(self, message: Any) -> None:
        """Sends anything that can be pickled; it is lost where the process has ended."""
        with contextlib.suppress(OSError):
            self._pipe.send(message)

    def receive(self) -> tuple[list[Any], bool]:
        """The messages that have arrived, without waiting, and whether the process has ended.

        Once it has ended, there are no others.
        """
        # Asked first: what it sent before it ended has arrived by now.
        ended = self._end is not None and bool(wait([self._end], 0))
        messages = []
        while (message := self._next_message()) is not None:
            messages.append(pickle.loads(message))
        # Without a pidfd the end of the pipe must do, which processes forked by it hold open.
        return messages, ended or (self._end is None and self._pipe.closed)

    def close(self) -> None:
        """Closes the pipe, which tells a process that reads from it to end."""
        self._pipe.close()

    def interrupt(self) -> None:
        """Sends SIGINT to the process, and not to what it has started."""
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kills the process and all of its group, also where it has ended and they have not.

        Does nothing after `wait` has seen the end: its number may be another's by then.
        """
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits for the end, at most so many seconds; whether the process has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._pipe.close()
        if self._end is not None:
            os.close(self._end)
            self._end = None
        return True

    def death(self) -> str:
        """How it ended, once `wait` has seen it: `SIGKILL`, `exit code 3`."""
        code = self.exit_code
        if code is None or code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"

    def _next_message(self) -> bytes | None:
        with contextlib.suppress(EOFError, OSError):
            return self._pipe.recv_bytes() if self._pipe.poll() else None
        self._pipe.close()
        return None


def let_interrupts_through() -> None:
    """To be called by a child that is ready for SIGINT, also for one that has come meanwhile."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes started in here get no SIGINT before they let it through.

    The terminal's would reach a child that has not left our group yet; and any would end it in
    the middle of its imports.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _open_pidfd(pid: int) -> int | None:
    """A file descriptor that becomes ready when the process ends, where the system has that."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _run(start: IO[bytes], pipe: int) -> None:
    """What a child does."""
    with start:
        _end_with(pickle.load(start))
        # Whatever the parent does about SIGINT, which a child would inherit.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        main, arguments = pickle.load(start)
    os.set_inheritable(pipe, False)
    main(Connection(pipe), *arguments)


def _end_with(parent: int) -> None:
    """Has this process terminated when the thread that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        # It ended before we could ask to be told.
        os.kill(os.getpid(), signal.SIGTERM)
