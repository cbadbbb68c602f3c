"""What a fit does for those beside it."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
import torch

from slicewise.data.batch import Batch
from slicewise.distiller import Distiller
from slicewise.steps import ManualDistiller
from slicewise.targets import CachedTargets
from sweep.trial.active import ActiveTrial
from sweep.trial.cache import give_up_batches
from sweep.trial.company import share, write
from sweep.workers.turns import Dismissed
from tests.waiting import eventually


class _Place:
    """One of two; counts the turns that it passes on."""

    def __init__(self, others: int = 1, most: int | None = None) -> None:
        self.others = others
        self.passed = 0
        self._most = most

    def pass_turn(self) -> None:
        self.passed += 1
        if self.passed == self._most:
            raise Dismissed
        time.sleep(0.001)

    make_way = pass_turn


def beside(place: _Place | None) -> ActiveTrial:
    trial = ActiveTrial(threading.Event())
    trial.place = place
    return trial


def test_while_one_writes_the_others_have_their_turns() -> None:
    place, wrote = _Place(), []
    enough = threading.Event()

    def work() -> None:
        assert enough.wait(60)
        wrote.append(threading.current_thread())

    def pass_turn() -> None:
        if place.passed == 20:
            enough.set()
        _Place.pass_turn(place)

    place.pass_turn = pass_turn  # type: ignore[method-assign]
    write(work, beside(place))
    assert place.passed >= 20
    assert wrote[0] is not threading.current_thread()


@pytest.mark.parametrize("place", [None, _Place(others=0)], ids=["alone", "the last one"])
def test_without_others_it_is_written_here(place: _Place | None) -> None:
    wrote: list[threading.Thread] = []
    write(lambda: wrote.append(threading.current_thread()), beside(place))
    assert wrote == [threading.current_thread()]
    assert place is None or place.passed == 0


def test_what_writing_fails_with_is_this_ones() -> None:
    def work() -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write(work, beside(_Place()))


def test_nothing_is_written_after_its_end() -> None:
    """Another worker may have the trial by then."""
    wrote: list[str] = []
    place = _Place(most=2)

    def work() -> None:
        eventually(lambda: place.passed == 2, "its end")
        wrote.append("after it was dismissed")

    with pytest.raises(Dismissed):
        write(work, beside(place))
    assert wrote


@pytest.mark.parametrize(
    ("on_gpu", "mode", "targets_last", "batches_last", "bytes_of_the_first"),
    [(False, "auto", 8, 8, 0), (True, "auto", 0, 0, 1000), (True, "off", 8, 8, 0)],
)
def test_what_those_at_the_same_steps_share_and_others(
    monkeypatch: pytest.MonkeyPatch,
    on_gpu: bool,
    mode: str,
    targets_last: int,
    batches_last: int,
    bytes_of_the_first: int,
) -> None:
    monkeypatch.setattr("sweep.trial.company._on_gpu", lambda: on_gpu)
    settings, distiller, data = SimpleNamespace(), Mock(spec=ManualDistiller), SimpleNamespace()
    settings.data = SimpleNamespace(cache=SimpleNamespace(mode=mode))
    data.at_once, data.recent = 4, None
    kept = 0 if mode == "off" or not on_gpu else 1000
    targets = CachedTargets(lambda batch: batch.hidden_states, memory_limit=kept)
    place: Any = _Place(others=2)
    share(place, cast(Any, settings), distiller, targets, cast(Any, data))
    # Nobody else learns from them yet.
    assert targets.recent_batches.limit == 0
    share(place, cast(Any, settings), distiller, targets, cast(Any, data))
    assert distiller.pause == place.pass_turn
    assert data.recent is targets.recent_batches
    assert (targets.recent.most, data.recent.most, data.recent.limit) == (
        targets_last,
        batches_last,
        bytes_of_the_first,
    )


def test_what_lightning_hands_a_student_is_its_own_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another would read it meanwhile, on a stream of its own, and the student may write to it."""
    monkeypatch.setattr("sweep.trial.company._on_gpu", lambda: True)
    settings = SimpleNamespace(data=SimpleNamespace(cache=SimpleNamespace(mode="auto")))
    data = SimpleNamespace(at_once=None, recent=None)
    targets = CachedTargets(lambda batch: batch.hidden_states)
    place: Any = _Place()
    share(place, cast(Any, settings), Mock(spec=Distiller), targets, cast(Any, data))
    assert data.recent is None


def test_where_memory_is_short_batches_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[None] = []
    monkeypatch.setattr("torch.cuda.synchronize", lambda: waited.append(None))
    targets = CachedTargets(lambda batch: batch.hidden_states, memory_limit=1000)
    monkeypatch.setattr("sweep.trial.cache._in_use", [targets])
    give_up_batches()
    assert waited == [], "there is nothing to be read"
    targets.keep_batches()
    batch = Batch(torch.ones(2, 3, 4))
    targets.recent_batches.keep("one", batch, batch.hidden_states)
    assert targets.recent_batches.find("one") is batch
    give_up_batches()
    assert len(waited) == 1
    targets.keep_batches()
    targets.recent_batches.keep("one", batch, batch.hidden_states)
    assert targets.recent_batches.find("one") is None
