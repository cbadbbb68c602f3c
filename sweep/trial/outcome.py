"""How a trial ends: one type, and one place that turns exceptions into it.

Imports nothing heavy: a worker knows its threads before it loads torch.
"""

from __future__ import annotations

import errno
import sqlite3
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

from optuna import TrialPruned
from optuna.trial import TrialState

from slicewise.errors import ResourceError, SlicewiseError


class TrialStopped(Exception):
    """The trial was asked to stop before its end; it will be taken up again."""


class TrialLost(TrialStopped):
    """The trial has been given to another worker; everything stays as it is."""

    def __init__(self, reason: str = "it has been given to another worker") -> None:
        super().__init__(reason)


class Crowded(TrialStopped):
    """Memory ran out while others ran beside the trial; with more of it, it goes on."""

    def __init__(self) -> None:
        super().__init__("out of memory beside other trials")


class FitFailed(SlicewiseError):
    """The fit came to nothing.

    Args:
        reason: Why.
        end: How, where that is known from another process, or an earlier one; else it would come to
            nothing again.
    """

    def __init__(self, reason: str, end: End | None = None) -> None:
        super().__init__(reason)
        self.end = end or End.FAILED


class RankDied(SlicewiseError):
    """A rank of the fit is gone, or no longer answers; the trial can be continued."""


class ProcessBroken(SlicewiseError):
    """This process can run nothing more on its GPU; another one can."""

    @classmethod
    def by(cls, said: str) -> Self:
        """By what the GPU says to everything from now on."""
        return cls(f"this process can use its GPU no more ({said}); the same command goes on")


class DiskFull(SlicewiseError):
    """A disk has no room left for what a trial writes; the trial can be continued."""

    def told(self) -> str:
        """What the user is told."""
        return f"{self}\nWhat was done is kept: once there is room, the same command goes on."


class End(Enum):
    """How a trial ended; where it failed, whose fault that was.

    Attributes:
        COMPLETE: It has its values.
        PRUNED: The study's pruner ended it.
        IMPOSSIBLE: The point's: with its values nothing can be run.
        FAILED: The fit's, whose loss is not a number: it would be none again.
        LACKING: That of something it needs, a file or a model, which cannot be had or is damaged.
        CRASHED: The program's or the machine's: an error that nobody foresaw.
        STOPPED: It was asked to stop, or belongs to another worker; someone goes on with it.
        LOST: One of the processes that ran it is gone; someone goes on with it.
        NO_SPACE: The disk is full; once there is room, someone goes on with it.
    """

    COMPLETE = "complete"
    PRUNED = "pruned"
    IMPOSSIBLE = "impossible"
    FAILED = "failed"
    LACKING = "lacking"
    CRASHED = "crashed"
    STOPPED = "stopped"
    LOST = "lost"
    NO_SPACE = "no space"

    @property
    def is_final(self) -> bool:
        """Whether nobody goes on with the trial."""
        return self not in (End.STOPPED, End.LOST, End.NO_SPACE)

    @property
    def is_failure(self) -> bool:
        return self in (End.IMPOSSIBLE, End.FAILED, End.LACKING, End.CRASHED)

    @property
    def is_of_one_rank(self) -> bool:
        """Whether the others of its ranks need not come to it too, and may wait for it for ever."""
        return self in (End.CRASHED, End.NO_SPACE)

    @property
    def state(self) -> TrialState:
        """What it is to Optuna."""
        if self is End.COMPLETE:
            return TrialState.COMPLETE
        if self is End.PRUNED:
            return TrialState.PRUNED
        return TrialState.FAIL if self.is_failure else TrialState.WAITING


@dataclass(frozen=True)
class Outcome:
    """What became of a trial.

    Attributes:
        end: How it ended.
        reason: Why, where it is not complete.
        values: Where it is: one for each direction of the study.
        error: What was raised, in the process in which it was raised.
    """

    end: End
    reason: str = ""
    values: tuple[float, ...] = ()
    error: BaseException | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, error: BaseException, swept: Collection[str] = ()) -> Outcome:
        """The outcome of a trial that raised.

        Args:
            error: What it raised.
            swept: The keys that have a value of the trial's own. Only what these decide is the
                point's fault: a file that cannot be read is, where the sweep is over files.
        """
        return cls(_end_of(error, swept), reason_of(error), error=error)

    def result(self) -> float | tuple[float, ...]:
        """What the trial gives back to Hydra: its values, one of them alone.

        Raises:
            BaseException: What it raised, or what says the same.
        """
        if self.end is End.COMPLETE:
            return self.values[0] if len(self.values) == 1 else self.values
        if self.error is None and self.end in (End.LACKING, End.CRASHED):
            raise FitFailed(self.reason, self.end)
        raise self.error or _EXCEPTIONS[self.end](self.reason)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions of anybody's classes need not survive the way to another process.
        return Outcome, (self.end, self.reason, self.values)


_EXCEPTIONS: dict[End, type[Exception]] = {
    End.PRUNED: TrialPruned,
    End.IMPOSSIBLE: SlicewiseError,
    End.FAILED: FitFailed,
    End.STOPPED: TrialStopped,
    End.LOST: RankDied,
    End.NO_SPACE: DiskFull,
}


_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_POSTGRES_DISK_FULL = "53100"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine, or a GPU, has no memory left."""
    # torch's error by its name: see above. That is what its allocator on a GPU raises; that
    # on a CPU, and what CUDA itself takes, for a graph say, or the library of matrix products, are
    # refused in their own words.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY))
    )


def is_out_of_space(error: BaseException) -> bool:
    """Whether a disk has no room left, or none for this user; also where that caused the error."""
    return any(map(_says_full, _with_causes(error)))


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _NO_SPACE
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if getattr(error, "sqlstate", None) == _POSTGRES_DISK_FULL:
        return True
    # safetensors writes by itself, and says so in words; its error by its name: see above.
    in_words = type(error).__name__ == "SafetensorError" and any(
        f"os error {number})" in str(error) for number in _NO_SPACE
    )
    return in_words or isinstance(error, DiskFull)


def _with_causes(error: BaseException) -> list[BaseException]:
    """An error, and what caused it; Hydra's are at times their own cause's cause."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__
    return chain


def reason_of(error: BaseException) -> str:
    """An error in words, for records and tables."""
    text = str(error).strip()
    if isinstance(error, RuntimeError) and text.startswith("CUDA error"):
        # Four lines of torch's on how to look for its cause follow each.
        text = text.partition("\n")[0]
    if isinstance(error, (SlicewiseError, FitFailed, TrialPruned, TrialStopped)):
        return text
    if is_out_of_memory(error):
        return f"out of memory: {text}"
    if is_out_of_space(error):
        return f"the disk is full: {text}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _end_of(error: BaseException, swept: Collection[str]) -> End:
    if isinstance(error, (RankDied, ProcessBroken)) or _is_lost_contact(error):
        return End.LOST
    if isinstance(error, TrialStopped):
        return End.STOPPED
    if isinstance(error, TrialPruned):
        return End.PRUNED
    if isinstance(error, FitFailed):
        return error.end
    if is_out_of_space(error):
        return End.NO_SPACE
    if isinstance(error, ResourceError) and getattr(error, "name", None) not in swept:
        return End.LACKING
    if isinstance(error, SlicewiseError):
        return End.IMPOSSIBLE
    return End.CRASHED


def _is_lost_contact(error: BaseException) -> bool:
    """Whether a collective of several ranks failed because of another one."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not (distributed.is_available() and distributed.is_initialized()):
        return False
    # torch wraps what NCCL reports; what gloo does comes as it is, with the name of its file.
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError)
        and any(sign in str(error) for sign in ("gloo", "NCCL", "Connection closed by peer"))
    )
