"""What a training step costs, against the article's recipe: python benchmarks/fit.py

In one process, in turn, round after round: some steps of the article's recipe, of ours with the
teacher computed, and of ours with its outputs cached; on a GPU also of ours compiled. Ours are
Lightning fits as a sweep runs them, with its data module, callbacks and logger. Figures are medians
over all steps of all rounds but each round's first ones (on a GPU, which is not waited for after
each step, over the rounds' means); results go to benchmarks/results/fit.md, or fit_gpu.md.
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
from slicewise.steps import new_distiller
from slicewise.students.approx import ApproximateAttention
from slicewise.targets import CachedTargets, TargetStore
from slicewise.teacher import TeacherSlice, minilm, random_bert
from sweep.devices import native_precision
from sweep.trial.metrics_file import MetricsFile
from sweep.trial.resume import ResumePoint

BATCH, TOKENS = 32, 128
ON_GPU = torch.cuda.is_available()
# The first step of a round allocates; a GPU records its graph in the fourth.
WARM_UP = 32 if ON_GPU else 2


class Stopwatch(Callback):
    """The seconds of each training step.

    A GPU is waited for after the warm-up and at the end; all its steps have the mean.
    """

    once_for_several_steps = True

    def __init__(self, steps: int) -> None:
        self.seconds: list[float] = []
        self._steps = steps
        self._step, self._last = 0, 0.0

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        step = trainer.global_step
        if step < WARM_UP or (ON_GPU and self._step and step < self._steps):
            return
        if ON_GPU:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self._step:
            taken = step - self._step
            self.seconds += [(now - self._last) / taken] * (1 if ON_GPU else taken)
        self._step, self._last = step, now


def article_steps(teacher: TeacherSlice, student: ApproximateAttention, steps: int) -> list[float]:
    """Seconds of each step of the article's recipe, which waits for its loss."""
    warm_up, seconds, last = 2, [], time.perf_counter()
    for _ in recipe(teacher, student, steps + warm_up, (BATCH, TOKENS, teacher.hidden_size)):
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    return seconds[warm_up:]


def our_steps(
    teacher: TeacherSlice,
    student: ApproximateAttention,
    steps: int,
    precision: str,
    targets: CachedTargets | None,
    folder: str,
    compiled: bool = False,
    at_once: int | str = "auto",
) -> list[float]:
    """Seconds of each step of ours."""
    total = steps + WARM_UP
    watch = Stopwatch(total)
    data = NoiseDataModule(teacher.hidden_size, BATCH, TOKENS, train_batches=total, valid_batches=1)
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
    distiller = new_distiller(
        trainer,
        data,
        teacher,
        student,
        TOKENS,
        optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=1e-4, fused=True),
        targets=targets,
        compile=compiled,
        at_once=at_once,
    )
    trainer.fit(distiller, datamodule=data)
    return watch.seconds


@contextmanager
def cached_targets(teacher: TeacherSlice, precision: str, steps: int) -> Iterator[CachedTargets]:
    """Targets that are all there already: on disk, those of a GPU in its memory."""
    with tempfile.TemporaryDirectory() as folder:
        store = None if ON_GPU else TargetStore(Path(folder), "fit", limit=10**11)
        memory_limit = 10**11 if ON_GPU else 0
        targets = CachedTargets(lambda batch: teacher(*batch[:2]), store, memory_limit)
        student = ApproximateAttention(teacher.hidden_size)
        our_steps(teacher, student, steps, precision, targets, folder)
        targets._reader.shutdown(wait=True)
        known = targets.computed
        yield CachedTargets(_never, store) if store is not None else targets
        assert targets.computed == known


def _never(batch: Any) -> torch.Tensor:
    raise AssertionError("the teacher was asked for a target that is on disk")


def new_teacher(hidden_size: int) -> TeacherSlice:
    """MiniLM's first layers where they have that width, else random ones of BERT's shape."""
    if hidden_size == 384 and not ON_GPU:
        return minilm()
    return random_bert(
        hidden_size=hidden_size, num_hidden_layers=2, intermediate_size=4 * hidden_size
    )


def compare(hidden_size: int, qkv_layers: int, rounds: int, steps: int) -> list[str]:
    """One row of the table."""
    teacher = new_teacher(hidden_size)
    precision = native_precision("auto")
    device = "cuda" if ON_GPU else "cpu"
    teacher.to(device)

    def student() -> ApproximateAttention:
        return ApproximateAttention(hidden_size, qkv_layers=qkv_layers).to(device)

    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with (
        tempfile.TemporaryDirectory() as folder,
        cached_targets(teacher, precision, steps) as targets,
    ):
        for number in range(rounds):
            for name, seconds in times.items():
                known = targets if "cached" in name else None
                compiled = "compiled" in name
                if name == "article":
                    seconds += article_steps(teacher, student(), 20 if ON_GPU else steps)
                    continue
                if compiled and number == 0:
                    our_steps(teacher, student(), steps, precision, known, folder, compiled)
                seconds += our_steps(teacher, student(), steps, precision, known, folder, compiled)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    cells = [f"{hidden_size}", f"{qkv_layers}"]
    for name, seconds in times.items():
        low, high = statistics.quantiles(seconds, n=10)[::8]
        cells.append(f"{_ms(medians[name])} ({_ms(low)} to {_ms(high)})")
    return cells + [f"{medians['article'] / medians[name]:.2f}" for name in VARIANTS[1:]]


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}" if ON_GPU else f"{1000 * seconds:.0f}"


VARIANTS = ["article", "ours", "ours, cached"]
if ON_GPU:
    VARIANTS += ["ours, compiled", "ours, compiled, cached"]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a training step costs.")
    parser.add_argument("--hidden", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--qkv-layers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument(
        "--steps", type=int, default=512 if ON_GPU else 6, help="timed steps of each in a round"
    )
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    spread = (
        f"range of the middle 80% of {options.rounds * options.steps} steps"
        if not ON_GPU
        else f"range of {options.rounds} rounds of {options.steps} steps (article: 20)"
    )
    table = Table(
        "fit_gpu.md" if ON_GPU else "fit.md",
        "A training step, against the article's recipe",
        [
            f"`python benchmarks/fit.py`, {description()}; {native_precision('auto')} against the",
            f"article's fp32; batches of {BATCH} x {TOKENS}. Medians and {spread}, in ms;",
            "ratios of medians.",
        ],
        "|".join(["H", "qkv_layers", *VARIANTS, *(f"article / {name}" for name in VARIANTS[1:])]),
    )
    for hidden_size in options.hidden:
        for qkv_layers in options.qkv_layers:
            table.add(compare(hidden_size, qkv_layers, options.rounds, options.steps))


if __name__ == "__main__":
    main()
