"""Whole sweeps, end to end, against the official sweeper: python benchmarks/sweeps.py

`-m student.qkv_layers=1,2,4` at 30 training and 5 validation batches of 32 x 128, processes and
imports included. The official sweeper drives the article's recipe (benchmarks/article_app.py); it
runs its 20 trials. In the same run, the recipe once for each point: in one process after the other
and, given a Python that has `ray[tune]` as well, by Ray Tune. Results go to
benchmarks/results/sweeps.md.

On a GPU, `--gpu`: eight trials of 2,000 steps of `experiment=article` with bert-base's geometry,
one worker, against the article's loop, of which one trial is run and counted eight times; and where
a trial's time goes. Results go to benchmarks/results/sweeps_gpu.md. Without a GPU the same runs on
the CPU, with smaller numbers: --gpu --trials 2 --steps 20 --batch 4 --hidden 96
teacher.hidden_size=96 teacher.num_hidden_layers=2
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import optuna
import torch
from article import recipe
from clock import CLOCK_NAME
from machine import Table, description
from optuna.trial import FrozenTrial

from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import random_bert

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
        return seconds_in(folder, [python, *arguments], environment)


def seconds_in(folder: str, command: list[str], environment: dict[str, str]) -> float:
    """Wall time of a command in a folder."""
    started = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return time.perf_counter() - started


def eight_trials(trials: int, steps: int, overrides: list[str], workers: int = 1) -> list[str]:
    """A sweep of as many learning rates as there are trials, two epochs each."""
    rates = ",".join(f"{1e-3 * (1 + number / 10):.4g}" for number in range(trials))
    return [
        *("-m", "sweep", "-m", "study=s", "experiment=article", "teacher=random_bert"),
        *(f"optimizer.lr={rates}", f"data.train_batches={steps // 2}", "trainer.max_epochs=2"),
        *(f"hydra.sweeper.n_jobs={workers}", "trainer.enable_progress_bar=false"),
        "+callbacks.clock={_target_: clock.Clock, directory: '${hydra:runtime.output_dir}'}",
        *overrides,
    ]


def article_seconds(steps: int, size: tuple[int, int, int]) -> float:
    """Seconds of the article's loop on one student, bert-base's geometry."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    hidden_size = size[-1]
    teacher = random_bert(hidden_size=hidden_size, intermediate_size=4 * hidden_size).to(device)
    student = ApproximateAttention(hidden_size).to(device)
    warm_up = 3
    for step, _ in enumerate(recipe(teacher, student, steps + warm_up, size)):
        if step == warm_up - 1:
            started = time.perf_counter()
    return time.perf_counter() - started


class Course(NamedTuple):
    """Where the time of a sweep went, in seconds.

    Attributes:
        first: When the first step was taken, since the epoch.
        wholes: Of each trial.
        validating: Of each trial's validations.
        besides: Of each trial, what is neither a training step nor a validation.
        gaps: From one trial's end to the next one's beginning.
    """

    first: float
    wholes: list[float]
    validating: list[float]
    besides: list[float]
    gaps: list[float]

    @classmethod
    def of(cls, folder: Path) -> Course:
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/multirun/studies.db")
        trials = study.get_trials(deepcopy=False)
        paths = [folder / "multirun/s" / str(trial.number) / CLOCK_NAME for trial in trials]
        clocks = [json.loads(path.read_text()) for path in paths]
        wholes = [_times(trial)[1] - _times(trial)[0] for trial in trials]
        # With the last validation, which follows the last step.
        fits = [c["ended"] - c["began"] - c["between"] + c["validating"] for c in clocks]
        return cls(
            clocks[0]["began"],
            wholes,
            [clock["validating"] for clock in clocks],
            [whole - fit for whole, fit in zip(wholes, fits, strict=True)],
            [_times(after)[0] - _times(before)[1] for before, after in pairwise(trials)],
        )


def _times(trial: FrozenTrial) -> tuple[float, float]:
    assert trial.datetime_start is not None
    assert trial.datetime_complete is not None
    return trial.datetime_start.timestamp(), trial.datetime_complete.timestamp()


def on_gpu(trials: int, steps: int, overrides: list[str], size: tuple[int, int, int]) -> bool:
    """Eight trials end to end, against the article's loop; whether all of it could be measured."""
    environment = {"SLICEWISE_TRUSTED": "clock.*"}
    paths = [str(HERE), str(HERE.parent), str(HERE.parent / "src"), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = ":".join(path for path in paths if path)
    try:
        article = trials * 4 * article_seconds(steps // 4, size)
    except RuntimeError:
        # The rest may still be worth knowing.
        traceback.print_exc()
        article = math.nan
    table = Table(
        "sweeps_gpu.md",
        "Eight trials of 2,000 steps, against the article's loop",
        [
            f"`python benchmarks/sweeps.py --gpu`, {description()}.",
            f"`experiment=article teacher=random_bert`, {trials} learning rates, {steps} steps of",
            f"{' x '.join(map(str, size))} each, ten validations of ten batches, from the shell's",
            f"prompt to the shell's prompt; the article's loop takes {article:.1f} s for {trials}",
            "trials (a quarter of one was run), without validations. *Besides* is what of a",
            "trial is neither a training step nor a validation; of trials side by side it is not",
            "to be told from what the others take.",
        ],
        "what|seconds in all|article's loop / this|until the first step|a trial|steps a second|"
        "validations|besides|between two trials",
    )
    whole = not math.isnan(article)
    for name, added in [
        ("as it is, side by side", []),
        ("one after the other", ["hydra.sweeper.side_by_side=1"]),
        (
            "no cache",
            ["data.cache=off", "hydra.sweeper.n_trials=2", "hydra.sweeper.side_by_side=1"],
        ),
    ]:
        with tempfile.TemporaryDirectory() as folder:
            began = time.time()
            command = eight_trials(trials, steps, [*overrides, *added])
            try:
                taken = seconds_in(folder, [sys.executable, *command], environment)
                found = Course.of(Path(folder))
            except Exception:
                traceback.print_exc()
                whole = False
                continue
        done = len(found.wholes)
        cells = [
            f"{name}, {done} trials",
            f"{taken:.1f}",
            f"{article * done / trials / taken:.1f}",
            f"{found.first - began:.1f}",
        ]
        if not added:
            cells += [""] * 5
        else:
            cells += [
                _spread(found.wholes),
                f"{steps / statistics.median(found.wholes):.0f}",
                *map(_spread, (found.validating, found.besides, found.gaps)),
            ]
        table.add(cells)
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description="Whole sweeps against the official sweeper.")
    parser.add_argument("--rounds", type=int, default=1, help="ours before and after each of them")
    parser.add_argument("--ray", metavar="PYTHON", help="a Python with slicewise and ray[tune]")
    parser.add_argument("--gpu", action="store_true", help="eight trials on a GPU instead")
    parser.add_argument("--trials", type=int, default=8, help="of --gpu")
    parser.add_argument("--steps", type=int, default=2000, help="of --gpu, each trial's")
    parser.add_argument("--hidden", type=int, default=768, help="of --gpu, the article's loop's")
    parser.add_argument("--batch", type=int, default=32, help="of --gpu")
    parser.add_argument("overrides", nargs="*", help="of --gpu's sweeps")
    options = parser.parse_args()
    if options.gpu:
        size = (options.batch, 128, options.hidden)
        overrides = [f"data.batch_size={options.batch}", *options.overrides]
        if not on_gpu(options.trials, options.steps, overrides, size):
            sys.exit(1)
        return
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


def _spread(times: list[float]) -> str:
    """In hundredths of a second; the first trial's preparations are in the upper end."""
    if not times:
        return ""
    median = f"{statistics.median(times):.2f}"
    return median if len(times) == 1 else f"{median} ({min(times):.2f} to {max(times):.2f})"


if __name__ == "__main__":
    main()
