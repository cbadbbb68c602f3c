"""Targets shared by the trials of a study: the same losses to the bit, and asked for once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.console import MISTAKE
from sweep.trial import cache
from sweep.trial.settings import CacheSettings
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]
POINTS = "student.qkv_layers=0,1,2"


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    """As in a process that begins."""
    cache._targets.cache_clear()


def _losses(record: Record, study: str) -> list[tuple[float, float]]:
    records = [record(f"{study}/{number}") for number in range(3)]
    return [(found["valid_l1"], found["train_l1"]) for found in records]


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("multirun/.cache/*/*"))


@pytest.mark.parametrize("data", ["noise", "text"])
def test_cached_losses_are_the_uncached_ones(
    sweep: Sweep, record: Record, folder: Path, data: str
) -> None:
    small = (f"data={data}", "data.train_batches=10", "data.valid_batches=2")
    for mode in ("off", "memory", "disk", "auto"):
        assert sweep("-m", f"study={mode}", f"data.cache={mode}", POINTS, *small) == 0
    uncached = _losses(record, "off")
    for mode in ("memory", "disk", "auto"):
        assert _losses(record, mode) == uncached
    assert sum(name.startswith("train-") for name in _files(folder)) == 10
    # Another process, so to speak, that finds all of them.
    cache._targets.cache_clear()
    assert sweep("-m", "study=again", "data.cache=disk", POINTS, *small) == 0
    assert _losses(record, "again") == uncached
    assert cache._targets.cache_info().currsize == 1


def test_the_teacher_is_asked_once_for_a_target(sweep: Sweep, monkeypatch: Any) -> None:
    made = []
    original = cache.CachedTargets

    def noted(*arguments: Any, **named: Any) -> Any:
        made.append(original(*arguments, **named))
        return made[-1]

    monkeypatch.setattr(cache, "CachedTargets", noted)
    assert sweep("-m", "study=s", "data.cache=disk", POINTS) == 0
    [targets] = made
    # Ten of training and two of validation, for three trials.
    assert targets.computed == 12


def test_a_single_fit_keeps_nothing_on_disk_unless_told(sweep: Sweep, folder: Path) -> None:
    assert sweep("study=s") == 0
    assert not _files(folder)
    assert sweep("study=t", "data.cache=disk") == 0
    assert _files(folder)


def test_damaged_targets_cost_time_and_nothing_else(
    sweep: Sweep, record: Record, folder: Path
) -> None:
    assert sweep("-m", "study=whole", "data.cache=disk", POINTS) == 0
    for path in folder.glob("multirun/.cache/*/*"):
        path.write_bytes(os.urandom(100))
    cache._targets.cache_clear()
    assert sweep("-m", "study=damaged", "data.cache=disk", POINTS) == 0
    assert _losses(record, "damaged") == _losses(record, "whole")


def test_a_compiled_teacher_has_targets_of_its_own(sweep: Sweep, folder: Path) -> None:
    for study, compiled in (("plain", "false"), ("compiled", "true"), ("again", "true")):
        assert sweep(f"study={study}", "data.cache=disk", f"steps.compile={compiled}") == 0
        cache._targets.cache_clear()
    assert len(list(folder.glob("multirun/.cache/*"))) == 2


def test_where_targets_are_kept_is_no_part_of_a_study(sweep: Sweep) -> None:
    command = ("-m", "study=s", POINTS)
    assert sweep(*command, "data.cache=off") == 0
    assert sweep(*command, "data.cache=disk", "data.cache_limit=1") == 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.cache=always", "data.cache=always: allowed: auto, off, memory, disk"),
        ("data.cache_limit=-1", "data.cache_limit=-1: allowed: gigabytes, at least 0, or null"),
    ],
)
def test_mistakes(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], override: str, said: str
) -> None:
    assert sweep("study=s", override) == MISTAKE
    assert said in capfd.readouterr().err


def test_half_precision_ends_near_full_precision(sweep: Sweep, record: Record) -> None:
    shared = ("data.train_batches=300", "data.batch_size=8", "student.dropout=0")
    assert sweep(*shared, "study=full", "trainer.precision=32-true", "scheduler=one_cycle") == 0
    assert sweep(*shared, "study=half", "trainer.precision=bf16-mixed", "scheduler=one_cycle") == 0
    assert record("half/0")["precision"] == "bf16-mixed"
    full, half = record("full/0")["valid_l1"], record("half/0")["valid_l1"]
    assert half == pytest.approx(full, rel=0.01)


def test_unless_told_the_place_decides_how_much_is_kept() -> None:
    free = CacheSettings.of({})
    assert (free.mode, free.limit, free.limit_off_gpu) == ("auto", None, 8 * 10**9)
    assert CacheSettings.of({"cache_limit": None}) == free
    told = CacheSettings.of({"cache_limit": 0.5})
    assert told.limit == told.limit_off_gpu == 5 * 10**8
