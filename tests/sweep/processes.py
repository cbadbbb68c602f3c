"""Sweeps in processes of their own, to be killed: and what can be seen of them from outside."""

from __future__ import annotations

import csv
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from slicewise import load_student
from sweep.study.attributes import WORKER
from sweep.study.presence import Heartbeat, process_is_gone, read_heartbeats
from sweep.study.storage import open_storage
from sweep.trial.checkpoint import CHECKPOINT
from tests.sweep import faults
from tests.waiting import PATIENCE, eventually

_MARK = "SLICEWISE_TEST"


class Program:
    """`python -m sweep -m study=s experiment=tiny ...` in a folder, as often as it takes.

    Args:
        folder: Where it runs.
        storage: URL of its studies.
    """

    def __init__(self, folder: Path, storage: str = "sqlite:///multirun/studies.db") -> None:
        self.folder = folder
        self.storage = storage
        self.started: list[Running] = []
        self._mark = secrets.token_hex(8)
        self._study: optuna.Study | None = None

    def start(self, *arguments: str) -> Running:
        """Starts it; one more on the same study where one is running."""
        storage = f"hydra.sweeper.storage={self.storage}"
        given = ("-m", "study=s", "experiment=tiny", storage, *arguments)
        return self.start_command([sys.executable, "-m", "sweep", *given])

    def start_command(self, command: Sequence[str]) -> Running:
        binaries = Path(sys.executable).parent
        env = {
            **os.environ,
            _MARK: self._mark,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "SLICEWISE_TRUSTED": faults.TRUSTED,
            "OMP_NUM_THREADS": "1",
        }
        self.started.append(Running(command, self.folder, env, len(self.started)))
        return self.started[-1]

    def processes(self) -> list[int]:
        """All that it has started, and they, and that are still there."""
        mark = f"{_MARK}={self._mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def end(self) -> None:
        """Kills whatever is left."""
        while left := self.processes():
            for pid in left:
                signal_process(pid, signal.SIGKILL)
            for running in self.started:
                running.process.poll()
            time.sleep(0.02)

    @property
    def study(self) -> optuna.Study:
        """As the storage has it; opened when the sweep has made it."""
        if self._study is None:
            eventually((self.folder / "multirun/s/workers").exists, "the first worker")
            storage = open_storage(self.storage.replace(":///", f":///{self.folder}/"))
            self._study = optuna.load_study(study_name="s", storage=storage)
        return self._study

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def finished(self) -> int:
        return len(self.trials(TrialState.COMPLETE, TrialState.PRUNED))

    def workers(self) -> dict[str, Heartbeat]:
        """Those that live, by name."""
        signs = read_heartbeats(self.study, "worker")
        return {
            name: sign
            for name, sign in signs.items()
            if sign.state == "alive" and not process_is_gone(sign)
        }

    def directory(self, trial: FrozenTrial | int) -> Path:
        number = trial if isinstance(trial, int) else trial.number
        return self.folder / "multirun" / "s" / str(number)

    def record(self, trial: FrozenTrial | int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory(trial) / "trial.json").read_text())
        return found

    def assert_complete(self, n_trials: int) -> None:
        """Exactly so many trials, no point twice, each whole: on disk as in the storage."""
        trials = self.trials()
        assert [trial.number for trial in trials] == list(range(n_trials))
        assert len({json.dumps(trial.params, sort_keys=True) for trial in trials}) == n_trials
        for trial in trials:
            assert trial.state is TrialState.COMPLETE
            record, place = self.record(trial), self.directory(trial)
            assert (record["number"], record["state"]) == (trial.number, "COMPLETE")
            assert record["params"] == trial.params
            assert record["values"] == trial.values
            seeds = record["seeds"] or {}
            folders = {f"seed_{seed}" for seed in seeds} or {"metrics.csv"}
            found = {path.name for path in place.iterdir()}
            assert found == {".hydra", "student", "sweep.log", "trial.json"} | folders
            for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
                assert (place / ".hydra" / name).stat().st_size > 0
            student = load_student(place / "student")
            assert sum(p.numel() for p in student.parameters()) == record["student_parameters"]
            fits = [place / f"seed_{seed}" for seed in seeds] or [place]
            if seeds:
                assert trial.values == [statistics.fmean(value for [value] in seeds.values())]
            for fit in fits:
                if seeds:
                    left = {path.name for path in fit.iterdir()}
                    assert left == {"fit.json", "metrics.csv", "student"}
                # No validation is missing, none is there twice.
                with (fit / "metrics.csv").open(newline="") as file:
                    rows = [row for row in csv.DictReader(file) if row["valid_l1"]]
                steps = [int(row["step"]) + 1 for row in rows]
                assert steps == sorted(trial.intermediate_values)
                assert steps[-1] == record["steps"]
        directories = (self.folder / "multirun" / "s").glob("[0-9]*")
        assert len(list(directories)) == n_trials

    def with_checkpoints(self) -> list[FrozenTrial]:
        """The running trials that could go on from a checkpoint, each with a living worker."""
        workers = self.workers()
        return [
            trial
            for trial in self.trials(TrialState.RUNNING)
            if trial.user_attrs.get(WORKER) in workers
            and (self.directory(trial) / CHECKPOINT).exists()
        ]

    def resumed_from(self, trial: FrozenTrial | int) -> list[int]:
        """The steps from which a trial went on, out of its log."""
        log = (self.directory(trial) / "sweep.log").read_text()
        return [int(line.split()[-1]) for line in log.splitlines() if "Going on from step" in line]

    def said(self) -> str:
        """All that any of its processes printed or logged."""
        outputs = [running.output for running in self.started]
        logs = [*(self.folder / "multirun/s").rglob("*.log")]
        return "\n".join(path.read_text(errors="replace") for path in [*outputs, *logs])


class Running:
    """One process of the program, with what it starts.

    Args:
        command: What it runs.
        folder: Where.
        env: Its environment.
        number: Tells its output from others'.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, env: dict[str, str], number: int
    ) -> None:
        self.output = folder / f"output-{number}.txt"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code, negative for a signal."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it still runs; it said:\n{self.said()}") from None

    def said(self) -> str:
        return self.output.read_text(errors="replace")


def signal_process(pid: int, number: signal.Signals) -> None:
    """Sends a signal to a process, which may have ended by itself."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
