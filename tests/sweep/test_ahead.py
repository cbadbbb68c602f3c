"""A sweep's first worker, started while the command is read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep import ahead, child
from sweep.child import ChildProcess
from sweep.workers import local
from tests.sweep.conftest import Sweep
from tests.waiting import eventually, is_alive


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    if child._ahead is not None:
        child._ahead.dismiss()
        child._ahead = None


@pytest.mark.parametrize(
    ("arguments", "starts"),
    [
        ("-m student.qkv_layers=1,2,4", True),
        ("student.qkv_layers=1,2 --multirun study=s", True),
        ("-m hydra.sweeper.n_jobs=1 trainer.devices=1 student.qkv_layers=1,2", True),
        ("student.qkv_layers=1", False),
        ("-m --cfg hydra", False),
        ("-m --help", False),
        ("-m hydra/launcher=basic student.qkv_layers=1,2", False),
        ("-m hydra.sweeper.n_jobs=2 student.qkv_layers=1,2", False),
    ],
)
def test_it_is_started_where_one_worker_of_this_machine_is_likely(
    arguments: str, starts: bool
) -> None:
    ahead.start_worker_ahead(arguments.split())
    assert (child._ahead is not None) is starts


def test_it_is_what_the_local_launcher_starts_first() -> None:
    ahead.start_worker_ahead(["-m"])
    assert child._ahead is not None
    process = child._ahead.process
    first = ChildProcess(local._run_in_process)
    assert first.pid == process.pid
    first.kill()
    first.wait()
    eventually(lambda: not is_alive(process.pid), "its end")


COUNTED = """
import json, runpy, sys
from sweep import child
started, before = [], child._started
child._started = lambda *given: (started.append(given[3]), before(*given))[1]
try:
    runpy.run_module("sweep.__main__", run_name="__main__", alter_sys=True)
finally:
    print("STARTED", json.dumps(started))
"""


def test_a_sweep_starts_no_other(tmp_path: Path) -> None:
    """Whatever a sweep sets in its environment before it launches a worker."""
    arguments = ["-m", "experiment=tiny", "study=s", "student.qkv_layers=1,2"]
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert "Study s: 2 complete." in said
    assert json.loads(said[-1].removeprefix("STARTED")) == ["sweep.workers.local._run_in_process"]


def test_where_another_launcher_works_it_does_not_wait(sweep: Sweep) -> None:
    """As with `debug=fast`, whose trials run in the process that was typed."""
    ahead.start_worker_ahead(["-m"])
    assert child._ahead is not None
    process = child._ahead.process
    assert sweep("-m", "study=s", "student.qkv_layers=1", "trainer.max_epochs=1") == 0
    assert child._ahead is None
    assert process.returncode is not None
