"""The README's pictures of a sweep while it runs and of its report: python benchmarks/pictures.py

Runs a small study of thirty points, some of which fail, with two workers; writes docs/live.svg (the
live view, half way) and docs/report.png (the top of the report, in a browser).
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

from slicewise.errors import SlicewiseError
from sweep.study.plan import find_study
from sweep.view.picture import picture
from sweep.view.status import Status, StudyMonitor
from sweep.view.summary import REPORT_NAME

ROOT = Path(__file__).resolve().parent.parent
# Thirty points, of which six learn so fast that their loss is no number.
COMMAND = (
    "python -m sweep -m study=mine experiment=tiny data.train_batches=1500 "
    "optimizer.lr=1e-3,3e-3,1e-2,3e-2,1e30 student.qkv_layers=1,2,4 student.value_dim=12,24 "
    "hydra.sweeper.n_trials=30 hydra.sweeper.n_jobs=2 hydra/sweeper/pruner=median"
)
COLUMNS = 80
HALF_WAY = 12
# So that words, numbers and a picture are seen at once.
LEFT_OUT = "#answer h3, #answer h3 ~ * { display: none } .tall { max-height: 17rem !important }"
WINDOW = {"width": 1000, "height": 1250}


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Starts the sweep in an empty folder."""
    return subprocess.Popen(
        [sys.executable, *COMMAND.split()[1:]],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )


def half_way(storage: str, sweep: subprocess.Popen[bytes]) -> Status:
    """How the study stands when half of it is done and all workers train."""
    monitor: StudyMonitor | None = None
    while sweep.poll() is None:
        time.sleep(0.3)
        try:
            monitor = monitor or StudyMonitor(find_study("mine", storage))
        except (SlicewiseError, optuna.exceptions.StorageInternalError):
            continue
        status = monitor.status()
        pulses = [worker.pulse for worker in status.workers]
        if status.finished >= HALF_WAY and all(p and p.loss and p.step > 100 for p in pulses):
            return status
    raise RuntimeError("the sweep ended before it could be seen")


def draw_live(status: Status, path: Path) -> None:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print(Text("$ python -m sweep.watch mine", style="bold"))
    console.print(picture(status))
    drawing = console.export_svg(title="slicewise")
    # Its web font would be fetched from elsewhere; a local one does.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL))


def photograph(report: Path, path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=WINDOW)
        page.goto(report.as_uri())
        page.add_style_tag(content=LEFT_OUT)
        for section in ("curves", "size"):
            page.locator(f"#{section} .plot").first.scroll_into_view_if_needed()
            page.wait_for_selector(f"#{section} .plot[data-drawn]")
        # From the answer on: what was asked is words.
        page.locator("#answer").evaluate("(place) => place.scrollIntoView()")
        page.screenshot(path=path)
        browser.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        sweep = start(folder)
        try:
            status = half_way(f"sqlite:///{folder}/multirun/studies.db", sweep)
            draw_live(status, ROOT / "docs/live.svg")
            sweep.wait()
        finally:
            sweep.terminate()
        photograph(folder / "multirun/mine" / REPORT_NAME, ROOT / "docs/report.png")


if __name__ == "__main__":
    main()
