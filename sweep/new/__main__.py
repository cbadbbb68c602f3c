"""python -m sweep.new DIR: a project of one's own that uses slicewise.

A student family, a data source, their configuration and their tests, to be changed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from sweep.console import exit_code_of
from sweep.new.project import create


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.new",
        description="Write a project of your own: a package with a student family and a data "
        "source, conf/ with an experiment, tests that pass, and a README with the commands.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new or an empty folder")
    parser.add_argument(
        "--name", metavar="PACKAGE", help="what its package is called (default: as the folder)"
    )
    options = parser.parse_args(arguments)
    try:
        name, files = create(options.folder, options.name)
    except (Exception, KeyboardInterrupt) as error:
        return exit_code_of(error)
    print(*(options.folder / file for file in files), sep="\n")
    print("\nNext:")
    if options.folder.absolute() != Path.cwd():
        print(f"  cd {shlex.quote(os.fspath(options.folder))}")
    print("  python -m pytest")
    print(f"  SLICEWISE_TRUSTED='{name}.*' python -m sweep --config-dir conf experiment=mine")
    return 0


if __name__ == "__main__":
    sys.exit(main())
