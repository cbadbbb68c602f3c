"""A child process: jobs of the local launcher and ranks of a gang are such.

It is started with `subprocess` rather than `multiprocessing`, which takes no environment, blocks
on a child that dies before it reads its arguments, and waits at exit for children that wait for us.

The first one may be started ahead, before it is known what it is to do: it loads meanwhile what it
will need.
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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO, Any

from sweep.streams import settle_streams

# What it imports it finds where its parent would, from the first import on.
_PROGRAM = (
    "import pickle, sys; start = open({start}, 'rb'); sys.path[:] = pickle.load(start); "
    "from sweep.child import _run; _run(start, {pipe})"
)
# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
# Variables that nothing reads before it is used; and two that scikit-learn sets wherever it is
# loaded, by Optuna for one. Any other may be read when Python starts, or a library is loaded.
_READ_LATE = {
    *("CUDA_VISIBLE_DEVICES", "HYDRA_FULL_ERROR", "PGPASSWORD"),
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),
}


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
        from_scratch: Whether it must not have loaded anything before: what `main` does first may
            decide what libraries find.
    """

    def __init__(
        self,
        main: Callable[..., None],
        arguments: tuple[Any, ...] = (),
        environment: Mapping[str, str] | None = None,
        from_scratch: bool = False,
    ) -> None:
        variables = {**os.environ, **(environment or {})}
        if from_scratch:
            dismiss_ahead()
        ahead = _take_ahead(_name_of(main), variables)
        if ahead is None:
            self._process, self._pipe = _started(main, arguments, variables, _name_of(main))
        else:
            self._process, self._pipe = ahead.process, ahead.pipe
            ahead.tell(main, arguments, variables)
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


@dataclass
class _Ahead:
    """A child that has not been told its arguments yet.

    Attributes:
        name: Of what it will call.
        process: Which.
        pipe: Ours to it.
        orders: A file in which it will find what it is to do.
        variables: Its environment.
    """

    name: str
    process: subprocess.Popen[bytes]
    pipe: Connection
    orders: IO[bytes]
    variables: dict[str, str]

    def tell(
        self,
        main: Callable[..., None],
        arguments: tuple[Any, ...],
        variables: Mapping[str, str],
    ) -> None:
        with self.orders:
            for content in (sys.path, dict(variables), (main, arguments)):
                pickle.dump(content, self.orders)
        # Where it has died meanwhile, whoever waits for it will see that.
        with contextlib.suppress(OSError):
            self.pipe.send(None)

    def dismiss(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()
        self.orders.close()


_ahead: _Ahead | None = None


def start_ahead(name: str, load: Callable[[], Iterable[None]]) -> None:
    """Starts a process that will be the next `ChildProcess`, and loads meanwhile what that needs.

    It ends with this process, and does nothing else: there may come no `ChildProcess`, or one that
    calls another function, or in another environment, which is a process of its own then.

    Args:
        name: The dotted path of the function that will be called.
        load: A function that can be imported; called in the process. It loads something between
            any two of its values, and is left where it is once the process is needed.
    """
    global _ahead
    variables = dict(os.environ)
    # Where there is no more room, for processes or files, whoever cannot do without will say so.
    with contextlib.suppress(OSError):
        orders = tempfile.TemporaryFile()  # noqa: SIM115 - open until it is told.
        arguments = (load, orders.fileno())
        process, pipe = _started(_work_ahead, arguments, variables, name, orders.fileno())
        _ahead = _Ahead(name, process, pipe, orders, variables)


def dismiss_ahead() -> None:
    """Ends the process that was started ahead, if there is one: nobody will need it."""
    global _ahead
    if _ahead is not None:
        _ahead.dismiss()
        _ahead = None


def _take_ahead(name: str, variables: Mapping[str, str]) -> _Ahead | None:
    """The process that was started ahead, where there is one that is as a new one would be."""
    global _ahead
    ahead, _ahead = _ahead, None
    if ahead is None:
        return None
    differing = {v for v, _ in ahead.variables.items() ^ variables.items()}
    if ahead.name == name and differing <= _READ_LATE and ahead.process.poll() is None:
        return ahead
    ahead.dismiss()
    return None


def _work_ahead(pipe: Connection, load: Callable[[], Iterable[None]], orders: int) -> None:
    """What a child does that was started ahead."""
    for _ in load():
        if pipe.poll():
            break
    try:
        pipe.recv()
    except EOFError:
        return  # Nobody needs it.
    with open(orders, "rb") as told:
        told.seek(0)
        sys.path[:] = pickle.load(told)
        variables = pickle.load(told)
        os.environ.clear()
        os.environ.update(variables)
        main, arguments = pickle.load(told)
    main(pipe, *arguments)


def _started(
    main: Callable[..., None],
    arguments: tuple[Any, ...],
    variables: Mapping[str, str],
    name: str,
    *handles: int,
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Starts a process that calls a function, and has some of our file descriptors.

    Args:
        main: What it calls.
        arguments: With what, besides its pipe.
        variables: Its environment.
        name: For `ps`.
        handles: The file descriptors.
    """
    ours, theirs = Pipe()
    # Through a file, as writing to a process that never reads can take forever.
    with theirs, tempfile.TemporaryFile() as start:
        for content in (sys.path, os.getpid(), (main, arguments)):
            pickle.dump(content, start)
        start.seek(0)
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        program = _PROGRAM.format(start=start.fileno(), pipe=theirs.fileno())
        with _interrupts_held_back():
            process = subprocess.Popen(
                [sys.executable, *flags, "-c", program, name],
                stdin=subprocess.DEVNULL,
                env=variables,
                pass_fds=(start.fileno(), theirs.fileno(), *handles),
                process_group=0,
            )
    return process, ours


def _name_of(main: Callable[..., None]) -> str:
    return f"{main.__module__}.{main.__qualname__}"


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
    settle_streams()
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
