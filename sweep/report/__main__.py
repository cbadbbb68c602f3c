"""python -m sweep.report STUDY: writes multirun/STUDY/report.html.

Also of what is more than a study, where its folder says so: see `_WRITERS`.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from sweep.console import exit_code_of
from sweep.study.plan import DEFAULT_STORAGE

# By a file in the folder, the module that writes its report and draws its pictures. By name, as
# those modules lean on this room.
_PICTURES = "pictures"
_WRITERS = {"plans.json": "sweep.compress.report"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.report",
        description="Write the report of a study: one file to look at, and to send to others.",
    )
    parser.add_argument(
        "study", help="its name, or its folder multirun/STUDY; also of a compression"
    )
    parser.add_argument("--storage", default=DEFAULT_STORAGE, help="URL (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="(default: the study's folder)"
    )
    parser.add_argument(
        "--png", action="store_true", help="also write the pictures, to FOLDER/pictures"
    )
    options = parser.parse_args(arguments)
    try:
        report(options.study, options.storage, options.output, options.png)
    except (Exception, KeyboardInterrupt) as error:
        return exit_code_of(error)
    return 0


def report(name: str, storage_url: str, output: Path | None, png: bool) -> None:
    """Writes the report, and says where it is.

    Raises:
        SlicewiseError: There is no such storage or study, or the pictures cannot be drawn.
    """
    found = _writer(name)
    if found is not None:
        folder, writer = found
        output = output or folder
        paths = [writer.write_report(folder, output)]
        if png:
            paths += writer.write_pictures(folder, output / _PICTURES)
    else:
        from sweep.report import write_pictures, write_report
        from sweep.study.places import study_folder
        from sweep.study.plan import find_study, storage_of

        study = find_study(name, storage_url)
        output = output or study_folder(study)
        paths = [write_report(study, output, storage_of(name, storage_url))]
        if png:
            paths += write_pictures(study, output, output / _PICTURES)
    for path in paths:
        print(os.path.relpath(path))


def _writer(name: str) -> tuple[Path, Any] | None:
    """The folder of what is no study, and the module that reports it; None: it is a study."""
    for folder in (Path(name), Path("multirun", name)):
        for file, module in _WRITERS.items():
            if (folder / file).is_file():
                return folder, importlib.import_module(module)
    return None


if __name__ == "__main__":
    sys.exit(main())
