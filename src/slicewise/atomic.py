"""Files that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path


def write_atomically(
    path: str | Path, content: bytes | str | Callable[[Path], object], *, sync: bool = False
) -> Path:
    """Writes a file that readers find as it was, or as it will be, and never in between.

    Where writing fails the old file stays, and nothing is left beside it. Only a process that is
    killed leaves an unfinished file, hidden beside the old one: `.<name>.<random>.part`. It can be
    read by whoever can read any new file of that folder, whatever wrote it.

    Args:
        path: The file; its folder must exist.
        content: Bytes; text, written in UTF-8; or what writes a file to the path that it is called
            with, which lies in the same folder and does not exist.
        sync: Wait until the content, and then the name, are on the disk. A file that survives the
            death of its writer needs no waiting, one that survives a power cut does.

    Returns:
        The path.

    Raises:
        OSError: It could not be written: the disk is full, or there is no such folder.
        Exception: Whatever `content` raised.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = write_atomically(Path(folder, "notes.txt"), "a whole file\\n")
        ...     _ = write_atomically(file, lambda unfinished: unfinished.write_text("another\\n"))
        ...     print(os.listdir(folder), file.read_text())
        ['notes.txt'] another
        <BLANKLINE>
    """
    path = Path(path)
    # A name of its own: several processes, and threads, may be writing the same file.
    unfinished = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        if callable(content):
            mode = _mode_of_new(unfinished)
            content(unfinished)
            # safetensors, for one, makes files that none but their owner can read.
            unfinished.chmod(mode)
        else:
            unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
        if sync:
            _sync(unfinished)
        unfinished.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            # A disk that is full while a file is written does not say which.
            error.filename = str(path)
        raise
    if sync:
        _sync(path.parent)
    return path


def _mode_of_new(path: Path) -> int:
    """The mode that a file gets at this path, which is left free: the umask can only be set."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    path.unlink()
    return mode


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
