"""Standard streams that nobody reads, or that were never there: real pipes, real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import chain, combinations
from multiprocessing import Pipe
from pathlib import Path

import pytest

from sweep import signals
from sweep.workers import local
from tests.waiting import PATIENCE

# A file that takes whatever number is free, and all ways to print; its child's too.
PRINTS = """
import logging, os, subprocess, sys
from sweep.streams import settle_streams
settle_streams()
with open(sys.argv[1], "wb", buffering=0) as database:
    logging.basicConfig(stream=sys.stdout)
    assert sys.stdin.read() == ""
    for number in range(1000):
        print("printed", number)
        logging.warning("logged")
        print("an error", file=sys.stderr)
        sys.stdout.flush()
    os.write(1, b"said by a signal's handler")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    database.write(b"content")
"""


@pytest.mark.parametrize(
    "closed", [*chain.from_iterable(combinations((0, 1, 2), size) for size in range(4))], ids=str
)
def test_nothing_is_printed_into_a_file_that_took_a_closed_streams_number(
    closed: tuple[int, ...], tmp_path: Path
) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    done = subprocess.run(
        [sys.executable, "-c", PRINTS, str(tmp_path / "database")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        preexec_fn=close,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "database").read_bytes() == b"content"
    assert (b"by a child" in done.stdout) is (1 not in closed)
    assert done.stderr.count(b"an error") == (0 if 2 in closed else 1000)


@pytest.mark.parametrize("unbuffered", [False, True])
def test_who_stops_reading_is_outlived(unbuffered: bool, tmp_path: Path) -> None:
    """As `| head -n 1`: no word of it, exit code 0."""
    command = [sys.executable, *(["-u"] if unbuffered else []), "-c", PRINTS]
    with subprocess.Popen(
        [*command, str(tmp_path / "database")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == b"printed 0\n"
        running.stdout.close()
        said = running.stderr.read()
        assert running.wait(PATIENCE) == 0
    assert set(said.split(b"\n")) == {b"an error", b""}
    assert (tmp_path / "database").read_bytes() == b"content"


@pytest.fixture
def _nobody_reads() -> Iterator[None]:
    """Output to a pipe whose other end is closed."""
    own = os.dup(1)
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    try:
        yield
    finally:
        os.dup2(own, 1)
        os.close(own)
        os.close(writer)


@pytest.mark.usefixtures("_nobody_reads")
def test_a_fit_that_nobody_reads_can_be_stopped() -> None:
    stop = threading.Event()
    with signals.stop_on_signals(stop):
        signal.raise_signal(signal.SIGINT)
    assert stop.is_set()


def test_what_a_job_came_to_may_have_nobody_to_hear_it() -> None:
    """Whoever launched it was killed: no reason for a traceback on his terminal."""
    ours, theirs = Pipe()
    ours.close()
    local._tell(theirs, bytes(1_000_000))
