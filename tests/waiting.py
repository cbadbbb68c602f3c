"""To wait for what other processes do, without loading anything: processes import it as well."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# Deadlines are for what would otherwise hang; a busy machine may take its time.
PATIENCE = 240.0

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """What the condition returns once it is true."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return result


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait long for its parent to notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
