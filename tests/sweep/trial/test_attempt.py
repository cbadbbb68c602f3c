"""What an attempt at a trial leaves behind."""

from __future__ import annotations

import gc
import traceback
import weakref
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from sweep.trial.attempt import let_go
from sweep.trial.outcome import End, Outcome


class Part:
    """As Lightning's: one holds the other."""

    def __init__(self) -> None:
        self.others: list[Any] = []


def at_work(seen: list[weakref.ref[Part]]) -> None:
    part, other = Part(), Part()
    part.others, other.others = [other], [part]
    seen += [weakref.ref(part), weakref.ref(other)]


def failing(seen: list[weakref.ref[Part]]) -> None:
    at_work(seen)
    part = Part()
    seen.append(weakref.ref(part))
    try:
        raise RuntimeError("out of memory")
    except RuntimeError:
        # As where clearing up fails in its turn.
        at_work(seen)
        part.others.append(part)
        raise ValueError("no way back") from None


def test_what_was_at_work_on_a_gpu_is_gone_with_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[weakref.ref[Part]] = []
    gc.disable()
    try:
        at_work(seen)
        try:
            failing(seen)
        except ValueError as error:
            outcome = Outcome.of(error)
        let_go(outcome)
        assert all(part() is not None for part in seen)
        # Memory of a machine is what Python itself looks after.
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_stream", Mock())
        let_go(outcome)
    finally:
        gc.enable()
    assert [part() for part in seen] == [None] * len(seen)
    assert outcome.end is End.CRASHED
    error = outcome.error
    assert error is not None
    assert "failing" in "".join(traceback.format_exception(error))
