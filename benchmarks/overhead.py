"""What a sweep costs per trial besides the fit: python benchmarks/overhead.py [--full]

Ask, compose, directories, run, tell: whole sweeps over a function that costs nothing, timed by the
storage's own timestamps from the first trial's start to the last one's end, so that starting
processes is left out. Beside them, in the same run, the official sweeper with one job at a time,
and the floor of any sweeper between Hydra and Optuna (benchmarks/floor.py).

--storage adds a server, such as postgresql+psycopg://postgres@127.0.0.1/bench; results go to
benchmarks/results/overhead.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import optuna
from optuna.trial import TrialState

from sweep.devices import cpu_count
from sweep.trial.provenance import package_versions

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "overhead.md"
FLOOR = "ask, run_job, tell"


@dataclass
class Case:
    """One sweep."""

    sweeper: str
    storage: str
    workers: int
    trials: int


def cases(full: bool, server: str | None) -> list[Case]:
    """What is run: growth with one worker, then many workers, then the official sweeper."""
    sizes = [100, 1000, 10_000] if full else [100, 1000]
    storages = ["sqlite", *(["server"] if server else [])]
    chosen = [Case("optuna_workers", s, 1, n) for s in storages for n in sizes]
    many = [2, 8, 32] if full else [2]
    chosen += [Case("optuna_workers", s, w, 1000) for s in storages for w in many]
    chosen += [
        Case(other, s, 1, n) for other in ("optuna", FLOOR) for s in storages for n in (100, 1000)
    ]
    return chosen


def milliseconds_per_trial(case: Case, server: str | None) -> float:
    """Runs one sweep in an empty folder."""
    sweeper = case.sweeper.replace(", ", "-")
    name = f"{sweeper}-{case.workers}-{case.trials}-{os.getpid()}"
    with tempfile.TemporaryDirectory() as folder:
        url = server if case.storage == "server" else f"sqlite:///{folder}/studies.db"
        assert url is not None
        command = [
            sys.executable,
            str(ROOT / "noop.py"),
            "-m",
            "+x=interval(0,1)",
            f"hydra/sweeper={case.sweeper}",
            "hydra/sweeper/sampler=random",
            f"hydra/launcher={'basic' if case.workers == 1 else 'local'}",
            f"hydra.sweeper.n_jobs={case.workers}",
            f"hydra.sweeper.n_trials={case.trials}",
            f"hydra.sweeper.storage={url}",
            f"hydra.sweeper.study_name={name}",
            "hydra.sweep.dir=multirun",
        ]
        if case.sweeper == FLOOR:
            command = [sys.executable, str(ROOT / "floor.py"), url, name, str(case.trials)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
        trials = optuna.load_study(study_name=name, storage=url).get_trials(deepcopy=False)
    done = [t for t in trials if t.state is TrialState.COMPLETE]
    assert len(done) == case.trials, (case, len(done))
    starts = [t.datetime_start for t in done if t.datetime_start]
    ends = [t.datetime_complete for t in done if t.datetime_complete]
    return 1000 * (max(ends) - min(starts)).total_seconds() / case.trials


def main() -> None:
    parser = argparse.ArgumentParser(description="What a sweep costs per trial besides the fit.")
    parser.add_argument("--full", action="store_true", help="10,000 trials and 32 workers too")
    parser.add_argument("--storage", help="URL of a database server")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    versions = package_versions()
    lines = [
        "# Overhead per trial of a sweep",
        "",
        f"`python benchmarks/overhead.py`, {date.today()}, {cpu_count()} CPU cores, "
        f"Python {versions['python']}, optuna {versions['optuna']}, "
        f"hydra {versions['hydra-core']}.",
        "A function that costs nothing; from the first trial's start to the last one's end,",
        "divided by the number of trials. More workers than cores share the cores.",
        "",
        "| sweeper | storage | workers | trials | ms per trial |",
        "| --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    for case in cases(options.full, options.storage):
        cost = milliseconds_per_trial(case, options.storage)
        storage = options.storage.partition("+")[0] if case.storage == "server" else "sqlite"
        row = f"| {case.sweeper} | {storage} | {case.workers} | {case.trials:,} | {cost:.1f} |"
        print(row, flush=True)
        lines.append(row)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
