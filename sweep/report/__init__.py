"""The report of a study: one file that can be sent to a colleague.

`python -m sweep.report STUDY`; a sweep writes it when it ends.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import optuna

from slicewise.atomic import write_atomically
from slicewise.errors import SlicewiseError
from slicewise.waiting import waiting_for
from sweep.study.plan import DEFAULT_STORAGE
from sweep.view.summary import REPORT_NAME

if TYPE_CHECKING:
    from sweep.report.picture import Picture

_PNG_WIDTH, _PNG_HEIGHT = 1000, 560


def load_drawing() -> None:
    """Imports what a report is drawn with: about a second, for whoever has it to spare."""
    modules = ("optuna.importance", "plotly.io", "sweep.report.figures", "sweep.report.sections")
    for module in modules:
        importlib.import_module(module)


def write_report(
    study: optuna.Study, directory: Path, storage_url: str | None = DEFAULT_STORAGE
) -> Path:
    """Writes `report.html` into a study's folder; it appears whole or not at all.

    Args:
        study: Which study.
        directory: Its folder.
        storage_url: Where it is, for the commands that the report names; None: nowhere to come
            back to.
    """
    with waiting_for("Writing the report"):
        from sweep.report.figures import draw
        from sweep.report.material import read_material
        from sweep.report.sections import study_page

        material = read_material(study, directory.absolute(), storage_url)
        text = study_page(material, draw(material))
    directory.mkdir(parents=True, exist_ok=True)
    return write_atomically(directory / REPORT_NAME, text)


def write_pictures(study: optuna.Study, directory: Path, folder: Path) -> list[Path]:
    """Writes the report's pictures as PNG files, on white.

    Args:
        study: Which study.
        directory: Its folder.
        folder: Where the files go.

    Raises:
        SlicewiseError: What draws them is not installed.
    """
    from sweep.report.figures import draw
    from sweep.report.material import read_material

    return save_pictures(draw(read_material(study, directory.absolute(), DEFAULT_STORAGE)), folder)


def save_pictures(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Writes pictures as PNG files, on white.

    Args:
        pictures: As a report has them.
        folder: Where the files go.

    Raises:
        SlicewiseError: What draws them is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{picture.name}.png" for picture in pictures]
    _write_images(pictures, paths)
    return paths


def _write_images(pictures: Sequence[Picture], paths: Sequence[Path]) -> None:
    import plotly.io

    for picture in pictures:
        picture.figure.update_layout(
            template="plotly_white",
            title={"text": picture.title, "y": 0.97, "yanchor": "top"},
            paper_bgcolor="white",
            margin={"t": 140},
            font={"size": 16},
            width=_PNG_WIDTH,
            height=picture.figure.layout.height or _PNG_HEIGHT,
        )
    try:
        plotly.io.write_images([picture.figure for picture in pictures], list(paths))
    except (ImportError, ValueError, RuntimeError) as error:
        raise SlicewiseError(
            f"--png: {str(error).strip().splitlines()[0]}\n"
            "It needs kaleido and a Chromium or Chrome: pip install 'slicewise[png]'"
        ) from error
