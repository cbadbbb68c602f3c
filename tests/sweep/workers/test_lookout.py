"""Whether the sweep lives, as its workers see it from another machine."""

from __future__ import annotations

import optuna
import pytest

from sweep.study import presence
from sweep.study.presence import (
    MISSED_HEARTBEATS,
    SWEEP_HEARTBEAT_SECONDS,
    Heartbeat,
    write_heartbeat,
)
from sweep.workers.lookout import Lookout
from tests.clock import Clock


@pytest.mark.parametrize("heartbeat", [SWEEP_HEARTBEAT_SECONDS, 5.0, 30.0])
def test_a_silent_sweep_elsewhere_is_dead_after_six_heartbeats(
    heartbeat: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study()
    write_heartbeat(study, "sweep", "s", Heartbeat("elsewhere", "elsewhere", 1, "2026", "s"))
    lookout = Lookout(study, study._storage, "s/0", "s", heartbeat)
    clock = Clock()
    began = clock.monotonic()
    monkeypatch.setattr(presence, "time", clock)
    while not lookout.stop.is_set():
        clock.sleep(SWEEP_HEARTBEAT_SECONDS)
        lookout.check()
    silent = clock.monotonic() - began
    assert MISSED_HEARTBEATS * heartbeat <= silent <= (MISSED_HEARTBEATS + 2) * (heartbeat + 1.3)
