"""What a search finds for the steps that it spends: python benchmarks/search.py

Searches of 40 small but real fits in spaces of four and of eight keys: by the official sweeper, by
random, and by ours with each pruner, one worker, and with eight at a time. Every way has the same
seeds. Steps are those of the fits, as their records have them; a pruned fit has spent those before
it was pruned. Results go to benchmarks/results/search.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from machine import Table, description

ROOT = Path(__file__).resolve().parent.parent
FIT = [
    *("experiment=tiny", "trainer.accelerator=cpu", "trainer.max_epochs=1"),
    *("data.train_batches=40", "data.valid_batches=4", "trainer.val_check_interval=0.1"),
]
FOUR = [
    "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "student.dropout=interval(0,0.4)",
    "student.qkv_layers=range(0,5)",
    "student.attention_hidden_size=choice(2,4,8,16)",
]
EIGHT = [
    *FOUR,
    "student.value_dim=choice(6,12,24,48)",
    "optimizer.weight_decay=tag(log,interval(1e-5,1e-1))",
    "student.layer_norm_eps=tag(log,interval(1e-12,1e-1))",
    "trainer.gradient_clip_val=tag(log,interval(0.01,10))",
]
MORE_TRIALS = 80
SPACES = {"4 keys": FOUR, "8 keys": EIGHT}
# In one process: starting them is no part of what is measured here.
OFFICIAL = ["hydra/sweeper=optuna", "hydra/launcher=basic", "hydra.sweeper.n_jobs=1"]
OURS = ["study=s", "hydra.sweeper.n_jobs=1"]
WAYS = {
    "official sweeper": OFFICIAL,
    "random": [*OURS, "hydra/sweeper/sampler=random"],
    "ours": OURS,
    "ours, median": [*OURS, "hydra/sweeper/pruner=median"],
    "ours, successive halving": [*OURS, "hydra/sweeper/pruner=successive_halving"],
    "ours, hyperband": [*OURS, "hydra/sweeper/pruner=hyperband"],
    # As many as the steps allow: what pruning is for.
    "ours, successive halving, more trials": [
        *OURS,
        "hydra/sweeper/pruner=successive_halving",
        f"hydra.sweeper.n_trials={MORE_TRIALS}",
    ],
    "ours, gp": [*OURS, "hydra/sweeper/sampler=gp"],
    "ours, eight workers": [*OURS[:1], "hydra.sweeper.n_jobs=8"],
}


class Course(NamedTuple):
    """The trials of a search in the order in which they ended: steps spent so far, best so far."""

    steps: list[int]
    best: list[float]

    def best_within(self, steps: float) -> float:
        """The best of the trials that had ended after so many steps."""
        return min(
            (best for spent, best in zip(self.steps, self.best, strict=True) if spent <= steps),
            default=float("inf"),
        )


def search(overrides: list[str], trials: int, seed: int) -> Course:
    """Runs a search in a folder of its own."""
    command = [
        *(sys.executable, "-m", "sweep", "-m", *FIT, f"hydra.sweeper.n_trials={trials}"),
        *(*overrides, f"hydra.sweeper.sampler.seed={seed}"),
        "hydra.sweep.dir=multirun/s",
    ]
    path = f"{ROOT}:{ROOT / 'src'}"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        files = Path(folder).glob("multirun/s/*/trial.json")
        ended = sorted((path.stat().st_mtime, json.loads(path.read_text())) for path in files)
    spent, best, course = 0, float("inf"), Course([], [])
    for _, record in ended:
        spent += record["steps"] or 0
        if record["end"] == "complete":
            best = min(best, record["valid_l1"])
        course.steps.append(spent)
        course.best.append(best)
    return course


def main() -> None:
    parser = argparse.ArgumentParser(description="What a search finds for the steps it spends.")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    options = parser.parse_args()
    seeds = range(options.seeds)
    table = Table(
        "search.md",
        "What a search finds for the steps that it spends",
        [
            f"`python benchmarks/search.py`, {description()}.",
            f"{options.trials} trials of 40 steps each unless pruned, {options.seeds} seeds",
            "of the sampler; the lowest `valid_l1` found, mean (lowest to highest of the seeds). A",
            "third is a third of the steps that the official sweeper spends on all of its trials.",
        ],
        "space|way|best of all trials|steps, of the official sweeper's|best within a third|"
        "better there than the official sweeper's best of all, seeds",
    )
    for space, keys in SPACES.items():
        official = [search([*OFFICIAL, *keys], options.trials, seed) for seed in seeds]
        third = statistics.mean(course.steps[-1] for course in official) / 3
        for way in options.ways:
            courses = official
            if way != "official sweeper":
                courses = [search([*WAYS[way], *keys], options.trials, seed) for seed in seeds]
            within = [course.best_within(third) for course in courses]
            better = sum(
                ours <= theirs.best[-1] for ours, theirs in zip(within, official, strict=True)
            )
            spent = statistics.mean(course.steps[-1] for course in courses)
            table.add(
                [
                    space,
                    way,
                    _spread([course.best[-1] for course in courses]),
                    f"{spent / (3 * third):.2f}",
                    _spread(within),
                    f"{better} of {options.seeds}",
                ]
            )


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
