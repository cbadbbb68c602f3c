"""Whoever looks at a sweep is told what takes long before a step is taken."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from sweep.study.plan import find_study
from sweep.trial.pulse import WAIT_NAME, read_wait, told_to_viewers
from sweep.view.picture import picture
from sweep.view.status import StudyMonitor
from tests.sweep.conftest import Sweep

ROOT = Path(__file__).parents[3]
# What a disk that is slow, or far away, makes of an import: it is over once that has been said.
SLOW_MODULE = """
import threading
from slicewise import waiting
said = threading.Event()
waiting.LISTENERS.append(lambda what: said.set())
said.wait(90)
raise ImportError("the disk is gone")
"""


def test_a_slow_import_is_said(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(SLOW_MODULE)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}:{ROOT / 'src'}"}
    program = "from sweep.loading import load_libraries; load_libraries()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout == ""
    assert done.stderr.startswith("Loading torch ...\n")
    assert "the disk is gone" in done.stderr


def test_slow_texts_are_said_and_shown(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a pipe that nobody writes to for a while."""
    path, seen = folder / "texts.txt", list[str | None]()
    os.mkfifo(path)

    def look_and_write() -> None:
        place = folder / "multirun/a/workers/0"
        deadline = time.monotonic() + 60
        while "Reading" not in (read_wait(place) or "") and time.monotonic() < deadline:
            time.sleep(0.05)
        console = Console(width=120, file=io.StringIO())
        with console.capture() as captured:
            status = StudyMonitor(find_study("a", "sqlite:///multirun/studies.db")).status()
            console.print(picture(status))
        seen.append(captured.get())
        text = "\n".join(f"Text number {number}." for number in range(80))
        # Whoever asks again finds another file: its time has changed.
        while not (folder / "multirun/a/report.html").exists():
            fifo = os.open(path, os.O_WRONLY)
            os.write(fifo, text.encode())
            os.close(fifo)
            time.sleep(0.2)

    threading.Thread(target=look_and_write, daemon=True).start()
    assert sweep("-m", "study=a", "data=text", f"data.files=[{path}]", "student.qkv_layers=0") == 0
    said = capfd.readouterr()
    assert f"Reading {path} ...\n" in said.err
    assert "Reading" not in said.out
    assert "Reading" in str(seen[0])
    assert "between two trials" not in str(seen[0])
    assert not list(folder.glob(f"multirun/a/**/{WAIT_NAME}"))


def test_a_folder_that_takes_nothing_is_no_reason_to_stop(tmp_path: Path) -> None:
    from slicewise.waiting import LISTENERS

    before = list(LISTENERS)
    with told_to_viewers(tmp_path / "not there"):
        LISTENERS[-1]("Reading")
        assert read_wait(tmp_path / "not there") is None
    assert before == LISTENERS
