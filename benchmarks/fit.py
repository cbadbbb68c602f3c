"""What a training step costs, against the article's recipe: python benchmarks/fit.py

In one process, in turn, round after round: some steps of the article's recipe, of ours with the
teacher computed, and of ours with its outputs cached. Ours are Lightning fits as a sweep runs them,
with its data module, callbacks and logger. Figures are medians over all steps of all rounds but
each round's first two; results go to benchmarks/results/fit.md.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from article import recipe
from machine import Table, description
from pytorch_lightning.callbacks import Callback

from slicewise.data.noise import NoiseDataModule
from slicewise.distiller import Distiller
from slicewise.students.approx import ApproximateAttention
from slicewise.targets import CachedTargets, TargetStore
from slicewise.teacher import TeacherSlice, minilm, random_bert
from sweep.devices import native_precision
from sweep.metrics import MetricsFile
from sweep.resume import ResumePoint

BATCH, TOKENS = 32, 128
# The first step of a round allocates.
WARM_UP = 2


class Stopwatch(Callback):
    """The seconds of each training batch, from the end of the one before."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last = 0.0

    def on_train_start(self, *_: Any) -> None:
        self._last = self._now()

    def on_train_batch_end(self, *_: Any) -> None:
        now = self._now()
        self.seconds.append(now - self._last)
        self._last = now

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def article_steps(teacher: TeacherSlice, student: ApproximateAttention, steps: int) -> list[float]:
    """Seconds of each step of the article's recipe."""
    seconds, last = [], time.perf_counter()
    for _ in recipe(teacher, student, steps + WARM_UP, (BATCH, TOKENS, teacher.hidden_size)):
        now = Stopwatch._now()
        seconds.append(now - last)
        last = now
    return seconds[WARM_UP:]


def our_steps(
    teacher: TeacherSlice,
    student: ApproximateAttention,
    steps: int,
    precision: str,
    targets: CachedTargets | None,
    folder: str,
) -> list[float]:
    """Seconds of each step of ours."""
    watch = Stopwatch()
    data = NoiseDataModule(
        teacher.hidden_size, BATCH, TOKENS, train_batches=steps + WARM_UP, valid_batches=1
    )
    distiller = Distiller(
        teacher,
        student,
        TOKENS,
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=1e-4, fused=True),
        targets=targets,
    )
    trainer = lightning.Trainer(
        accelerator="auto",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=1,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        deterministic=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=MetricsFile(folder),
        callbacks=[watch, ResumePoint()],
        default_root_dir=folder,
    )
    trainer.fit(distiller, datamodule=data)
    return watch.seconds[WARM_UP:]


@contextmanager
def _cached(teacher: TeacherSlice, precision: str, steps: int) -> Iterator[CachedTargets]:
    """Targets that are all on disk already."""
    with tempfile.TemporaryDirectory() as folder:
        store = TargetStore(Path(folder), "fit", limit=10**11)
        writer = CachedTargets(lambda batch: teacher(*batch[:2]), store)
        student = ApproximateAttention(teacher.hidden_size)
        our_steps(teacher, student, steps, precision, writer, folder)
        writer._reader.shutdown(wait=True)
        reader = CachedTargets(_never, store)
        yield reader


def _never(batch: Any) -> torch.Tensor:
    raise AssertionError("the teacher was asked for a target that is on disk")


def compare(hidden_size: int, qkv_layers: int, rounds: int, steps: int) -> list[str]:
    """One row of the table."""
    teacher = (
        minilm()
        if hidden_size == 384
        else random_bert(hidden_size=hidden_size, num_hidden_layers=2)
    )
    precision = native_precision("auto")
    if torch.cuda.is_available():
        teacher = teacher.cuda()
    times: dict[str, list[float]] = {"article": [], "ours": [], "cached": []}

    def student() -> ApproximateAttention:
        made = ApproximateAttention(hidden_size, qkv_layers=qkv_layers)
        return made.cuda() if torch.cuda.is_available() else made

    with tempfile.TemporaryDirectory() as folder, _cached(teacher, precision, steps) as targets:
        for _ in range(rounds):
            times["article"] += article_steps(teacher, student(), steps)
            times["ours"] += our_steps(teacher, student(), steps, precision, None, folder)
            times["cached"] += our_steps(teacher, student(), steps, precision, targets, folder)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    cells = [f"{hidden_size}", f"{qkv_layers}"]
    for name, seconds in times.items():
        low, high = statistics.quantiles(seconds, n=10)[::8]
        cells.append(f"{1000 * medians[name]:.0f} ({1000 * low:.0f} to {1000 * high:.0f})")
    cells += [f"{medians['article'] / medians[name]:.2f}" for name in ("ours", "cached")]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description="What a training step costs.")
    parser.add_argument("--hidden", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--qkv-layers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each in a round")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    table = Table(
        "fit.md",
        "A training step, against the article's recipe",
        [
            f"`python benchmarks/fit.py`, {description()}; {native_precision('auto')} against the",
            f"article's fp32; batches of {BATCH} x {TOKENS}. Medians, and the range of the middle",
            f"80% of {options.rounds * options.steps} steps, in ms; ratios of medians.",
        ],
        "H|qkv_layers|article|ours|ours, targets cached|ratio|ratio, cached",
    )
    for hidden_size in options.hidden:
        for qkv_layers in options.qkv_layers:
            table.add(compare(hidden_size, qkv_layers, options.rounds, options.steps))


if __name__ == "__main__":
    main()
