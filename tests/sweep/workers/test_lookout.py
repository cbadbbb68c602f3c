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


@pytest.mark.parametrize("heartbeat", [SWEEP_HEARTBEAT_SECONDS, 5.0, 30.0])
def test_a_silent_sweep_elsewhere_is_dead_after_six_heartbeats(
    heartbeat: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study()
    write_heartbeat(study, "sweep", "s", Heartbeat("elsewhere", "elsewhere", 1, "2026", "s"))
    lookout = Lookout(study, study._storage, "s/0", "s", heartbeat)
    now = 1000.0
    monkeypatch.setattr(presence.time, "monotonic", lambda: now)
    while not lookout.stop.is_set():
        now += SWEEP_HEARTBEAT_SECONDS
        lookout.check()
    silent = now - 1000.0
    assert MISSED_HEARTBEATS * heartbeat <= silent <= (MISSED_HEARTBEATS + 2) * (heartbeat + 1.3)
