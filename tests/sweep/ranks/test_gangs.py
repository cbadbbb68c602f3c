"""Sweeps whose workers are gangs, in processes of their own; and ranks started by torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

from sweep.console import INTERRUPTED
from sweep.study.attributes import WORKER
from tests.sweep import faults
from tests.sweep.processes import Program, signal_process
from tests.sweep.ranks.test_gang import TWO_RANKS
from tests.sweep.test_dashboard import free_port
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SAVE_OFTEN = "callbacks.resume_point.every_seconds=0.2"
SLOW = "+callbacks.slow={_target_: tests.sweep.faults.Slow, seconds: %g}"


@pytest.fixture
def program(folder: Path) -> Iterator[Program]:
    program = Program(folder)
    yield program
    program.end()


def _ranks(program: Program) -> dict[int, list[int]]:
    """Process identifiers of the ranks, by worker."""
    found: dict[int, list[int]] = {}
    for pid in program.processes():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"sweep.ranks.rank" in command:
            found.setdefault(parent, []).append(pid)
    return {parent: sorted(pids) for parent, pids in found.items()}


def test_two_gangs_share_a_study_and_prune(program: Program) -> None:
    """The first point is the best: of the others at least one cannot keep up."""
    sweep = program.start(
        *TWO_RANKS,
        "hydra.sweeper.n_jobs=2",
        "hydra/sweeper/pruner=median",
        "hydra.sweeper.pruner.n_startup_trials=1",
        "hydra.sweeper.max_failure_rate=0",
        "data.train_batches=40",
        SLOW % 0.02,
        "optimizer.lr=1e-2,1e-3,1e-8,1e-9",
    )
    gangs = eventually(
        lambda: len(found := _ranks(program)) == 2 and all(map(_is_pair, found.values())) and found,
        "two gangs of two ranks",
    )
    assert gangs
    assert sweep.wait() == 0, sweep.said()
    trials = program.trials()
    assert sorted(trial.params["optimizer.lr"] for trial in trials) == [1e-9, 1e-8, 1e-3, 1e-2]
    states = [trial.state for trial in trials]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}, states
    assert len({trial.user_attrs[WORKER] for trial in trials}) == 2
    for trial in trials:
        record = program.record(trial)
        assert record["state"] == trial.state.name
        assert record["hardware"].startswith("2 x ")
        assert record["threads"] == 1
    assert not _ranks(program)


def _is_pair(ranks: list[int]) -> bool:
    return len(ranks) == 2


def test_a_killed_workers_ranks_end_with_it(program: Program) -> None:
    sweep = program.start(
        *TWO_RANKS, SAVE_OFTEN, "data.train_batches=80", SLOW % 0.05, "student.qkv_layers=1,2"
    )
    [trial] = eventually(program.with_checkpoints, "a checkpoint")
    worker = program.workers()[trial.user_attrs[WORKER]].pid
    ranks = _ranks(program)[worker]
    signal_process(worker, signal.SIGKILL)
    eventually(lambda: not set(ranks) & set(program.processes()), "the ranks to end")
    assert sweep.wait() == 0, sweep.said()
    program.assert_complete(2)
    assert program.resumed_from(trial)


def test_ctrl_c_stops_all_ranks_at_the_next_batch(program: Program) -> None:
    command = (*TWO_RANKS, "data.train_batches=80", SLOW % 0.05, "student.qkv_layers=1,2")
    sweep = program.start(*command)
    eventually(lambda: [t for t in program.trials() if t.intermediate_values], "a validation")
    os.killpg(sweep.process.pid, signal.SIGINT)
    assert sweep.wait() == INTERRUPTED, sweep.said()
    assert not _ranks(program)
    assert program.trials()[0].state is TrialState.WAITING
    again = program.start(*command)
    assert again.wait() == 0, again.said()
    program.assert_complete(2)
    assert program.resumed_from(0)


def _torchrun(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SLICEWISE_TRUSTED": faults.TRUSTED},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_torchrun_runs_a_sweep(folder: Path) -> None:
    command = ("-m", "sweep", "-m", "experiment=tiny", *TWO_RANKS, "hydra/launcher=basic")
    points = ("study=s", "student.qkv_layers=0,1")
    done = _torchrun(folder, "--nproc-per-node=2", *command, *points)
    said, _ = done.communicate(timeout=240)
    assert done.returncode == 0, said
    assert said.count("valid_l1 0.") == 2
    assert {path.name for path in (folder / "multirun/s").iterdir()} == {
        *("0", "1", "workers", "optimization_results.yaml", "report.html")
    }


def test_torchrun_fits_over_two_nodes(folder: Path) -> None:
    """Two agents, as on two machines; the folder of the second has no stray output."""
    program = ("-m", "sweep", "experiment=tiny", "trainer=ddp", "trainer.accelerator=cpu")
    where = ("trainer.devices=1", "trainer.num_nodes=2", "study=s")
    folders = [folder / "first", folder / "second"]
    nodes = []
    port = f"--master-port={free_port()}"
    for rank, place in enumerate(folders):
        place.mkdir()
        agent = ("--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1", port)
        nodes.append(_torchrun(place, *agent, "--master-addr=127.0.0.1", *program, *where))
    for node in nodes:
        said, _ = node.communicate(timeout=240)
        assert node.returncode == 0, said
    assert (folders[0] / "multirun/s/0/trial.json").exists()
    assert not list(folders[1].iterdir())


def test_torchrun_wants_the_sweep_in_rank_0(folder: Path) -> None:
    command = ("-m", "sweep", "-m", "experiment=tiny", *TWO_RANKS, "student.qkv_layers=0,1")
    done = _torchrun(folder, "--nproc-per-node=2", *command)
    said, _ = done.communicate(timeout=240)
    assert done.returncode == 1
    assert "hydra/launcher=local: allowed: basic" in said
