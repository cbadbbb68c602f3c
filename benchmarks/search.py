"""What a search finds for the steps that it spends: python benchmarks/search.py

Searches of 40 small but real fits in spaces of four and of eight keys: by the official sweeper, by
random, and by ours with each pruner, one worker, and with eight at a time. Every way has the same
seeds. Steps are those of the fits, as their records have them; a pruned fit has spent those before
it was pruned. The trials of random searches then say what could be known: how much the losses of a
fit's first steps tell of its last.

Results go to benchmarks/results/search.md and search_foretold.md after each seed. With --keep FILE
each search is kept in a file, and what is there already is not searched again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from machine import Table, description
from scipy.stats import spearmanr

ROOT = Path(__file__).resolve().parent.parent
STEPS, LONG = 40, 200
TINY = ["experiment=tiny", "trainer.accelerator=cpu", "trainer.max_epochs=1"]
VALIDATED = ["data.valid_batches=4", "trainer.val_check_interval=0.1"]
FIT = [*TINY, *VALIDATED, f"data.train_batches={STEPS}"]
# As most would train: longer, with a learning rate that falls.
FALLING = [*TINY, *VALIDATED, f"data.train_batches={LONG}", "scheduler=cosine"]
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
TRIALS = 40
SPACES = {"4 keys": FOUR, "8 keys": EIGHT}
# In one process: starting them is no part of what is measured here.
OFFICIAL = ["hydra/sweeper=optuna", "hydra/launcher=basic", "hydra.sweeper.n_jobs=1"]
OURS = ["study=s", "hydra.sweeper.n_jobs=1"]
# The first validation says little of how a fit ends, and half of them is enough to leave at a time.
THRIFTY = [
    *OURS,
    *("hydra.sweeper.sampler.multivariate=false", "hydra.sweeper.sampler.n_startup_trials=5"),
    "hydra/sweeper/pruner=successive_halving",
    *("hydra.sweeper.pruner.min_resource=8", "hydra.sweeper.pruner.reduction_factor=2"),
    *("hydra/sweeper/stop=steps", f"hydra.sweeper.n_trials={10 * TRIALS}"),
]
WAYS = {
    "official sweeper": OFFICIAL,
    "random": [*OURS, "hydra/sweeper/sampler=random"],
    "ours": OURS,
    "ours, univariate": [*OURS, "hydra.sweeper.sampler.multivariate=false"],
    "ours, median": [*OURS, "hydra/sweeper/pruner=median"],
    "ours, successive halving": [*OURS, "hydra/sweeper/pruner=successive_halving"],
    "ours, hyperband": [*OURS, "hydra/sweeper/pruner=hyperband"],
    # As many as the steps allow: what pruning is for.
    "ours, a third of the steps": [*THRIFTY, f"hydra.sweeper.stop.steps={TRIALS * STEPS // 3}"],
    "ours, all of the steps": [*THRIFTY, f"hydra.sweeper.stop.steps={TRIALS * STEPS}"],
    "ours, gp": [*OURS, "hydra/sweeper/sampler=gp"],
    "ours, eight workers": [*OURS[:1], "hydra.sweeper.n_jobs=8"],
}
# Which fits tell early how they end is another question.
LONGER = "random, longer fits"


class Ended(NamedTuple):
    """A trial: the steps that it took, its value where it is complete, its losses until then."""

    steps: int
    value: float | None
    curve: list[float]


class Course(NamedTuple):
    """The trials of a search in the order in which they ended."""

    trials: list[Ended]

    @property
    def steps(self) -> int:
        return sum(trial.steps for trial in self.trials)

    @property
    def best(self) -> float:
        return self.best_within(math.inf)

    def best_within(self, steps: float) -> float:
        """The best of the trials that had ended after so many steps."""
        spent, best = 0, math.inf
        for trial in self.trials:
            spent += trial.steps
            if spent <= steps and trial.value is not None:
                best = min(best, trial.value)
        return best


def search(overrides: list[str], fit: list[str], seed: int) -> Course:
    """Runs a search in a folder of its own."""
    command = [
        *(sys.executable, "-m", "sweep", "-m", *fit, f"hydra.sweeper.n_trials={TRIALS}"),
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
        records = list(Path(folder).glob("multirun/s/*/trial.json"))
        records.sort(key=lambda record: record.stat().st_mtime)
        return Course([_ended(record) for record in records])


def _ended(path: Path) -> Ended:
    record = json.loads(path.read_text())
    losses: list[float] = []
    if (metrics := path.with_name("metrics.csv")).exists():
        with metrics.open() as file:
            losses = [float(row["valid_l1"]) for row in csv.DictReader(file) if row["valid_l1"]]
    value = record["valid_l1"] if record["end"] == "complete" else None
    return Ended(record["steps"] or 0, value, losses)


class Searches:
    """All that were made, by what they were.

    Args:
        path: Where they are kept; None: nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[tuple[str, str, int], Course] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                space, way, seed, trials = json.loads(line)
                self._known[space, way, seed] = Course([Ended(*trial) for trial in trials])

    def of(self, space: str, way: str) -> dict[int, Course]:
        """Those of a way in a space, by their seeds."""
        return {key[2]: course for key, course in self._known.items() if key[:2] == (space, way)}

    def make(self, space: str, way: str, seed: int) -> None:
        """Makes one, unless it is there."""
        if (space, way, seed) in self._known:
            return
        fit, overrides = (FALLING, WAYS["random"]) if way == LONGER else (FIT, WAYS[way])
        course = search([*overrides, *SPACES[space]], fit, seed)
        self._known[space, way, seed] = course
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps([space, way, seed, course.trials]) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="What a search finds for the steps it spends.")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--spaces", nargs="*", default=list(SPACES), choices=list(SPACES))
    ways = [*WAYS, LONGER]
    parser.add_argument("--ways", nargs="*", default=ways, choices=ways)
    parser.add_argument("--keep", type=Path, help="a file of the searches that were made")
    options = parser.parse_args()
    searches = Searches(options.keep)
    for space in options.spaces:
        for seed in range(options.seeds):
            for way in options.ways:
                searches.make(space, way, seed)
            write_found(searches)
            write_foretold(searches)


def write_found(searches: Searches) -> None:
    """What each way has found so far."""
    third = TRIALS * STEPS / 3
    table = Table(
        "search.md",
        "What a search finds for the steps that it spends",
        [
            f"`python benchmarks/search.py`, {description()}.",
            f"{TRIALS} trials of {STEPS} steps each unless pruned, or as many as the steps allow;",
            "the lowest `valid_l1` found, mean (lowest to highest of the seeds). A third: of the",
            "steps of all trials of the official sweeper.",
        ],
        "space|way|seeds|best of all trials|steps, of the official sweeper's|best within a third|"
        "better there than the official sweeper's best of all, seeds",
    )
    for space in SPACES:
        official = searches.of(space, "official sweeper")
        for way in WAYS:
            courses = searches.of(space, way)
            if not courses:
                continue
            within = {seed: course.best_within(third) for seed, course in courses.items()}
            both = within.keys() & official.keys()
            better = sum(within[seed] <= official[seed].best for seed in both)
            spent = statistics.mean(course.steps for course in courses.values())
            table.add(
                [
                    *(space, way, str(len(courses))),
                    _spread([course.best for course in courses.values()]),
                    f"{spent / (3 * third):.2f}",
                    _spread(list(within.values())),
                    f"{better} of {len(both)}",
                ]
            )


def write_foretold(searches: Searches) -> None:
    """What the first losses of a fit tell of its last: all that a pruner can know."""
    table = Table(
        "search_foretold.md",
        "What the first losses of a fit tell of its last",
        [
            f"`python benchmarks/search.py`, {description()}.",
            f"Trials of searches that prune none: {STEPS} steps at a constant learning rate, or",
            f"{LONG} at one that falls (`scheduler=cosine`). Spearman's rank correlation of the",
            "losses after a share of the steps with those at the end, of all trials and of the",
            f"best 30% alone; how many of the {TRIALS} trials of a search were ahead then of that",
            "which was best in the end; and the least share of all steps for a search that goes on",
            "from there with no more trials than it must to keep that one: as with a pruner of one",
            "rung that knew beforehand how strict it may be.",
        ],
        "space|search|steps|trials|after|correlation, all|correlation, best 30%|"
        "ahead: mean, most|steps to keep the best: mean, most",
    )
    for space in SPACES:
        for way, steps in (("official sweeper", STEPS), ("random", STEPS), (LONGER, LONG)):
            courses = list(searches.of(space, way).values())
            for row in _foretold(courses) if courses else []:
                table.add([space, way, str(steps), *row])


def _foretold(courses: Sequence[Course]) -> list[list[str]]:
    """For some of the validations, how much they tell of the end."""
    complete = [[t for t in course.trials if t.value is not None] for course in courses]
    trials = [trial for course in complete for trial in course]
    values = [trial.value or 0.0 for trial in trials]
    good = sorted(range(len(trials)), key=values.__getitem__)[: round(0.3 * len(trials))]
    rows = []
    for at in (0, 1, 2, 4, 6, 8):
        losses = [trial.curve[at] for trial in trials]
        ahead = [_ahead(course, at) for course in complete]
        share = (at + 1) / 10
        kept = [(number + 1) / TRIALS for number in ahead]
        needed = [share + (1 - share) * one for one in kept]
        rows.append(
            [
                *(str(len(trials)), f"{share:.0%}"),
                f"{spearmanr(losses, values)[0]:.2f}",
                f"{spearmanr([losses[i] for i in good], [values[i] for i in good])[0]:.2f}",
                f"{statistics.mean(ahead):.1f}, {max(ahead)}",
                f"{statistics.mean(needed):.2f}, {max(needed):.2f}",
            ]
        )
    return rows


def _ahead(trials: Sequence[Ended], at: int) -> int:
    """How many trials were better there than the one that was best in the end."""
    best = min(trials, key=lambda trial: trial.value or math.inf)
    return sum(trial.curve[at] < best.curve[at] for trial in trials)


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
