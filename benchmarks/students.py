"""Which students win, on noise and on text: python benchmarks/students.py

At the article's parameter budget and equal steps: the article's recipe, and each family with its
own recipe, against layers 0 and 1 of MiniLM, trained on noise and on text. In one temporary folder,
so that the teacher's outputs are computed once. Results go to benchmarks/results/students.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import Table, description

# The article's student at H=384 with its defaults.
BUDGET = 1_405_632
ARTICLE = ("student=approx", "optimizer=adamw", "optimizer.lr=1e-3", "scheduler=constant")
TEACHER_INIT = "student.init=teacher"
WITHOUT_DROPOUT = "student.dropout=0"
RECIPE = ("scheduler=one_cycle", "optimizer.lr=2e-3")
STUDENTS: dict[str, tuple[str, ...]] = {
    "article's student, article's recipe": ARTICLE,
    "article's student, no dropout, one cycle": (
        *("student=approx", WITHOUT_DROPOUT, "scheduler=one_cycle", "optimizer.lr=3e-3"),
    ),
    "article's attention and a feed-forward block": (
        *("student=approx_ffn", "student.qkv_layers=0", "student.intermediate_size=1248"),
        *(TEACHER_INIT, *RECIPE),
    ),
    "one BERT layer, random": (
        *("student=bert_layer", "student.intermediate_size=1056", "student.init=random"),
        *RECIPE,
    ),
    "one BERT layer, from the teacher": (
        *("student=bert_layer", "student.intermediate_size=1056", TEACHER_INIT, *RECIPE),
    ),
    "one BERT layer, from the teacher, half the size": (
        *("student=bert_layer", "student.intermediate_size=140", TEACHER_INIT, *RECIPE),
    ),
    "the teacher's layers at low rank": (
        *("student=low_rank", "student.rank=100", TEACHER_INIT, *RECIPE),
    ),
    "one affine map, no training": ("student=linear",),
    "the original slice": ("student=original",),
}
DATA = {
    "noise": ("data=noise", "data.batch_size=32", "data.seq_length=128"),
    # As many tokens a step; most sentences are shorter than 32.
    "text": ("data=text", "data.batch_size=128", "data.seq_length=32"),
}


def fit(folder: Path, number: int, data: str, steps: int, student: tuple[str, ...]) -> Any:
    """Runs one student and returns its record."""
    command = [
        *(sys.executable, "-m", "sweep", "-m", f"study={data}-{number}", *student, *DATA[data]),
        *(f"data.train_batches={steps}", "hydra.sweeper.n_trials=1", "seed=0"),
        *("trainer.val_check_interval=0.5", "data.cache=disk", "data.cache_limit=12"),
        *("trainer.enable_progress_bar=false", "hydra/launcher=basic"),
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    path = folder / "multirun" / f"{data}-{number}" / "0" / "trial.json"
    if done.returncode or not path.exists():
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description="Which students win, on noise and on text.")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    options = parser.parse_args()
    table = Table(
        "students.md",
        "Students, at the article's budget",
        [
            f"`python benchmarks/students.py`, {description()}.",
            "MiniLM's layers 0 and 1 (3,548,928 parameters); at most 1,405,632 parameters, the",
            f"article's; {options.steps} steps of 4,096 tokens. L1 on ten held-out batches of what",
            "was trained on; text L1 and cosine: in the slice's place in the whole model, on 256",
            "held-out sentences.",
        ],
        "data|student|parameters|valid L1|text L1|text cosine",
    )
    with tempfile.TemporaryDirectory() as folder:
        for data in options.data:
            for number, (name, student) in enumerate(STUDENTS.items()):
                record = fit(Path(folder), number, data, options.steps, student)
                assert record["student_parameters"] <= BUDGET or name == "the original slice"
                table.add(
                    [
                        *(data, name, f"{record['student_parameters']:,}"),
                        *(f"{record['valid_l1']:.4f}", f"{record['text_l1']:.4f}"),
                        f"{record['text_cosine']:.4f}",
                    ]
                )


if __name__ == "__main__":
    main()
