"""What a long wait is for is said, and of a short one nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from slicewise import waiting
from slicewise.waiting import LISTENERS, Wait, waiting_for
from tests.waiting import eventually

A_DAY = 86_400.0


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """What was told of waits; a long one takes a twentieth of a second."""
    heard: list[str | None] = []
    monkeypatch.setattr(waiting, "SECONDS", 0.05)
    LISTENERS.append(heard.append)
    yield heard
    LISTENERS.remove(heard.append)


def _who_wait() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "waiting"]


def test_a_long_wait_is_one_line_on_standard_error(
    told: list[str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    with waiting_for("Loading all there is"):
        eventually(lambda: told, "what is said")
        time.sleep(0.1)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "Loading all there is ...\n")
    assert told == ["Loading all there is", None]


def test_a_short_wait_says_nothing(told: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SECONDS", A_DAY)
    asked: list[str] = []
    for _ in range(200):
        with waiting_for(lambda: asked.append("asked") or "This"):
            pass
    with pytest.raises(ValueError, match="wrong"), waiting_for("This"):
        raise ValueError("wrong")
    eventually(lambda: not _who_wait(), "the end of all threads")
    assert told == asked == []


def test_an_end_that_comes_as_it_is_said_is_the_last_word(told: list[str | None]) -> None:
    """Whatever the moment: what was said is taken back, and nothing is said afterwards."""
    for delay in (0.045, 0.0495, 0.05, 0.0505, 0.055):
        for _ in range(4):
            with waiting_for("This"):
                time.sleep(delay)
            seen = list(told)
            assert seen[::2] == ["This"] * (len(seen) // 2)
            assert seen[1::2] == [None] * (len(seen) // 2)
    time.sleep(0.1)
    assert told == seen


def test_begin_and_end_may_be_in_different_places(
    told: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = Wait("This")
    wait.end()
    monkeypatch.setattr(waiting, "SECONDS", A_DAY)
    wait.begin()
    [first] = _who_wait()
    monkeypatch.setattr(waiting, "SECONDS", 0.05)
    wait.begin()
    eventually(lambda: told and not first.is_alive(), "the second beginning")
    wait.end()
    wait.end()
    assert told == ["This", None]
