"""python -m sweep.report STUDY: writes multirun/STUDY/report.html."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sweep.console import exit_code_of
from sweep.study.plan import DEFAULT_STORAGE


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.report",
        description="Write the report of a study: one file to look at, and to send to others.",
    )
    parser.add_argument("study", help="its name, or its folder multirun/STUDY")
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
    from sweep.report import write_pictures, write_report
    from sweep.study.places import study_folder
    from sweep.study.plan import find_study, storage_of

    study = find_study(name, storage_url)
    folder = output or study_folder(study)
    print(os.path.relpath(write_report(study, folder, storage_of(name, storage_url))))
    if png:
        for path in write_pictures(study, folder, folder / "pictures"):
            print(os.path.relpath(path))


if __name__ == "__main__":
    sys.exit(main())
