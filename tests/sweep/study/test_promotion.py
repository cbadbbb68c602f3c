"""Why trials of a rung are ended and not paused: what Optuna's model of a trial allows.

Should one of these fail with another Optuna, pausing can be had: docs/studies.md, "Promotion".
"""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.study.shared import quiet_optuna
from sweep.study.storage import open_storage

SPACE = FloatDistribution(0.0, 1.0)


@pytest.mark.parametrize("url", ["sqlite:///studies.db", "journal:///studies.log", None])
def test_a_trial_that_was_pruned_cannot_run_again(folder: Path, url: str | None) -> None:
    quiet_optuna()
    storage = InMemoryStorage() if url is None else open_storage(url)
    study = optuna.create_study(storage=storage)
    trial = study.ask({"x": SPACE})
    trial.report(1.0, 1)
    study.tell(trial, state=TrialState.PRUNED)
    for state in (TrialState.RUNNING, TrialState.WAITING):
        with pytest.raises(UpdateFinishedTrialError):
            storage.set_trial_state_values(trial._trial_id, state)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_intermediate_value(trial._trial_id, 2, 0.5)


def _suggested(state: TrialState, value: float) -> list[float]:
    """What TPE suggests after pruned trials, and one in this state that has reported a value."""
    study = optuna.create_study()
    for number in range(10):
        study.add_trial(_trial(TrialState.PRUNED, number / 10, number / 10))
    study.add_trial(_trial(state, 0.95, value))
    asked = study._storage.get_trial(study._storage.create_new_trial(study._study_id))
    samplers = [TPESampler(seed=s, n_startup_trials=5, constant_liar=True) for s in range(5)]
    return [sampler.sample_relative(study, asked, {"x": SPACE})["x"] for sampler in samplers]


def _trial(state: TrialState, x: float, value: float) -> FrozenTrial:
    return create_trial(
        state=state,
        params={"x": x},
        distributions={"x": SPACE},
        intermediate_values={1: value},
    )


def test_samplers_learn_from_a_pruned_trial_but_not_from_one_that_waits_or_runs() -> None:
    quiet_optuna()
    good, bad = -1.0, 2.0
    assert _suggested(TrialState.PRUNED, good) != _suggested(TrialState.PRUNED, bad)
    for paused in (TrialState.WAITING, TrialState.RUNNING):
        assert _suggested(paused, good) == _suggested(paused, bad)


def test_any_worker_of_optunas_takes_a_trial_that_waits() -> None:
    quiet_optuna()
    study = optuna.create_study()
    study.add_trial(_trial(TrialState.WAITING, 0.5, 2.0))
    assert study.ask().number == 0
