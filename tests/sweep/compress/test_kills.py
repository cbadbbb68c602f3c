"""A compression that is killed, stopped or short of disk goes on, and ends as it would have."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.console import INTERRUPTED
from sweep.trial.checkpoint import CHECKPOINT
from tests.sweep.compress.conftest import TINY
from tests.sweep.processes import Program, Running, signal_process
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

BUDGET = "budget.parameters=0.5"
# Long enough to be killed in the middle.
SLOW = (
    "heal.steps=60",
    "callbacks.resume_point.every_seconds=0.2",
    "+callbacks.slow={_target_: tests.sweep.faults.Slow, seconds: 0.1}",
)


@pytest.fixture
def program(folder: Path) -> Iterator[Program]:
    program = Program(folder)
    yield program
    program.end()


def _start(program: Program, *arguments: str) -> Running:
    given = [*TINY, BUDGET, *SLOW, *arguments]
    return program.start_command([sys.executable, "-m", "sweep.compress", *given])


def _results(home: Path) -> dict[str, Any]:
    """What the trials found, by what they were asked."""
    records = [json.loads(path.read_text()) for path in home.rglob("trial.json")]
    return {json.dumps(record["params"]): record["damage"] for record in records}


def test_killed_and_stopped_in_every_stage_it_ends_as_one_that_was_not(program: Program) -> None:
    home = program.folder / "multirun/c"
    running = _start(program)
    eventually(lambda: len(list(home.glob("library/*/trial.json"))) >= 3, "some candidates")
    signal_process(running.process.pid, signal.SIGKILL)
    running.wait()
    assert not (home / "plans.json").exists()

    running = _start(program)
    eventually(lambda: _healed(home), "a checkpoint of the healing")
    signal_process(running.process.pid, signal.SIGINT)
    assert running.wait() == INTERRUPTED, running.said()
    _says_how_to_go_on(running.said())
    assert not (home / "result.json").exists()

    stopped_at = _healed(home)
    running = _start(program)
    eventually(lambda: _healed(home) > stopped_at, "a later checkpoint of the healing")
    signal_process(running.process.pid, signal.SIGKILL)
    running.wait()
    assert not (home / "result.json").exists()

    running = _start(program)
    assert running.wait() == 0, running.said()
    assert (home / "model/config.json").is_file()

    other = _start(program, "study=other")
    assert other.wait() == 0, other.said()
    assert _results(home) == _results(program.folder / "multirun/other")
    results = [json.loads((program.folder / f"multirun/{n}/result.json").read_text()) for n in "c"]
    results.append(json.loads((program.folder / "multirun/other/result.json").read_text()))
    assert results[0]["cosine"] == results[1]["cosine"]
    assert results[0]["candidates"] == results[1]["candidates"]


def _healed(home: Path) -> int:
    """When the healing's checkpoint was written; 0 before there is one."""
    times = [path.stat().st_mtime_ns for path in home.glob(f"heal-*/0/{CHECKPOINT}")]
    return max(times, default=0)


def _says_how_to_go_on(said: str) -> None:
    assert "Traceback" not in said
    [command] = [line for line in said.splitlines() if line.startswith("Stopped. To go on: ")]
    assert command.startswith("Stopped. To go on: python -m sweep.compress teacher=random_bert")
    assert command.endswith("study=c")
    assert "candidate=" not in command
    assert "-m " not in command.partition("sweep.compress")[2]


def test_a_full_disk_is_one_message_and_nothing_is_lost(program: Program) -> None:
    home = program.folder / "multirun/c"
    steps = "heal.steps=2"
    running = _start(program, steps)
    assert running.wait() == 0, running.said()
    result = (home / "result.json").read_text()
    # Files larger than 100 kB cannot be written, of which the model is one.
    again = [sys.executable, "-m", "sweep.compress", *TINY, BUDGET, *SLOW, steps]
    limited = 'ulimit -f 100; exec "$@"'
    (home / "result.json").unlink()
    (weights,) = home.glob("model/*.safetensors")
    before_that = weights.read_bytes()
    running = program.start_command(["bash", "-c", limited, "bash", *again])
    assert running.wait() == 1, running.said()
    said = running.said()
    # The study's storage or the folder, whichever comes first to what is too large.
    assert " cannot be written to: " in said
    assert "What was done is kept" in said
    assert "Traceback" not in said
    assert weights.read_bytes() == before_that
    assert not [path.name for path in home.iterdir() if path.name.startswith(".model")]
    running = program.start_command(again)
    assert running.wait() == 0, running.said()
    before, after = json.loads(result), json.loads((home / "result.json").read_text())
    assert before["cosine"] == after["cosine"]
