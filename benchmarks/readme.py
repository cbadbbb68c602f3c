"""The pictures of the README: python benchmarks/readme.py

Runs the README's command, and writes what the terminal showed (docs/terminal.svg) and the losses
of the three students (docs/losses.svg).
"""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go
from rich.console import Console
from rich.text import Text

from sweep.trial.record import TrialRecord

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "python -m sweep -m study=first student.qkv_layers=1,2,4"
# Okabe and Ito's, told apart by the colour-blind too.
COLOURS = ("#0072B2", "#D55E00", "#009E73")
DASHES = ("solid", "dash", "dot")
SHOWN_COLUMNS = 92


def run(folder: Path) -> str:
    """Runs the command in an empty folder and returns what it printed."""
    environment = {**os.environ, "COLUMNS": str(SHOWN_COLUMNS), "FORCE_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, *COMMAND.split()[1:], "trainer.enable_progress_bar=false"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.replace(f"{folder}/", "")


def draw_terminal(printed: str, path: Path) -> None:
    console = Console(record=True, width=SHOWN_COLUMNS, file=io.StringIO())
    console.print(Text(f"$ {COMMAND}", style="bold"))
    console.print(Text.from_ansi(printed.strip()))
    drawing = console.export_svg(title="slicewise")
    # Its web font would be fetched from elsewhere; a local one does.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL))


def draw_losses(study: Path, path: Path) -> None:
    figure = go.Figure()
    records = [TrialRecord.read(study / str(number)) for number in range(3)]
    for record, colour, dash in zip(records, COLOURS, DASHES, strict=True):
        with (study / str(record.number) / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["valid_l1"]]
        figure.add_scatter(
            x=[int(row["step"]) + 1 for row in rows],
            y=[float(row["valid_l1"]) for row in rows],
            name=f"qkv_layers={record.params['student.qkv_layers']}, "
            f"{record.student_parameters:,} parameters",
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 3},
        )
    best = records[0].best_baseline
    assert best is not None
    figure.add_hline(
        y=records[0].baselines[best],
        line={"color": "#555555", "dash": "longdash"},
        annotation_text=f"best baseline: {best.replace('_', ' ')}",
        annotation_position="bottom right",
    )
    figure.update_layout(
        template="plotly_white",
        width=860,
        height=420,
        margin={"t": 30, "r": 20},
        xaxis_title="optimizer steps",
        yaxis_title="validation L1",
        legend={"x": 0.99, "y": 0.99, "xanchor": "right"},
    )
    figure.write_image(path)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        printed = run(folder)
        draw_terminal(printed, ROOT / "docs/terminal.svg")
        draw_losses(folder / "multirun/first", ROOT / "docs/losses.svg")
    print(printed)


if __name__ == "__main__":
    main()
