"""The rows of a metrics.csv, as far as they were written."""

from __future__ import annotations

import csv
from pathlib import Path


def read_rows(path: Path) -> list[dict[str, str]]:
    """What each row has, by column; none where there is no file.

    A row that is being written, or was when the process or the machine went down, is none yet: half
    of a number would pass for another one.

    Raises:
        OSError: The file cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "metrics.csv")
        ...     _ = path.write_text("step,train_l1,valid_l1\\n0,0.5,\\n1,0.25,0.3\\n2,0.1")
        ...     read_rows(path)
        [{'step': '0', 'train_l1': '0.5'}, {'step': '1', 'train_l1': '0.25', 'valid_l1': '0.3'}]
    """
    try:
        with path.open(newline="") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return []
    whole = [line for line in lines if line.endswith("\n")]
    return [{key: value for key, value in row.items() if value} for row in csv.DictReader(whole)]
