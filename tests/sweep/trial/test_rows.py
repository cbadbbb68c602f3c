"""Reading a metrics.csv that somebody writes."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sweep.trial.rows import read_rows

NUMBERS = st.floats(allow_nan=False).map(repr)
ROWS = st.lists(st.fixed_dictionaries({"step": NUMBERS}, optional={"valid_l1": NUMBERS}))


@given(rows=ROWS, share=st.floats(0, 1))
def test_wherever_the_writing_is_each_row_is_whole_or_not_there(
    rows: list[dict[str, str]], share: float
) -> None:
    content = io.StringIO(newline="")
    writer = csv.DictWriter(content, ["step", "valid_l1"])
    writer.writeheader()
    writer.writerows(rows)
    text = content.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "metrics.csv")
        assert read_rows(path) == []
        path.write_bytes(text[: round(share * len(text))].encode())
        found = read_rows(path)
        assert found == rows[: len(found)]
        path.write_bytes(text.encode())
        assert read_rows(path) == rows
