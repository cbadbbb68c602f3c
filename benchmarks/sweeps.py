"""Whole sweeps, end to end, against the official sweeper: python benchmarks/sweeps.py

`-m student.qkv_layers=1,2,4` at 30 training and 5 validation batches of 32 x 128, processes and
imports included. The official sweeper drives the article's recipe (benchmarks/article_app.py); it
runs its 20 trials. In the same run, the recipe once for each point: in one process after the other
and, given a Python that has `ray[tune]` as well, by Ray Tune. Results go to
benchmarks/results/sweeps.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from machine import Table, description

HERE = Path(__file__).resolve().parent
OURS = [
    *("-m", "sweep", "-m", "study=s", "student.qkv_layers=1,2,4"),
    *("data.batch_size=32", "data.seq_length=128", "data.train_batches=30"),
    # One validation, at the end, as the article's recipe has it.
    *("data.valid_batches=5", "trainer.val_check_interval=1.0"),
    "trainer.enable_progress_bar=false",
]
OFFICIAL = [
    *(str(HERE / "article_app.py"), "-m", "hydra/sweeper=optuna"),
    "+qkv_layers=choice(1,2,4)",
]
GRID = [str(HERE / "article_app.py"), "-m", "+qkv_layers=1,2,4"]
RAY = [str(HERE / "article_ray.py")]
# Ray's workers look for the recipe; nothing is reported to anyone.
RAY_ENVIRONMENT = {"PYTHONPATH": str(HERE), "RAY_USAGE_STATS_ENABLED": "0"}


def seconds(arguments: list[str], python: str = sys.executable, **environment: str) -> float:
    """Wall time of Python with these arguments, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            [python, *arguments],
            cwd=folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        taken = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole sweeps against the official sweeper.")
    parser.add_argument("--rounds", type=int, default=1, help="ours before and after each of them")
    parser.add_argument("--ray", metavar="PYTHON", help="a Python with slicewise and ray[tune]")
    options = parser.parse_args()
    table = Table(
        "sweeps.md",
        "Whole sweeps, against the official sweeper",
        [
            f"`python benchmarks/sweeps.py`, {description()}.",
            "`-m student.qkv_layers=1,2,4`, MiniLM's layers 0 and 1, 30 training and 5 validation",
            "batches of 32 x 128; from the shell's prompt to the shell's prompt. Ours is timed",
            "before and after each of the others; all of it lies in *seconds*, its median in the",
            "ratios.",
        ],
        "what|trials|seconds|ours is faster by",
    )
    others: dict[str, tuple[int, Callable[[], float]]] = {
        "article's recipe, once for each point": (3, lambda: seconds(GRID)),
        "official sweeper, article's recipe": (20, lambda: seconds(OFFICIAL)),
    }
    if options.ray:
        others["Ray Tune's grid, article's recipe"] = (
            3,
            lambda: seconds(RAY, options.ray, **RAY_ENVIRONMENT),
        )
    ours = [seconds(OURS)]
    theirs: dict[str, list[float]] = {name: [] for name in others}
    for _ in range(options.rounds):
        for name, (_, run) in others.items():
            theirs[name].append(run())
            ours.append(seconds(OURS))
    table.add(["ours", "3", _range(ours), ""])
    for name, (trials, _) in others.items():
        ratio = statistics.median(theirs[name]) / statistics.median(ours)
        table.add([name, str(trials), _range(theirs[name]), f"{ratio:.1f}"])


def _range(times: list[float]) -> str:
    median = f"{statistics.median(times):.0f}"
    return median if len(times) == 1 else f"{median} ({min(times):.0f} to {max(times):.0f})"


if __name__ == "__main__":
    main()
