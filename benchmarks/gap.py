"""What lies between two trials of a warm worker: python benchmarks/gap.py

A sweep over students of different shapes, one worker. From one trial's last step to the next one's
first: what still belongs to the trial (the last validation, the comparison on text), and the rest
(saving, telling, claiming, composing, building and measuring the next student), which is what a
sweep costs. Results go to benchmarks/results/gap.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from clock import CLOCK_NAME
from machine import Table, description

HERE = Path(__file__).resolve().parent
SWEEP = [
    *("-m", "sweep", "-m", "study=s", "student.qkv_layers=1,2,4", "student.value_dim=96,192,384"),
    *("data.train_batches=8", "trainer.val_check_interval=8", "data.valid_batches=2"),
    *("trainer.enable_progress_bar=false", "hydra/launcher=basic"),
    "+callbacks.clock={_target_: clock.Clock, directory: '${hydra:runtime.output_dir}'}",
]
# The first trials load the teacher, the sentences and the original model.
WARM_UP = 2


def gaps(folder: Path) -> tuple[list[float], list[float]]:
    """Seconds between trials that belong to the one before, and those that belong to neither."""
    environment = {
        **os.environ,
        "SLICEWISE_TRUSTED": "clock.*",
        "PYTHONPATH": str(HERE),
    }
    done = subprocess.run(
        [sys.executable, *SWEEP], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    directories = sorted(folder.glob("multirun/s/[0-9]*"), key=lambda path: int(path.name))
    clocks = [json.loads((path / CLOCK_NAME).read_text()) for path in directories]
    # Written when nothing of the trial is left to do but to tell it.
    finished = [(path / "trial.json").stat().st_mtime for path in directories]
    own, between = [], []
    for (before, end), (after, _) in pairwise(zip(clocks, finished, strict=True)):
        own.append(end - before["ended"])
        between.append(after["began"] - end)
    return own[WARM_UP:], between[WARM_UP:]


def main() -> None:
    argparse.ArgumentParser(description="What lies between two trials.").parse_args()
    table = Table(
        "gap.md",
        "Between two trials of a warm worker",
        [
            f"`python benchmarks/gap.py`, {description()}.",
            "MiniLM's layers 0 and 1, the article's student in nine shapes, SQLite; medians of six",
            "gaps, and their range, in ms.",
        ],
        "from one trial's last step to the next one's first|ms",
    )
    with tempfile.TemporaryDirectory() as folder:
        own, between = gaps(Path(folder))
    for name, seconds in [
        ("validation (2 batches of 8 x 128), comparison on text, the student on disk", own),
        ("telling, claiming, composing, building and measuring the next student", between),
    ]:
        low, middle, high = (
            1000 * s for s in (min(seconds), statistics.median(seconds), max(seconds))
        )
        table.add([name, f"{middle:.0f} ({low:.0f} to {high:.0f})"])


if __name__ == "__main__":
    main()
