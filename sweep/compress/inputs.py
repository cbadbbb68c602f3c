"""What lies in the files that settings name by their paths: another content is another input.

Imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path

from slicewise.atomic import write_atomically
from sweep.trial.record import record_files

log = logging.getLogger(__name__)

_NOTES = "texts.json"


def contents(paths: Iterable[str]) -> dict[str, str]:
    """Names what lies in some files, by their paths.

    A pipe can be read once only, and what cannot be read is refused by who reads it: both are left
    out.
    """
    return {path: _digest(Path(path)) for path in paths if Path(path).is_file()}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tell_changed_texts(folder: Path, library: Path, files: Iterable[str]) -> None:
    """Says which texts are others than those that the library was measured on, if any are.

    Args:
        folder: Of the compression; what lies in the files is noted there before the library is.
        library: Folder of its trials.
        files: That the texts are read from.
    """
    notes, now = folder / _NOTES, contents(files)
    if not notes.is_file() or not any(record_files(library)):
        write_atomically(notes, json.dumps(now, indent=1) + "\n")
        return
    before = json.loads(notes.read_text())
    changed = [path for path, content in now.items() if before.get(path, content) != content]
    if changed:
        log.warning(
            "%s: changed since the library was measured, whose damages are those of the texts "
            "before; another study=NAME measures it again",
            ", ".join(changed),
        )
