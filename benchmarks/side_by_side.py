"""Trials side by side, against one after the other: python benchmarks/side_by_side.py

Three students of different depth on the CPU, their teacher computed for each batch or its outputs
cached; results go to benchmarks/results/side_by_side.md.

On a GPU, `--gpu`: sixteen trials of 2,000 steps of the article's student, against the first layers
of a random BERT, 384 and 768 wide; results go to benchmarks/results/side_by_side_gpu.md. Further
rows are measured as long as that ends within `--limit` seconds. Without a GPU the same runs on the
CPU, with smaller numbers: --gpu --trials 3 --steps 20 --hidden 24 data.batch_size=4
data.seq_length=8

A sweep's time is that from its first trial's beginning to its last one's end: starting the process
and importing libraries is no part of it. Both ways give the same losses, of which the largest
difference is shown.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import optuna
import torch
from hydra.core.global_hydra import GlobalHydra
from machine import Table, description
from optuna.trial import TrialState

from sweep.__main__ import main as sweep_main
from sweep.study.storage import open_storage

CPU_COLUMNS = (
    "teacher|side by side|s|times as fast|s of the processor|times as cheap|difference of losses"
)
GPU_COLUMNS = (
    "H|teacher|side by side|s|of the time of one after the other|ms for each student's step|"
    "ms of the processor|difference of losses"
)


class Swept(NamedTuple):
    """What a sweep took, and came to.

    Attributes:
        seconds: From its first trial's beginning to its last one's end.
        processor: Seconds of the processor, which say more where others compute beside.
        losses: Of its trials, by their values.
    """

    seconds: float
    processor: float
    losses: dict[str, float]

    def difference(self, other: Swept) -> str:
        """The largest between two losses of the same values; 0 where they are the same digits."""
        assert self.losses.keys() == other.losses.keys()
        largest = max(abs(self.losses[key] - other.losses[key]) for key in self.losses)
        return f"{largest:.1g}"


@contextlib.contextmanager
def empty_folder() -> Iterator[None]:
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def swept(side_by_side: int, *overrides: str) -> Swept:
    """Runs a sweep in this process, in an empty folder."""
    said = io.StringIO()
    with empty_folder():
        sys.argv = [
            *("sweep", "-m", "study=s", "hydra/launcher=basic", "hydra/sweeper/sampler=grid"),
            *("hydra.sweeper.summary=false", f"hydra.sweeper.side_by_side={side_by_side}"),
            *("trainer.enable_progress_bar=false", *overrides),
        ]
        GlobalHydra.instance().clear()
        used = time.process_time()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = sweep_main()
        used = time.process_time() - used
        # Its log is closed, and its handlers write to what is no more.
        logging.root.handlers[:] = []
        study = optuna.load_study(
            study_name="s", storage=open_storage("sqlite:///multirun/studies.db")
        )
        trials = study.get_trials()
    if torch.cuda.is_available():
        # Most of it the teacher's outputs: the next sweep takes its share of what is free.
        torch.cuda.empty_cache()
    if code or not all(trial.state is TrialState.COMPLETE for trial in trials):
        raise RuntimeError(said.getvalue())
    began = min(trial.datetime_start for trial in trials if trial.datetime_start)
    ended = max(trial.datetime_complete for trial in trials if trial.datetime_complete)
    losses = {str(sorted(trial.params.items())): trial.values[0] for trial in trials}
    return Swept((ended - began).total_seconds(), used, losses)


def on_cpu(steps: int, rounds: int, overrides: list[str]) -> None:
    common = (
        *("student.qkv_layers=1,2,4", "trainer.accelerator=cpu"),
        *("data.batch_size=32", "data.seq_length=128", f"data.train_batches={steps}"),
        *("data.valid_batches=5", "trainer.val_check_interval=1.0"),
    )
    text = [
        "`python benchmarks/side_by_side.py`",
        f"{description()}. `-m student.qkv_layers=1,2,4`, {steps} steps and 5 validation batches "
        f"of 32 x 128 a trial, two layers of MiniLM; medians of {rounds} sweeps each, by turns.",
    ]
    table = Table("side_by_side.md", "Trials side by side", text, CPU_COLUMNS)
    swept(1, *common, *overrides, "data.train_batches=2", "data.valid_batches=1")
    for mode, teacher in (("off", "computed"), ("auto", "cached")):
        given = (*common, f"data.cache={mode}", *overrides)
        pairs = [(swept(3, *given), swept(1, *given)) for _ in range(rounds)]
        difference = pairs[0][0].difference(pairs[0][1])
        times: dict[str, list[float]] = {"3": [], "1": []}
        for number, sweeps in zip(times, zip(*pairs, strict=True), strict=True):
            times[number] = [
                statistics.median(one.seconds for one in sweeps),
                statistics.median(one.processor for one in sweeps),
            ]
        for number in ("1", "3"):
            cells = [teacher, number]
            for time_taken, alone in zip(times[number], times["1"], strict=True):
                cells += [f"{time_taken:.1f}", f"{alone / time_taken:.2f}"]
            table.add([*cells, "" if number == "1" else difference])


class OwnProcess:
    """Runs sweeps in one process besides this, and begins another after one that failed.

    CUDA may refuse a process all work after an error. What is measured is measured warm.

    Args:
        warm_up: Overrides of a sweep before anything is measured: all that a process does once.
    """

    def __init__(self, *warm_up: str) -> None:
        self._warm_up = warm_up
        self._pool: ProcessPoolExecutor | None = None

    def swept(self, side_by_side: int, *overrides: str) -> Swept:
        """As `swept`, there.

        Raises:
            Exception: It failed, or its process died.
        """
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"))
            self._pool.submit(swept, 1, *self._warm_up).result()
        try:
            return self._pool.submit(swept, side_by_side, *overrides).result()
        except Exception:
            self.end()
            raise

    def end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def on_gpu(trials: int, steps: int, widths: list[int], limit: float, overrides: list[str]) -> bool:
    """Whether all of it could be measured."""
    started = time.perf_counter()
    text = [
        "`python benchmarks/side_by_side.py --gpu`",
        f"{description()}. {trials} trials of {steps} steps of `experiment=article`, 32 x 128 "
        "tokens, against two layers of a random BERT; one worker.",
    ]
    table = Table("side_by_side_gpu.md", "Trials side by side on a GPU", text, GPU_COLUMNS)

    def given(width: int, mode: str, number: int = trials, *more: str) -> list[str]:
        rates = ",".join(f"{1e-3 * (1 + trial / 10):.4g}" for trial in range(number))
        return [
            *("experiment=article", "teacher=random_bert", f"teacher.hidden_size={width}"),
            *(f"teacher.intermediate_size={4 * width}", f"optimizer.lr={rates}"),
            *(f"data.train_batches={steps // 2}", f"data.cache={mode}", "data.cache_limit=32"),
            *(*overrides, *more),
        ]

    process, whole = OwnProcess(*given(widths[0], "auto", 2, "data.train_batches=50")), True
    alone: dict[tuple[int, str], Swept] = {}
    spent: dict[tuple[int, str, int], float] = {}
    courses = [(width, "auto", k) for width in widths for k in (1, 8)]
    courses += [(width, "off", k) for width in widths for k in (8, 1)]
    courses += [(width, "auto", 4) for width in widths]
    for width, mode, side_by_side in courses:
        # No longer than one after the other took at this width, a computed teacher a half more.
        expected = spent.get((width, "auto", 1), 0.0) * (1.0 if mode == "auto" else 1.5)
        wanted = mode == "auto" and side_by_side in (1, 8)
        if not wanted and time.perf_counter() - started + expected > limit:
            continue
        began = time.perf_counter()
        try:
            result = process.swept(side_by_side, *given(width, mode))
        except Exception:
            # The others may still be worth knowing.
            traceback.print_exc()
            whole = False
            continue
        key = (width, mode)
        spent[width, mode, side_by_side] = time.perf_counter() - began
        if side_by_side == 1:
            alone[key] = result
        one = alone.get(key)
        table.add(
            [
                str(width),
                "computed" if mode == "off" else "cached",
                str(side_by_side),
                f"{result.seconds:.1f}",
                "" if one is None else f"{result.seconds / one.seconds:.2f}",
                f"{1000 * result.seconds / (trials * steps):.3f}",
                f"{1000 * result.processor / (trials * steps):.3f}",
                "" if one is None or one is result else result.difference(one),
            ]
        )
    process.end()
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gpu", action="store_true", help="what only a GPU can show")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hidden", type=int, action="append", help="H; 384 and 768 unless given")
    parser.add_argument("--limit", type=float, default=225.0, help="seconds, of --gpu")
    options, overrides = parser.parse_known_args()
    if options.gpu:
        steps = options.steps or 2000
        widths = options.hidden or [384, 768]
        if not on_gpu(options.trials, steps, widths, options.limit, overrides):
            sys.exit(1)
    else:
        on_cpu(options.steps or 30, options.rounds, overrides)


if __name__ == "__main__":
    main()
