"""What ranks, and those who start them, tell each other.

Imports nothing heavy: the process that starts ranks need not load torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Place:
    """A rank's place in its gang.

    Attributes:
        rank: 0 and up.
        world_size: Number of ranks.
        accelerator: Lightning's word for their devices.
        timeout: Seconds that a rank waits for the others.
    """

    rank: int
    world_size: int
    accelerator: str
    timeout: float


@dataclass
class Meeting:
    """Where the ranks find each other: the port of rank 0 on this machine."""

    port: int


class Stop:
    """To rank 0: the trial should stop at the next batch."""


@dataclass
class Question:
    """From rank 0: a method of the active trial, to be called where the study is."""

    method: str
    arguments: Sequence[Any] = field(default_factory=tuple)


@dataclass
class Answer:
    """What the method returned."""

    value: Any
