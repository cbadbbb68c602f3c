"""progress.json: how far a running fit is, in its trial's directory, for whoever looks.

A file, because it works under any launcher and costs the storage nothing. It is written beside and
renamed, so a reader finds a whole one or none; where there is none, the storage still has the
losses of all validations.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from slicewise.waiting import LISTENERS

PULSE_NAME = "progress.json"
WAIT_NAME = "waits_for.txt"


@dataclass
class Pulse:
    """How far a fit is.

    Attributes:
        step: Optimizer steps taken.
        total: Optimizer steps in all; None where time decides.
        loss: Training loss of the last step; None before the first.
        steps_per_second: Of late; None before the first.
        seconds: Since this run of the fit began.
        validating: Whether it validates now.
        part: Which of the trial's fits it is, from 0.
        parts: How many fits the trial has.
    """

    step: int
    total: int | None
    loss: float | None = None
    steps_per_second: float | None = None
    seconds: float = 0.0
    validating: bool = False
    part: int = 0
    parts: int = 1

    @property
    def fraction(self) -> float | None:
        """What is done of this fit, from 0 to 1; None where there is no saying."""
        return min(1.0, self.step / self.total) if self.total else None

    def write(self, directory: Path) -> None:
        """Writes it into a trial's directory; a full disk is no reason to end a fit."""
        # Without a process's number: what a killed one left is overwritten by the next.
        unfinished = directory / f".{PULSE_NAME}"
        with contextlib.suppress(OSError):
            unfinished.write_text(json.dumps(asdict(self)))
            unfinished.replace(directory / PULSE_NAME)


def read_pulse(directory: Path) -> Pulse | None:
    """The pulse of the fit in a directory; None where none beats."""
    try:
        return Pulse(**json.loads((directory / PULSE_NAME).read_text()))
    except (OSError, ValueError, TypeError):
        return None


@contextlib.contextmanager
def told_to_viewers(directory: Path) -> Iterator[None]:
    """Keeps in a worker's directory what it waits for, if it waits long."""
    path = directory / WAIT_NAME

    def tell(what: str | None) -> None:
        with contextlib.suppress(OSError):
            if what is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(what)

    LISTENERS.append(tell)
    try:
        yield
    finally:
        LISTENERS.remove(tell)
        tell(None)


def read_wait(directory: Path) -> str | None:
    """What the worker of a directory waits for; None: for nothing that takes long."""
    try:
        return (directory / WAIT_NAME).read_text() or None
    except (OSError, ValueError):
        return None


def remove_pulse(directory: Path) -> None:
    """For when a fit has ended, or stopped."""
    for path in (directory / PULSE_NAME, directory / f".{PULSE_NAME}"):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
