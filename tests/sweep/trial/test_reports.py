"""What a task function may tell its study, and ask it: `from sweep import trial`."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import optuna
import pytest
import torch

from sweep import trial
from sweep.trial.active import StudyTrial, activated
from sweep.trial.outcome import TrialLost, TrialStopped


@pytest.fixture
def active() -> Iterator[StudyTrial]:
    """A trial of a study whose pruner ends whatever reports more than 1."""
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=1.0))
    running = StudyTrial(study.ask(), threading.Event())
    with activated(running):
        yield running


def test_outside_a_study_reports_go_nowhere_and_nothing_is_pruned() -> None:
    trial.report(0, 2.0)
    assert not trial.should_prune()


def test_a_report_reaches_the_study_and_its_pruner(active: StudyTrial) -> None:
    assert not trial.should_prune()
    trial.report(0, 0.5)
    assert not trial.should_prune()
    trial.report(1, 2)
    assert trial.should_prune()
    assert active.trial.storage.get_trial(0).intermediate_values == {0: 0.5, 1: 2.0}


@pytest.mark.parametrize(
    ("step", "value"), [(np.int64(3), np.float32(0.5)), (torch.tensor(3), torch.tensor(0.5))]
)
def test_numbers_of_any_library_are_numbers(
    active: StudyTrial, step: object, value: object
) -> None:
    trial.report(step, value)  # type: ignore[arg-type]
    assert active.trial.storage.get_trial(0).intermediate_values == {3: 0.5}


@pytest.mark.parametrize(
    ("step", "value", "said"),
    [
        (0.5, 3, r"report\(step, value\): the step is 0.5, not an integer"),
        (1.0, 3, "the step is 1.0"),
        ("1", 3, "the step is '1'"),
        (1, "low", "the value is 'low', not a number"),
        (1, None, "the value is None"),
    ],
)
def test_optunas_own_order_is_noticed_in_a_study_or_not(
    step: object, value: object, said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        trial.report(step, value)  # type: ignore[arg-type]


def test_a_sweep_that_stops_stops_its_trials_where_they_report(active: StudyTrial) -> None:
    active.stop.set()
    with pytest.raises(TrialStopped, match="stopped at step 4"):
        trial.report(4, 0.5)
    # Whoever goes on with it knows how far it was.
    assert active.trial.storage.get_trial(0).intermediate_values == {4: 0.5}


def test_a_trial_of_another_worker_tells_nothing_any_more(active: StudyTrial) -> None:
    active.abandoned.set()
    with pytest.raises(TrialLost):
        trial.report(4, 0.5)
    assert not active.trial.storage.get_trial(0).intermediate_values


def test_several_directions_are_not_pruned() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    with activated(StudyTrial(study.ask(), threading.Event())):
        trial.report(0, 0.5)
        assert not trial.should_prune()
