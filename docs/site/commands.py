"""The reference of the commands: what each says to `--help`."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import sweep

# Columns that a block on the site has room for.
_WIDTH = "100"


def sources() -> list[Path]:
    """The files of `sweep` that are commands with options of their own.

    `python -m sweep` and `python -m sweep.compress` take Hydra's, which the configuration
    reference describes.
    """
    folder = Path(str(sweep.__file__)).parent
    files = [*folder.glob("*.py"), *folder.glob("*/__main__.py")]
    return sorted(path for path in files if "ArgumentParser(" in path.read_text())


def reference() -> str:
    """The commands by their names, as Markdown."""
    return "\n" + "\n".join(part for path in sources() for part in _section(path))


def _section(path: Path) -> Iterator[str]:
    parts = path.relative_to(Path(str(sweep.__file__)).parents[1]).with_suffix("").parts
    module = ".".join(parts)
    yield f"## `python -m {module.removesuffix('.__main__')}`\n"
    yield f"````text\n{_help_of(module)}````\n"


def _help_of(module: str) -> str:
    said = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            importlib.import_module(module).main(["--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return said.getvalue()
