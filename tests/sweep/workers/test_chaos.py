"""Thirty trials, ten kills: nothing lost, nothing twice, nothing half done."""

from __future__ import annotations

import functools
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.study.attributes import ATTEMPTS
from tests.sweep.processes import Program, Running, signal_process
from tests.waiting import eventually

pytestmark = pytest.mark.slow

N_TRIALS = 30
N_KILLS = 10

# Which storage, and what a trial is: forty points for thirty trials, of a second or two.
COURSES = {
    "sqlite, seeds averaged": (
        "sqlite:///multirun/studies.db",
        ("optimizer.weight_decay=range(0,20)", "objective.seeds=[0,1]", "data.train_batches=120"),
    ),
    "journal, three side by side": (
        "journal:///multirun/studies.log",
        ("seed=range(0,20)", "data.train_batches=240", "hydra.sweeper.side_by_side=3"),
    ),
}


@pytest.fixture
def program(folder: Path, storage: str) -> Iterator[Program]:
    program = Program(folder, storage)
    yield program
    program.end()


def is_at_work(program: Program, sweep: Running, finished: int) -> bool:
    """Whether there is someone to kill after so many trials; or nobody ever will be."""
    if sweep.process.poll() is not None:
        return True
    return program.finished() >= finished and bool(program.workers())


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("storage", "trials"), COURSES.values(), ids=COURSES)
def test_whatever_is_killed_thirty_trials_are_thirty_trials(
    program: Program, trials: tuple[str, ...]
) -> None:
    command = (
        *("student.qkv_layers=0,1", *trials, "callbacks.resume_point.every_seconds=0.3"),
        *(f"hydra.sweeper.n_trials={N_TRIALS}", "hydra.sweeper.n_jobs=2"),
        # The dice may hit one trial again and again.
        *("hydra.sweeper.max_retries=100", "hydra.launcher.max_restarts=100"),
    )
    chance = random.Random(0)
    kills: Counter[str] = Counter()
    sweep = program.start(*command)
    while kills.total() < N_KILLS:
        # From the first trials to the last, wherever in one of them it hits.
        few = N_TRIALS // 2 * kills.total() // N_KILLS
        eventually(functools.partial(is_at_work, program, sweep, few), "a worker")
        time.sleep(chance.uniform(0.0, 2.0))
        assert sweep.process.poll() is None, f"it ended after {kills}:\n{sweep.said()}"
        what = chance.choice(["worker", "worker", "sweep", "all"])
        if what != "sweep":
            workers = [sign.pid for _, sign in sorted(program.workers().items())]
            if not workers:
                continue
            for pid in workers if what == "all" else [chance.choice(workers)]:
                signal_process(pid, signal.SIGKILL)
        if what != "worker":
            sweep.send(signal.SIGKILL)
            sweep.wait()
            # Its workers may still be there to see the next one.
            sweep = program.start(*command)
        kills[what] += 1
    assert sweep.wait() == 0, sweep.said()
    assert set(kills) == {"worker", "sweep", "all"}
    program.assert_complete(N_TRIALS)
    retaken = sum(trial.user_attrs.get(ATTEMPTS, 0) for trial in program.trials())
    resumed = sum(len(program.resumed_from(trial)) for trial in program.trials())
    print(f"{dict(kills)}; {retaken} trials taken up again, {resumed} from a checkpoint")
    assert retaken
    assert resumed
    eventually(lambda: not program.processes(), "the last process's end")
    for trial in program.trials():
        assert "Traceback" not in (program.directory(trial) / "sweep.log").read_text()
