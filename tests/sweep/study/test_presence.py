"""Who is taken for dead, and who is not."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import optuna
import pytest

from sweep.study.presence import (
    MISSED_HEARTBEATS,
    Heartbeat,
    HeartbeatMonitor,
    Presence,
    own_heartbeat,
    process_is_gone,
    read_heartbeats,
    write_heartbeat,
)
from tests.waiting import eventually

ELSEWHERE = Heartbeat("another machine", "there", 1, "2026-01-01T00:00:00+00:00", "s")


def test_who_is_silent_for_some_rounds_is_dead() -> None:
    census = HeartbeatMonitor(seconds=0.0)
    for _ in range(MISSED_HEARTBEATS):
        assert census.dead({"a": ELSEWHERE}) == set()
    assert census.dead({"a": ELSEWHERE}) == {"a"}


def test_who_beats_once_in_a_while_lives() -> None:
    census = HeartbeatMonitor(seconds=0.0)
    for beat in range(3):
        for _ in range(MISSED_HEARTBEATS):
            assert census.dead({"a": replace(ELSEWHERE, beat=beat)}) == set()


def test_looking_more_often_does_not_make_anyone_die_sooner() -> None:
    census = HeartbeatMonitor(seconds=60.0)
    for _ in range(10 * MISSED_HEARTBEATS):
        assert census.dead({"a": ELSEWHERE}) == set()


def test_an_observer_that_was_away_starts_counting_again() -> None:
    """An outage of the storage silences all alike, the observer too: one round has passed."""
    census = HeartbeatMonitor(seconds=0.01)
    census.dead({"a": ELSEWHERE})
    time.sleep(0.01 * 3 * MISSED_HEARTBEATS)
    assert census.dead({"a": ELSEWHERE}) == set()


def test_a_process_of_this_machine_that_is_gone_is_dead_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    sign = replace(own_heartbeat("s"), pid=process.pid)
    assert not process_is_gone(sign)
    assert HeartbeatMonitor(60.0).dead({"a": sign}) == set()
    process.kill()
    # Nobody has waited for it yet: a zombie is gone too.
    eventually(lambda: process_is_gone(sign), "its end")
    assert HeartbeatMonitor(60.0).dead({"a": sign}) == {"a"}
    process.wait()
    assert process_is_gone(sign)


def test_the_same_number_elsewhere_says_nothing() -> None:
    assert not process_is_gone(replace(ELSEWHERE, pid=2**22 - 1))


@pytest.mark.parametrize("state", ["ended", "dead"])
def test_who_has_said_goodbye_is_dead(state: str) -> None:
    assert HeartbeatMonitor(60.0).dead({"a": replace(own_heartbeat("s"), state=state)}) == {"a"}


def test_signs_survive_the_storage() -> None:
    study = optuna.create_study()
    write_heartbeat(study, "worker", "w", ELSEWHERE)
    write_heartbeat(study, "sweep", "s", replace(ELSEWHERE, stop=True))
    assert read_heartbeats(study, "worker") == {"w": ELSEWHERE}
    assert read_heartbeats(study, "sweep")["s"].stop


def test_presence_beats_looks_and_says_goodbye() -> None:
    study = optuna.create_study()
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        raise RuntimeError("a look that fails does not end the presence")

    with Presence(study, "worker", "w", own_heartbeat("s"), 0.02, look, 0.01):
        first = read_heartbeats(study, "worker")["w"].beat
        eventually(
            lambda: read_heartbeats(study, "worker")["w"].beat >= first + 3, "three heartbeats"
        )
    assert read_heartbeats(study, "worker")["w"].state == "ended"
    assert len(looks) >= 3
