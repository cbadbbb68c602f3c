"""Optuna's journal: a study in a file that grows, for file systems that several machines share.

SQLite's locks cannot be relied on there. A journal's is a symbolic link, which is made or not, on
any of them; one that its owner has left is taken away after half a minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shlex
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import get_lock_file

from slicewise.errors import ArgumentError, SlicewiseError

log = logging.getLogger(__name__)

# After which a lock is taken away from who holds it, if it shows no sign of life; a shared file
# system may show a sign a minute late.
_GRACE_SECONDS = 75
_SIGN_SECONDS = 5.0
# Bytes of a file's end in which its last line is looked for.
_TAILS = (4096, 1 << 20)


def open_journal(path: Path, url: str) -> BaseStorage:
    """Opens a journal; makes it where it is not there.

    Args:
        path: Of the file.
        url: As it was given.

    Raises:
        SlicewiseError: It cannot be made, or is damaged.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(_Journal(str(path)))
    except OSError as error:
        raise ArgumentError(
            "hydra.sweeper.storage", url, f"a file that can be made: {error.strerror}"
        ) from error


def journal_file(storage: BaseStorage) -> Path | None:
    """The file of a journal; None for any other storage."""
    backend = getattr(storage, "_backend", None)
    return Path(backend._file_path) if isinstance(backend, JournalFileBackend) else None


@contextlib.contextmanager
def journal_locked(journal: Path, study_name: str) -> Iterator[None]:
    """Holds a study that is in a journal, by a lock of the journal's own kind."""
    name = hashlib.sha256(study_name.encode()).hexdigest()[:12]
    place = journal.parent / f".{name}"
    place.touch()
    lock = JournalFileSymlinkLock(str(place.absolute()), grace_period=_GRACE_SECONDS)
    with get_lock_file(lock), _shown_alive(place):
        yield


@contextlib.contextmanager
def _shown_alive(place: Path) -> Iterator[None]:
    """Renews the time of a file that a lock points at, by which others see that it is held."""
    done = threading.Event()

    def rounds() -> None:
        while not done.wait(_SIGN_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(place)

    os.utime(place)
    thread = threading.Thread(target=rounds, name="journal-lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class _Journal(JournalFileBackend):
    """Optuna's, which survives whoever dies in the middle of a record."""

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        number = log_number_from
        try:
            for record in super().read_logs(log_number_from):
                number += 1
                self._check(record, number)
                yield record
        except ValueError as error:
            # JSON's decoder: of the line after the last that it gave.
            raise self._damaged(number + 1) from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """As Optuna's, after what a record was cut off of has been taken away.

        Who wrote it died before anybody was told; the next record would be glued to it.
        """
        lines = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in logs)
        with get_lock_file(self._lock), open(self._file_path, "r+b") as file:
            self._take_away_remains(file)
            self._check_last(file)
            file.write(lines.encode())
            file.flush()
            os.fsync(file.fileno())

    def _take_away_remains(self, file: Any) -> None:
        """Cuts the file after its last whole line, and leaves it open at its end."""
        end = file.seek(0, os.SEEK_END)
        if end == 0:
            return
        start = end
        while start > 0:
            start = max(0, start - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0 or start == 0:
                whole = start + found + 1 if found >= 0 else 0
                break
        if whole < end:
            log.warning(
                "%s ended in the middle of a record, which was nobody's yet: it is taken away",
                self._file_path,
            )
            file.truncate(whole)
        file.seek(0, os.SEEK_END)

    def _check_last(self, file: Any) -> None:
        """Refuses to write after a whole line that is no record, which Optuna reads past.

        To who reads while others write it may be one that is not there yet; here nobody writes.
        """
        end = file.seek(0, os.SEEK_END)
        lines: list[bytes] = []
        for length in _TAILS:
            file.seek(max(0, end - length))
            lines = file.read().splitlines()
            if len(lines) > 1 or length >= end:
                break
        else:
            # So long a record is one of Optuna's.
            return
        if not lines:
            return
        try:
            self._check(json.loads(lines[-1]), None)
        except ValueError:
            raise self._damaged(None) from None

    def _check(self, record: Any, line: int | None) -> None:
        if not isinstance(record, dict) or "op_code" not in record:
            raise self._damaged(line)

    def _damaged(self, line: int | None) -> SlicewiseError:
        path = self._file_path
        if line is None:
            return SlicewiseError(
                f"{path} is damaged: its last line is no record of a study; nothing is written"
            )
        keep = shlex.join(["head", "-n", str(line - 1), path])
        return SlicewiseError(
            f"{path} is damaged: line {line} is no record of a study; what stands before it can "
            f"be kept: {keep} > repaired.log"
        )
