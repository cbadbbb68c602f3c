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
        let_go(outcome, has_company=False)
        assert all(part() is not None for part in seen)
        # Memory of a machine is what Python itself looks after.
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_stream", Mock())
        monkeypatch.setattr(torch.cuda, "empty_cache", Mock())
        monkeypatch.setattr("sweep.trial.attempt._kept", lambda: 0)
        let_go(outcome, has_company=False)
    finally:
        gc.enable()
    assert [part() for part in seen] == [None] * len(seen)
    assert outcome.end is End.CRASHED
    error = outcome.error
    assert error is not None
    assert "failing" in "".join(traceback.format_exception(error))


def test_whoever_is_beside_it_waits_for_memory_only_where_much_could_be_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    emptied = Mock()
    found = {"memory_allocated": 50, "mem_get_info": (30, 100), "is_initialized": True}
    for name, value in {**found, "current_stream": Mock()}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "empty_cache", emptied)
    monkeypatch.setattr("sweep.trial.attempt._in_use", 0)

    def ends(has_company: bool, kept: int, after: int) -> bool:
        """Whether all is given back that can be, of what torch keeps."""
        keeps = iter((50 + kept, 50 + after) if has_company else (50 + after,))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: next(keeps))
        emptied.reset_mock()
        let_go(Outcome(End.COMPLETE), has_company)
        return bool(emptied.called)

    assert not ends(True, 9, 9)
    # Those beside it have graphs, whose memory is no tensor's.
    assert ends(True, 11, 8)
    assert not ends(True, 17, 17)
    assert ends(True, 19, 8)
    assert ends(False, 0, 0)
    assert not ends(True, 9, 9)
