"""metrics.csv costs a fit nothing between two validations."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import pytorch_lightning as lightning
from sqlalchemy import event
from sqlalchemy.engine import Engine

from sweep.trial import active as active_trial
from sweep.trial.active import StudyTrial, activated
from sweep.trial.metrics_file import MetricsFile
from sweep.trial.outcome import TrialLost
from tests.clock import Clock
from tests.sweep.conftest import Sweep


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What fits of this thread ask a database."""
    asked: list[str] = []
    here, fitting = threading.get_ident(), False
    fit = lightning.Trainer.fit

    def noted_fit(*arguments: Any, **named: Any) -> None:
        nonlocal fitting
        fitting = True
        fit(*arguments, **named)
        fitting = False

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if fitting and threading.get_ident() == here:
            asked.append(statement)

    monkeypatch.setattr(lightning.Trainer, "fit", noted_fit)
    event.listen(Engine, "before_cursor_execute", note)
    yield asked
    event.remove(Engine, "before_cursor_execute", note)


def _trial(study: optuna.Study, answers: list[bool], trusted: float) -> StudyTrial:
    """A trial that is ours as often as it is asked and the answers say so."""
    return StudyTrial(study.ask(), threading.Event(), lambda: answers.pop(), trusted)


def test_no_row_asks_a_database(sweep: Sweep, questions: list[str]) -> None:
    """Ten times as many rows, and not a question more."""
    asked = []
    for name, every in (("few", 50), ("many", 5)):
        questions.clear()
        settings = ("data.train_batches=50", f"trainer.log_every_n_steps={every}")
        assert sweep("-m", f"study={name}", "seed=0", *settings) == 0
        rows = Path(f"multirun/{name}/0/metrics.csv").read_text().splitlines()
        asked.append(len(questions))
        assert len(rows) == 1 + 50 // every + 5
    assert asked[0] == asked[1]
    # Five validations are reported.
    assert 5 <= asked[0] <= 30


def test_rows_wait_for_what_makes_them_count(tmp_path: Path) -> None:
    file, logger = tmp_path / "metrics.csv", MetricsFile(str(tmp_path))
    for step in range(200):
        logger.log_metrics({"train_l1": 0.5}, step)
        logger.save()
    assert not file.exists()
    logger.flush()
    assert len(file.read_text().splitlines()) == 201
    logger.log_metrics({"train_l1": 0.5}, 200)
    logger.finalize("failed")
    assert len(file.read_text().splitlines()) == 202


def test_rows_do_not_wait_for_long(tmp_path: Path) -> None:
    logger = MetricsFile(str(tmp_path), every_seconds=0)
    logger.log_metrics({"train_l1": 0.5}, 0)
    logger.save()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2


def test_what_the_heartbeat_has_seen_is_believed_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(active_trial, "time", clock)
    answers = [False]
    active = _trial(optuna.create_study(), answers, trusted=0.2)
    active.confirm(clock.monotonic())
    clock.sleep(0.15)
    assert not active.is_lost()
    assert answers
    clock.sleep(0.1)
    # As after a suspension: the thread has not asked either.
    assert active.is_lost()
    assert not answers
    active.confirm(clock.monotonic())
    assert active.is_lost()


def test_before_anything_final_the_storage_is_asked() -> None:
    active = _trial(optuna.create_study(), [False, True], trusted=math.inf)
    active.confirm(0.0)
    active.check_possession()
    with pytest.raises(TrialLost):
        active.check_possession()
    assert active.abandoned.is_set()


def test_rows_of_a_trial_that_is_lost_are_not_written(tmp_path: Path) -> None:
    logger = MetricsFile(str(tmp_path))
    logger.log_metrics({"train_l1": 0.5}, 0)
    with activated(_trial(optuna.create_study(), [False], trusted=0)):
        logger.flush()
    assert not (tmp_path / "metrics.csv").exists()
