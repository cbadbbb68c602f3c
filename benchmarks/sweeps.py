"""Whole sweeps, end to end, against the official sweeper: python benchmarks/sweeps.py

`-m student.qkv_layers=1,2,4` at 30 training and 5 validation batches of 32 x 128, processes and
imports included. The official sweeper drives the article's recipe (benchmarks/article_app.py); it
runs its 20 trials. In the same run, the recipe once for each point, as a grid search would have it.
Results go to benchmarks/results/sweeps.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
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


def seconds(arguments: list[str]) -> tuple[float, Path]:
    """Runs Python in an empty folder; its wall time, and the folder."""
    folder = Path(tempfile.mkdtemp())
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return time.perf_counter() - started, folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole sweeps against the official sweeper.")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table(
        "sweeps.md",
        "Whole sweeps, against the official sweeper",
        [
            f"`python benchmarks/sweeps.py`, {description()}.",
            "`-m student.qkv_layers=1,2,4`, MiniLM's layers 0 and 1, 30 training and 5 validation",
            "batches of 32 x 128; from the shell's prompt to the shell's prompt.",
        ],
        "what|trials|seconds|ours is faster by",
    )
    for _ in range(options.rounds):
        ours, _ = seconds(OURS)
        table.add(["ours", "3", f"{ours:.0f}", ""])
        grid, _ = seconds(GRID)
        table.add(
            ["article's recipe, once for each point", "3", f"{grid:.0f}", f"{grid / ours:.1f}"]
        )
        official, _ = seconds(OFFICIAL)
        ratio = f"{official / ours:.1f}"
        table.add(["official sweeper, article's recipe", "20", f"{official:.0f}", ratio])


if __name__ == "__main__":
    main()
