"""How a trial ends, by what it raised."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from sweep.trial.outcome import DiskFull, End, Outcome, is_out_of_memory, is_out_of_space


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError("no"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        # Torch's on a CPU, in its words: see test_side_by_side.py for the real one.
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you ..."), True),
        # What CUDA is asked for beside torch's allocator: a graph, a context, a handle.
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("the student is tired"), False),
        (KeyError("CUDA error: out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    assert Outcome.of(error).reason.startswith("out of memory: ") is expected


def test_what_cuda_refuses_is_told_in_a_line() -> None:
    said = "CUDA error: an illegal memory access was encountered"
    error = torch.AcceleratorError(f"{said}\nCompile with `TORCH_USE_CUDA_DSA` to enable ...")
    assert Outcome.of(error).reason == f"AcceleratorError: {said}"


def _full() -> OSError:
    with pytest.raises(OSError, match="No space") as full:
        Path("/dev/full").write_text("something")
    return full.value


def _caused_by(cause: Exception) -> Exception:
    error = RuntimeError("the checkpoint cannot be written")
    error.__cause__ = cause
    return error


def _full_database() -> Exception:
    database = sqlite3.connect(":memory:")
    database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError, match="disk is full") as full:
        database.execute("CREATE TABLE trials (number INTEGER)")
    database.close()
    return full.value


def _in_a_circle() -> Exception:
    cause = KeyError("a")
    error = _caused_by(cause)
    cause.__cause__ = error
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_full(), True),
        (_caused_by(_full()), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        # As safetensors 0.7 says it.
        (SafetensorError("I/O error: No space left on device (os error 28)"), True),
        (SafetensorError("I/O error: No such file or directory (os error 2)"), False),
        (PermissionError(errno.EACCES, "Permission denied"), False),
        (_caused_by(KeyError("a")), False),
        (_in_a_circle(), False),
        (_caused_by(_full_database()), True),
        (sqlite3.OperationalError("no such table: trials"), False),
    ],
)
def test_a_full_disk_is_no_end_of_a_trial(error: Exception, expected: bool) -> None:
    assert is_out_of_space(error) is expected
    outcome = Outcome.of(error)
    assert (outcome.end is End.NO_SPACE) is expected
    assert outcome.end.is_final is not expected
    assert outcome.reason.startswith("the disk is full: ") is expected
    if expected:
        told = Outcome(outcome.end, outcome.reason)
        with pytest.raises(DiskFull) as raised:
            told.result()
        assert Outcome.of(raised.value) == told
        assert raised.value.told().endswith("the same command goes on.")


@pytest.mark.parametrize("end", [one for one in End if one is not End.COMPLETE])
def test_an_end_that_is_known_from_elsewhere_stays_what_it_is(end: End) -> None:
    """Of another process, or out of a record: without what was raised there."""
    with pytest.raises(Exception, match="so it was") as raised:
        Outcome(end, "so it was").result()
    assert Outcome.of(raised.value).end is end
