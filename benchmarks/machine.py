"""What the benchmarks share: where they ran, and a table that grows in a file.

In benchmarks/results, unless the variable BENCHMARK_RESULTS names another folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

from sweep.devices import cpu_count
from sweep.trial.provenance import package_versions

_HERE = Path(__file__).resolve().parent
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or _HERE / "results")


def description() -> str:
    """Date, hardware and versions."""
    versions = package_versions()
    hardware = f"{cpu_count()} CPU cores ({torch.backends.cpu.get_cpu_capability()})"
    if torch.cuda.is_available():
        hardware = torch.cuda.get_device_name()
    return (
        f"{date.today()}, {hardware}, Python {versions['python']}, torch {versions['torch']}, "
        f"pytorch-lightning {versions['pytorch-lightning']}"
    )


class Table:
    """A table in Markdown, printed and written row by row.

    Args:
        name: Of the file.
        title: Its heading.
        text: Lines between heading and table.
        columns: Their heads, separated by `|`.
    """

    def __init__(self, name: str, title: str, text: Sequence[str], columns: str) -> None:
        self._path = RESULTS / name
        heads = columns.split("|")
        self._lines = [f"# {title}", "", *text, "", _row(heads), _row(["---"] * len(heads))]
        print("\n".join(self._lines), flush=True)

    def add(self, cells: Sequence[str]) -> None:
        """Adds a row."""
        self._lines.append(_row(cells))
        print(self._lines[-1], flush=True)
        RESULTS.mkdir(exist_ok=True)
        self._path.write_text("\n".join(self._lines) + "\n")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
