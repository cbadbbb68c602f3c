"""What may go wrong while a sweep runs: with real processes, real signals, a real storage."""

from __future__ import annotations

import itertools
import json
import shlex
import signal
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from sweep.console import INTERRUPTED
from sweep.study.attributes import ATTEMPTS, REASON, WORKER
from sweep.study.presence import MISSED_HEARTBEATS, SWEEP_HEARTBEAT_SECONDS
from sweep.study.storage import open_storage
from sweep.trial.checkpoint import CHECKPOINT
from tests.sweep import faults
from tests.sweep.conftest import Sweep
from tests.sweep.processes import Program, signal_process
from tests.sweep.test_dashboard import free_port
from tests.waiting import PATIENCE, eventually

Record = Callable[[str], dict[str, Any]]

# Each test waits for processes that load torch, some ten seconds each where it is busy.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TWO_WORKERS = "hydra.sweeper.n_jobs=2"
SAVE_OFTEN = "callbacks.resume_point.every_seconds=0.2"
# 4 seconds a trial, in steps of 0.1.
LONG_TRIALS = (
    "data.train_batches=40",
    "trainer.val_check_interval=0.1",
    "+callbacks.slow={_target_: tests.sweep.faults.Slow, seconds: 0.1}",
)


@pytest.fixture
def program(folder: Path) -> Iterator[Program]:
    program = Program(folder)
    yield program
    program.end()


def test_a_killed_workers_trial_is_taken_up_from_its_checkpoint(program: Program) -> None:
    sweep = program.start(TWO_WORKERS, SAVE_OFTEN, *LONG_TRIALS, "student.qkv_layers=0,1,2")
    [trial, *_] = eventually(program.with_checkpoints, "a checkpoint")
    victim = trial.user_attrs[WORKER]
    signal_process(program.workers()[victim].pid, signal.SIGKILL)
    assert sweep.wait() == 0, sweep.said()
    program.assert_complete(3)
    again = program.trials()[trial.number]
    assert again.params == trial.params
    assert again.user_attrs[ATTEMPTS] == 1
    assert again.user_attrs[WORKER] != victim
    [step] = program.resumed_from(trial)
    assert step > 0
    assert f"Trial {trial.number} waits again: worker {victim} died" in program.said()
    for other in program.trials():
        assert (other.number == trial.number) == (ATTEMPTS in other.user_attrs)


def test_a_killed_sweeps_workers_stop_and_the_same_command_resumes(program: Program) -> None:
    command = (
        *(TWO_WORKERS, SAVE_OFTEN, *LONG_TRIALS),
        "hydra.sweeper.n_trials=4",
        "optimizer.lr=interval(1e-4,1e-2)",
    )
    sweep = program.start(*command)
    eventually(lambda: len(program.with_checkpoints()) == 2, "two checkpoints")
    killed = time.monotonic()
    sweep.send(signal.SIGKILL)
    sweep.wait()
    eventually(lambda: not program.processes(), "the workers' end")
    print(f"{time.monotonic() - killed:.2f} s from the kill to the end of the last worker")
    waiting = program.trials(TrialState.WAITING)
    # One worker may have finished a trial or two before the other had loaded torch.
    assert len(waiting) == 2 == len(program.trials()) - program.finished()
    for trial in waiting:
        assert (program.directory(trial) / CHECKPOINT).exists()
        # No worker died.
        assert ATTEMPTS not in trial.user_attrs
    again = program.start(*command)
    assert again.wait() == 0, again.said()
    program.assert_complete(4)
    for trial in waiting:
        assert program.resumed_from(trial) > [0]
        assert program.trials()[trial.number].params == trial.params


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_says_how_to_go_on(program: Program, number: signal.Signals) -> None:
    sweep = program.start(
        *(TWO_WORKERS, SAVE_OFTEN, *LONG_TRIALS),
        "hydra.sweeper.n_trials=4",
        "optimizer.lr=tag(log,interval(1e-4,1e-2))",
    )
    eventually(lambda: len(program.with_checkpoints()) == 2, "two checkpoints")
    sweep.send(number)
    assert sweep.wait() == INTERRUPTED, sweep.said()
    # What Python itself starts beside spawned processes ends a moment after the sweep.
    eventually(lambda: not program.processes(), "the end of all processes")
    waiting = program.trials(TrialState.WAITING)
    assert len(waiting) == 2 == len(program.trials()) - program.finished()
    [line] = [line for line in sweep.said().splitlines() if line.startswith("Stopped.")]
    printed = line.removeprefix("Stopped. To resume: ")
    assert printed.startswith("python -m sweep ")
    assert "study=s" in shlex.split(printed)
    again = program.start_command(["sh", "-c", printed])
    assert again.wait() == 0, again.said()
    program.assert_complete(4)
    for trial in waiting:
        assert ATTEMPTS not in program.trials()[trial.number].user_attrs
        assert program.resumed_from(trial) > [0]


def test_a_second_interrupt_leaves_no_trial_that_seems_to_run(program: Program) -> None:
    """Nor one that was tried once: it is the user who stopped it."""
    sweep = program.start(TWO_WORKERS, *LONG_TRIALS, "student.qkv_layers=0,1,2")
    eventually(lambda: len(program.trials(TrialState.RUNNING)) == 2, "two trials")
    sweep.send(signal.SIGINT)
    eventually(lambda: "Ctrl-C kills at once" in sweep.said(), "the answer to the first")
    # As fast as nobody types it would be the first again.
    time.sleep(0.3)
    sweep.send(signal.SIGINT)
    assert sweep.wait() == INTERRUPTED
    trials = program.trials()
    assert {trial.state for trial in trials} == {TrialState.WAITING}
    assert not any(ATTEMPTS in trial.user_attrs for trial in trials)


def test_a_trial_that_kills_its_workers_fails_and_the_others_finish(program: Program) -> None:
    sweep = program.start(
        TWO_WORKERS,
        "hydra.sweeper.max_retries=1",
        "+callbacks.poison={_target_: tests.sweep.faults.KillDuring, trial: 0, step: 3}",
        "student.qkv_layers=0,1,2,3",
    )
    assert sweep.wait() == 0, sweep.said()
    poisoned, *others = program.trials()
    assert poisoned.state is TrialState.FAIL
    assert poisoned.user_attrs[REASON].startswith("it died 2 times (max_retries=1)")
    assert [trial.state for trial in others] == [TrialState.COMPLETE] * 3
    assert "Failed (0): it died 2 times" in sweep.said()


def test_a_worker_whose_gpu_refuses_all_work_is_replaced(program: Program) -> None:
    """One trial has failed; the next ones do not fail with it."""
    broken = "+callbacks.broken={_target_: tests.sweep.faults.BreakGpu, trial: 0}"
    sweep = program.start(broken, "student.qkv_layers=0,1")
    assert sweep.wait() == 0, sweep.said()
    first, second = program.trials()
    assert first.state is TrialState.FAIL
    assert "an illegal memory access" in first.user_attrs[REASON]
    assert second.state is TrialState.COMPLETE
    said = sweep.said()
    assert "this process can use its GPU no more (CUDA error: an illegal memory access was" in said
    assert "Job #0 died" in said


def test_what_a_gpu_refuses_to_several_is_tried_again_one_by_one(program: Program) -> None:
    """Any of those side by side may have done it: none has failed."""
    broken = "+callbacks.broken={_target_: tests.sweep.faults.BreakGpu, trial: 1, once: true}"
    beside = "hydra.sweeper.side_by_side=3"
    sweep = program.start(broken, beside, SAVE_OFTEN, "student.qkv_layers=0,1,2,3")
    assert sweep.wait() == 0, sweep.said()
    program.assert_complete(4)
    attempts = [trial.user_attrs.get(ATTEMPTS, 0) for trial in program.trials()]
    assert attempts == [0, 1, 0, 0]
    said = sweep.said()
    assert "this process can use its GPU no more (CUDA error: an illegal memory access was" in said
    assert said.count("One trial at a time: a GPU failed while several ran side by side") == 1


def test_a_suspended_worker_that_wakes_up_leaves_its_trial_to_the_other(program: Program) -> None:
    sweep = program.start(
        *(TWO_WORKERS, SAVE_OFTEN, *LONG_TRIALS),
        "hydra.sweeper.heartbeat=0.5",
        "student.qkv_layers=1,2",
    )
    eventually(lambda: len(program.with_checkpoints()) == 2, "two checkpoints")
    [trial, _] = program.with_checkpoints()
    sleeper = trial.user_attrs[WORKER]
    pid = program.workers()[sleeper].pid
    signal_process(pid, signal.SIGSTOP)
    taken = eventually(
        lambda: [
            other
            for other in program.trials(TrialState.COMPLETE)
            if other.number == trial.number and other.user_attrs[WORKER] != sleeper
        ],
        "the other worker to finish the sleeper's trial",
    )
    before = program.record(taken[0])
    signal_process(pid, signal.SIGCONT)
    assert sweep.wait() == 0, sweep.said()
    program.assert_complete(2)
    assert program.record(trial) == before


def test_a_suspended_sweep_keeps_its_workers(program: Program) -> None:
    """As Ctrl-Z does: longer than a sweep of another machine may be silent."""
    sweep = program.start(
        *(TWO_WORKERS, *LONG_TRIALS),
        "hydra.sweeper.n_trials=6",
        "optimizer.lr=interval(1e-4,1e-2)",
    )
    eventually(lambda: len(program.trials(TrialState.RUNNING)) == 2, "two trials")
    sweep.send(signal.SIGSTOP)
    time.sleep(2 * MISSED_HEARTBEATS * SWEEP_HEARTBEAT_SECONDS)
    sweep.send(signal.SIGCONT)
    assert sweep.wait() == 0, sweep.said()
    assert "The sweep has ended" not in program.said()
    program.assert_complete(6)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("host memory", "out of memory: no 640 GiB here"),
        ("gpu memory", "out of memory: no 640 GiB there"),
        ("error", "RuntimeError: the student is tired"),
        ("exit", "SystemExit: enough"),
    ],
)
def test_what_a_trial_raises_is_its_reason_and_the_next_sweep_tries_again(
    sweep: Sweep, record: Record, monkeypatch: pytest.MonkeyPatch, what: str, reason: str
) -> None:
    monkeypatch.setenv("SLICEWISE_TRUSTED", faults.TRUSTED)
    error = f"+callbacks.error={{_target_: tests.sweep.faults.Raise, trial: 1, what: {what}}}"
    for states in (["COMPLETE", "FAIL", "COMPLETE"], ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]):
        assert sweep("-m", "study=s", "student.qkv_layers=0,1,2", error) == 0
        trials = optuna.load_study(
            study_name="s", storage="sqlite:///multirun/studies.db"
        ).get_trials()
        assert [trial.state.name for trial in trials] == states
        assert trials[1].user_attrs[REASON] == reason
        assert ATTEMPTS not in trials[1].user_attrs
        assert "impossible" not in trials[1].user_attrs
    assert trials[3].params == trials[1].params
    if what != "exit":
        assert record("s/1")["state"] == "FAIL"
        assert record("s/1")["reason"] == reason


@pytest.mark.parametrize("number", [1, 3], ids=["one by one", "side by side"])
def test_a_full_disk_ends_the_sweep_and_no_trial(
    sweep: Sweep,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: int,
) -> None:
    monkeypatch.setenv("SLICEWISE_TRUSTED", faults.TRUSTED)
    full = folder / "full"
    full.touch()
    fault = f"{{_target_: tests.sweep.faults.FillDisk, trial: 1, step: 10, file: '{full}'}}"
    command = (
        *("-m", "study=s", "student.qkv_layers=0,1,2", f"+callbacks.full={fault}"),
        "callbacks.resume_point.every_seconds=0.001",
        f"hydra.sweeper.side_by_side={number}",
    )
    for _ in range(2):
        assert sweep(*command) == 1
        said = capfd.readouterr().err
        assert "Error: the disk is full: [Errno 28] No space left on device\n" in said
        assert "once there is room, the same command goes on" in said
        assert "Traceback" not in said
        trials = optuna.load_study(
            study_name="s", storage="sqlite:///multirun/studies.db"
        ).get_trials()
        assert trials[1].state is TrialState.WAITING
        assert not any(ATTEMPTS in trial.user_attrs for trial in trials)
        assert not (folder / "multirun/s/1/trial.json").exists()
    full.unlink()
    assert sweep(*command) == 0
    trials = optuna.load_study(study_name="s", storage="sqlite:///multirun/studies.db").get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert "Going on from step" in (folder / "multirun/s/1/sweep.log").read_text()


def test_too_many_failures_stop_all_workers(program: Program) -> None:
    sweep = program.start(
        TWO_WORKERS,
        "hydra.sweeper.n_trials=20",
        "hydra.sweeper.max_failure_rate=0.2",
        "optimizer.lr=interval(1e30,1e31)",
        "trainer.gradient_clip_val=null",
    )
    assert sweep.wait() == 1
    assert "the sweep stopped: " in sweep.said()
    assert "max_failure_rate=0.2" in sweep.said()
    # One more than 4, and what the other worker was in the middle of.
    assert len(program.trials(TrialState.FAIL)) in (5, 6)
    assert len(program.trials()) == len(program.trials(TrialState.FAIL))


def test_two_sweeps_at_once_share_the_budget(program: Program) -> None:
    command = ("hydra.sweeper.n_trials=10", "optimizer.lr=interval(1e-4,1e-2)", *LONG_TRIALS)
    one, other = program.start(*command), program.start(*command)
    assert one.wait() == 0, one.said()
    assert other.wait() == 0, other.said()
    program.assert_complete(10)
    by_sweep = Counter(t.user_attrs[WORKER].partition("/")[0] for t in program.trials())
    assert len(by_sweep) == 2, by_sweep


def test_no_worker_idles_while_budget_is_left(program: Program) -> None:
    """A long trial among short ones: a sweeper that waits for a batch would wait for it."""
    seconds = "0.5,0.05,0.06,0.07,0.08,0.51,0.09,0.1,0.11,0.12"
    sweep = program.start(
        TWO_WORKERS,
        "+callbacks.slow._target_=tests.sweep.faults.Slow",
        f"+callbacks.slow.seconds={seconds}",
    )
    assert sweep.wait() == 0, sweep.said()
    trials = program.trials(TrialState.COMPLETE)
    assert len(trials) == 10
    longest = max(_seconds(trial) for trial in trials)
    last_claim = max(_start(trial) for trial in trials)
    by_worker = defaultdict(list)
    for trial in sorted(trials, key=_start):
        by_worker[trial.user_attrs[WORKER]].append(trial)
    assert len(by_worker) == 2
    gaps = []
    for worker, own in by_worker.items():
        for before, after in itertools.pairwise(own):
            gaps.append(_start(after) - _end(before))
            print(f"{worker}: {gaps[-1]:.3f} s between trials {before.number} and {after.number}")
        # After its last trial there was nothing left to claim: the other was claiming the last.
        gaps.append(last_claim - _end(own[-1]))
    assert max(gaps) < 0.5 * longest


def _start(trial: FrozenTrial) -> float:
    assert trial.datetime_start is not None
    return trial.datetime_start.timestamp()


def _end(trial: FrozenTrial) -> float:
    assert trial.datetime_complete is not None
    return trial.datetime_complete.timestamp()


def _seconds(trial: FrozenTrial) -> float:
    return _end(trial) - _start(trial)


def test_sqlite_is_never_locked_under_eight_workers_and_a_dashboard(
    program: Program, folder: Path
) -> None:
    sweep = program.start(
        "hydra.sweeper.n_jobs=8",
        "hydra.sweeper.heartbeat=0.5",
        "hydra.sweeper.n_trials=40",
        "optimizer.lr=interval(1e-4,1e-2)",
        "trainer.val_check_interval=1",
        "callbacks.resume_point.every_seconds=0.2",
    )
    url = f"sqlite:///{folder}/multirun/studies.db"
    identifier = program.study._study_id
    port = free_port()
    dashboard = [sys.executable, "-m", "sweep.dashboard", "--port", str(port)]
    served = program.start_command(dashboard)
    looks: Counter[str] = Counter()
    wrong: list[Exception] = []
    done = threading.Event()

    def look_into_storage() -> None:
        optuna.load_study(study_name="s", storage=open_storage(url)).get_trials()

    def look_into_dashboard() -> None:
        address = f"http://127.0.0.1:{port}/api/studies/{identifier}"
        with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
            json.load(answer)

    def keep_looking(look: Callable[[], None]) -> None:
        while not done.wait(0.05):
            try:
                look()
                looks[look.__name__] += 1
            except Exception as error:
                # The dashboard may not be there yet, or be slow; neither is locked.
                reason = getattr(error, "reason", error)
                if not isinstance(reason, (ConnectionError, TimeoutError)):
                    wrong.append(error)

    looking = [
        threading.Thread(target=keep_looking, args=(look,))
        for look in (look_into_storage, look_into_dashboard)
    ]
    for thread in looking:
        thread.start()
    try:
        assert sweep.wait(400) == 0, sweep.said()
    finally:
        done.set()
        for thread in looking:
            thread.join(PATIENCE)
    served.send(signal.SIGINT)
    served.wait()
    print(dict(looks))
    assert not wrong, wrong[:3]
    assert looks["look_into_storage"] > 10
    assert looks["look_into_dashboard"] > 10
    assert "database is locked" not in program.said()
    assert "does not answer" not in program.said()
    # Nobody was kept from showing that it lives.
    assert "The sweep has ended" not in program.said()
    assert "waits again" not in program.said()
    program.assert_complete(40)
