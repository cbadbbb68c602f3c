"""What a student costs is measured as often as something is decided by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sweep.trial import costs
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs each measurement was of."""
    found: list[int] = []
    latency_ms = costs.latency_ms

    def counted(*arguments: Any, runs: int = 20, **options: Any) -> float:
        found.append(runs)
        return latency_ms(*arguments, runs=runs, **options)

    monkeypatch.setattr(costs, "latency_ms", counted)
    monkeypatch.setattr(costs, "_known_latencies", {})
    return found


HERE = ("-m", "study=s", "hydra/launcher=basic", "student.qkv_layers=0,1", "optimizer.lr=1e-3,2e-3")


def test_the_first_student_of_a_shape_is_timed_for_all(
    sweep: Sweep, record: Record, measured: list[int]
) -> None:
    assert sweep(*HERE) == 0
    assert len(measured) == 2
    found: dict[int, set[float]] = {}
    for number in range(4):
        trial = record(f"s/{number}")
        found.setdefault(trial["student_parameters"], set()).add(trial["student_latency_ms"])
    assert [len(times) for times in found.values()] == [1, 1]


@pytest.mark.parametrize("objective", ["objective=l1_latency", "objective.max_latency_ms=1e6"])
def test_where_it_decides_each_student_is_timed_in_full(
    sweep: Sweep, measured: list[int], objective: str
) -> None:
    assert sweep(*HERE, objective) == 0
    assert measured == [20] * 4
