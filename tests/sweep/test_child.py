"""Child processes, real ones, and real signals."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweep import child as child_module
from sweep.child import ChildProcess, start_ahead
from tests.sweep import children
from tests.waiting import eventually, is_alive

Start = Callable[..., ChildProcess]


@pytest.fixture
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts children, which do not outlive the test."""
    started: list[ChildProcess] = []

    def start(main: Callable[..., None], *arguments: Any, **environment: str) -> ChildProcess:
        if request.node.callspec.params["_system"] == "ahead":
            start_ahead(f"{main.__module__}.{main.__qualname__}", children.load)
        started.append(ChildProcess(main, arguments, environment))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait()


@pytest.fixture(params=["pidfd", "no pidfd", "ahead"], autouse=True)
def _system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems with a descriptor of processes, and without; and children that were started ahead."""
    if request.param == "no pidfd":
        monkeypatch.delattr(os, "pidfd_open")


needs_pidfd = pytest.mark.parametrize("_system", ["pidfd", "ahead"], indirect=True)


def receive(child: ChildProcess) -> Any:
    """The next message, of which no other follows at once."""
    messages: list[Any] = []
    while not messages:
        assert wait(child.handles(), 60), "waited in vain"
        messages, ended = child.receive()
        assert messages or not ended, "ended without a word"
    [message] = messages
    return message


def receive_all(child: ChildProcess) -> list[Any]:
    """All that it sends until it ends."""
    found: list[Any] = []
    ended = False
    while not ended:
        assert wait(child.handles(), 60), "waited in vain"
        messages, ended = child.receive()
        found += messages
    assert child.receive() == ([], True)
    return found


def test_what_a_child_finds(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEWISE_TEST_KEPT", "kept")
    monkeypatch.setenv("SLICEWISE_TEST_SET", "before")
    monkeypatch.setattr(sys, "path", [*sys.path, "/nowhere"])
    child = start(children.describe, 1, {"a": [2]}, SLICEWISE_TEST_SET="after")
    found = receive(child)
    assert found["arguments"] == (1, {"a": [2]})
    assert found["group"] == child.pid != os.getpgrp()
    assert found["parent"] == os.getpid()
    assert found["environment"]["SLICEWISE_TEST_KEPT"] == "kept"
    assert found["environment"]["SLICEWISE_TEST_SET"] == "after"
    assert os.environ["SLICEWISE_TEST_SET"] == "before"
    assert found["path"] == sys.path


def test_a_child_does_not_read_what_is_typed(start: Start) -> None:
    own = os.dup(0)
    typed, keyboard = os.pipe()
    os.write(keyboard, b"for the parent\n")
    os.close(keyboard)
    os.dup2(typed, 0)
    try:
        child = start(children.describe)
    finally:
        os.dup2(own, 0)
        os.close(own)
        os.close(typed)
    assert receive(child)["stdin"] == ""


def test_ps_shows_what_a_child_runs(start: Start) -> None:
    child = start(children.pause)
    command = Path(f"/proc/{child.pid}/cmdline")
    eventually(lambda: b"tests.sweep.children.pause" in command.read_bytes(), "its name")


@pytest.mark.parametrize("size", [0, 10_000_000])
def test_messages_and_their_answers(start: Start, size: int) -> None:
    child = start(children.echo)
    assert child.receive() == ([], False)
    for message in (bytes(size), None, {"x": 1}):
        child.send(message)
        assert receive(child) == message


ENDS = st.sampled_from([0, 3, -signal.SIGKILL, -signal.SIGTERM, "an exception"])


@given(messages=st.lists(st.binary(max_size=300_000), max_size=5), end=ENDS)
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_a_child_has_sent_arrives_however_it_ends(
    start: Start, messages: list[bytes], end: int | str
) -> None:
    assert receive_all(start(children.send_and_end, messages, end)) == messages


@needs_pidfd
def test_what_a_child_sends_while_its_parent_receives_is_not_lost(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start(children.echo_once)

    def ask_later(handles: Any, seconds: float) -> Any:
        child.send("last words")
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return wait(handles, seconds)

    monkeypatch.setattr("sweep.child.wait", ask_later)
    assert child.receive() == (["last words"], True)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        ("an exception", "exit code 1"),
        (-signal.SIGKILL, "SIGKILL"),
        (-signal.SIGSEGV, "SIGSEGV"),
        # Python has no name for it.
        (-(signal.SIGRTMIN + 5), f"signal {signal.SIGRTMIN + 5}"),
    ],
)
def test_a_death_in_words(start: Start, end: int | str, words: str) -> None:
    child = start(children.send_and_end, [], end)
    assert child.wait(60)
    assert child.death() == words
    assert not Path(f"/proc/{child.pid}").exists(), "a zombie"


def test_a_child_that_python_cannot_start_does_not_block_its_parent(start: Start) -> None:
    child = start(children.describe, bytes(10_000_000), PYTHONHOME="/nowhere")
    assert receive_all(child) == []
    child.wait()
    assert child.death() == "exit code 1"


def test_sending_to_the_dead(start: Start) -> None:
    child = start(children.send_and_end, [], 0)
    receive_all(child)
    child.send(bytes(10_000_000))
    assert child.receive() == ([], True)
    child.wait()
    child.send(1)
    child.interrupt()
    assert child.wait()


@needs_pidfd
def test_an_end_is_seen_while_a_descendant_holds_the_pipe(start: Start) -> None:
    child = start(children.leave_behind, -signal.SIGKILL)
    [descendant] = receive_all(child)
    assert is_alive(descendant)


def test_killing_ends_all_that_a_child_has_started(start: Start) -> None:
    child = start(children.leave_behind, -signal.SIGSTOP)
    descendant = receive(child)
    child.kill()
    child.wait()
    assert child.death() == "SIGKILL"
    eventually(lambda: not is_alive(descendant), "the descendant's end")


def test_killing_ends_what_a_dead_child_has_left_behind(start: Start) -> None:
    child = start(children.leave_behind, 3)
    descendant = receive(child)
    eventually(lambda: not is_alive(child.pid), "the child's end")
    assert is_alive(descendant)
    child.kill()
    child.wait()
    assert child.death() == "exit code 3"
    eventually(lambda: not is_alive(descendant), "the descendant's end")


def test_after_the_end_has_been_seen_its_number_is_not_signalled(start: Start) -> None:
    """The group lives on under that number, as another's could."""
    child = start(children.leave_behind, 0)
    descendant = receive(child)
    child.wait()
    child.kill()
    child.interrupt()
    time.sleep(0.1)
    assert is_alive(descendant)
    os.kill(descendant, signal.SIGKILL)


def test_a_polite_end(start: Start) -> None:
    child = start(children.only_listen)
    child.send("here")
    assert receive(child) == "here"
    assert not child.wait(0.1)
    child.close()
    assert child.wait(60)
    assert child.death() == "exit code 0"


# Started ahead.

started_ahead = pytest.mark.parametrize("_system", ["started ahead"], indirect=True)


def ahead_of(main: Callable[..., None]) -> int:
    """Starts a process ahead; its number."""
    start_ahead(f"{main.__module__}.{main.__qualname__}", children.load)
    assert child_module._ahead is not None
    return child_module._ahead.process.pid


@started_ahead
def test_the_next_child_is_the_process_that_was_started_ahead(start: Start) -> None:
    pid = ahead_of(children.describe)
    first = start(children.describe, CUDA_VISIBLE_DEVICES="7")
    assert first.pid == pid
    found = receive(first)
    assert found["environment"]["CUDA_VISIBLE_DEVICES"] == "7"
    assert found["loaded"]
    second = start(children.describe)
    assert second.pid != pid
    assert not receive(second)["loaded"]


@started_ahead
@pytest.mark.parametrize(
    "variables",
    [{"OMP_NUM_THREADS": "7"}, {"PYTHONHASHSEED": "3"}, {"OPENBLAS_NUM_THREADS": "1"}],
    ids=str,
)
def test_what_reads_its_environment_early_is_started_anew(
    start: Start, variables: dict[str, str]
) -> None:
    pid = ahead_of(children.describe)
    child = start(children.describe, **variables)
    assert child.pid != pid
    assert not is_alive(pid)
    assert variables.items() <= receive(child)["environment"].items()


@started_ahead
def test_what_must_have_loaded_nothing_is_started_anew() -> None:
    pid = ahead_of(children.describe)
    child = ChildProcess(children.describe, from_scratch=True)
    try:
        assert child.pid != pid
        assert not is_alive(pid)
        assert not receive(child)["loaded"]
    finally:
        child.kill()
        child.wait()


@started_ahead
def test_without_room_for_a_process_none_is_started_ahead(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError

    with monkeypatch.context() as context:
        context.setattr(child_module.subprocess, "Popen", refuse)
        start_ahead("tests.sweep.children.describe", children.load)
    assert not receive(start(children.describe))["loaded"]


@started_ahead
def test_another_function_or_a_death_means_another_process(start: Start) -> None:
    pid = ahead_of(children.pause)
    child = start(children.echo)
    assert child.pid != pid
    assert not is_alive(pid)
    pid = ahead_of(children.echo)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid), "its end")
    child = start(children.echo)
    child.send("here")
    assert receive(child) == "here"


@started_ahead
@pytest.mark.parametrize("end", [0, -signal.SIGKILL])
def test_what_was_started_ahead_and_is_not_needed_ends_with_its_parent(
    start: Start, end: int
) -> None:
    parent = start(children.start_ahead_and_end, end)
    [pid] = receive_all(parent)
    eventually(lambda: not is_alive(pid), "its end")


@started_ahead
def test_what_is_loaded_ahead_is_left_where_it_is_once_the_process_is_needed(start: Start) -> None:
    start_ahead("tests.sweep.children.describe", children.load_for_ever)
    assert receive(start(children.describe))["loaded"]


# Signals.


def test_an_interrupt_waits_until_the_child_is_ready(start: Start) -> None:
    child = start(children.wait_for_interrupt)
    # It has not even begun its imports.
    child.interrupt()
    assert receive(child) == "held back"
    child.interrupt()
    child.send("go")
    assert receive_all(child) == ["interrupted"]


def test_ctrl_c_of_the_terminal_ends_no_child_that_starts(start: Start) -> None:
    """One may come before a child has left its parent's group; it waits, and no other follows."""
    parent = start(children.have_children_under_interrupts, 5)
    assert receive(parent) == "ready"
    ends: list[Any] = []
    ended = False
    while not ended:
        # As the terminal does it.
        os.killpg(parent.pid, signal.SIGINT)
        time.sleep(0.001)
        messages, ended = parent.receive()
        ends += messages
    assert len(ends) == 5
    for sent, death in ends:
        assert [word for word in sent if word != "held back"] == ["begun", "lived"]
        assert death == "exit code 0"


@pytest.mark.parametrize("main", [children.pause, children.only_listen])
@pytest.mark.parametrize("die", [False, True], ids=["later", "while it starts"])
def test_a_child_ends_with_its_parent(start: Start, main: Callable[..., None], die: bool) -> None:
    parent = start(children.have_child, main, die)
    child = receive(parent)
    if not die:
        # Time to begin, and to ignore what it ignores.
        time.sleep(0.5)
        assert is_alive(child)
        os.kill(parent.pid, signal.SIGKILL)
    eventually(lambda: not is_alive(child), "the child's end")
