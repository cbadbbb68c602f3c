"""The same seed, the same trials: whatever the processes, and however often they were killed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests.sweep.processes import Program

Command = Callable[..., subprocess.CompletedProcess[str]]
LR = "optimizer.lr=tag(log,interval(1e-4,1e-2))"
SEED = "hydra.sweeper.sampler.seed=1"


def rates(command: Command, study: str, *arguments: str) -> list[float]:
    """Runs a study; the learning rates of its trials, by number."""
    program = ("-m", "experiment=tiny", "trainer.accelerator=cpu", f"study={study}", LR, SEED)
    done = command("sweep", *program, *arguments, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    stored = optuna.load_study(study_name=study, storage="sqlite:///multirun/studies.db")
    return [trial.params["optimizer.lr"] for trial in stored.trials]


def test_two_workers_with_one_seed_draw_no_learning_rate_twice(command: Command) -> None:
    random = ("hydra/sweeper/sampler=random", "hydra.sweeper.n_jobs=2")
    first = rates(command, "two", *random, "hydra.sweeper.n_trials=6")
    assert len(set(first)) == 6
    more = rates(command, "two", *random, "hydra.sweeper.n_trials=9")
    assert more[:6] == first
    assert len(set(more)) == 9
    # What a trial draws at random is its number's matter, whoever runs it.
    alone = ("hydra/sweeper/sampler=random", "hydra/launcher=basic", "hydra.sweeper.n_trials=9")
    assert rates(command, "one", *alone) == more


@pytest.fixture
def program(folder: Path) -> Iterator[Program]:
    program = Program(folder)
    yield program
    program.end()


@pytest.mark.slow
def test_a_sweep_killed_in_mid_trial_goes_on_as_if_it_had_not_been(
    program: Program, command: Command
) -> None:
    study = (LR, SEED, "hydra.sweeper.sampler.n_startup_trials=2", "hydra.sweeper.n_trials=6")
    undisturbed = rates(
        command, "whole", "hydra.sweeper.sampler.n_startup_trials=2", "hydra.sweeper.n_trials=6"
    )
    # The launcher, which would start another worker, is killed as well: all of it.
    callback = "tests.sweep.faults.KillDuring"
    for trial in (1, 4):
        killer = f"+callbacks.kill={{_target_: {callback}, trial: {trial}, step: 3}}"
        running = program.start(*study, killer, "hydra/launcher=basic", "+resume=force")
        running.wait()
        assert program.trials()[-1].number == trial
        assert program.trials()[-1].state is TrialState.RUNNING
    running = program.start(*study, "hydra/launcher=basic", "+resume=force")
    assert running.wait() == 0, program.said()
    trials: Any = program.trials()
    assert [trial.params["optimizer.lr"] for trial in trials] == undisturbed
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 6
