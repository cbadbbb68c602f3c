"""The first rung is the first report, wherever validations lie."""

from __future__ import annotations

import random
from typing import Any

import optuna
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna import pruners
from optuna.trial import TrialState

from sweep.study.rungs import SuccessiveHalvingPruner
from sweep.study.shared import quiet_optuna

quiet_optuna()
LOSSES = st.lists(st.lists(st.integers(0, 9), min_size=10, max_size=10), min_size=1, max_size=12)


def ends(pruner: pruners.BasePruner, losses: list[list[int]], interval: int) -> list[int]:
    """After how many of its reports each trial ended, of trials that report at every interval."""
    study = optuna.create_study(pruner=pruner)
    reports = []
    for course in losses:
        trial = study.ask()
        for number, loss in enumerate(course, start=1):
            trial.report(loss, number * interval)
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            study.tell(trial, course[-1])
        reports.append(number)
    return reports


@settings(max_examples=40, deadline=None)
@given(losses=LOSSES, interval=st.integers(1, 400), factor=st.integers(2, 5))
def test_it_is_optunas_with_the_first_reports_step(
    losses: list[list[int]], interval: int, factor: int
) -> None:
    known: dict[str, Any] = {"min_resource": interval, "reduction_factor": factor}
    expected = ends(pruners.SuccessiveHalvingPruner(**known), losses, interval)
    assert ends(SuccessiveHalvingPruner(reduction_factor=factor), losses, interval) == expected
    assert ends(SuccessiveHalvingPruner(**known), losses, interval) == expected


def test_a_first_validation_is_one_rung_and_not_several() -> None:
    losses = [[loss] * 10 for loss in random.Random(0).sample(range(64), 64)]

    def gone_on(pruner: pruners.BasePruner) -> int:
        return sum(reports > 1 for reports in ends(pruner, losses, 40))

    # Of 400 steps four is the first of Optuna's rungs: the fourth and the 16th lie behind, too.
    assert gone_on(pruners.SuccessiveHalvingPruner()) < 9
    assert gone_on(SuccessiveHalvingPruner()) >= 64 // 4


def test_reports_from_zero_on_are_as_optunas() -> None:
    study = optuna.create_study(pruner=SuccessiveHalvingPruner())
    trial = study.ask()
    trial.report(1.0, 0)
    assert not trial.should_prune()
    assert trial.storage.get_trial(trial._trial_id).system_attrs == {}
    trial.report(1.0, 1)
    trial.should_prune()
    assert trial.storage.get_trial(trial._trial_id).system_attrs == {"completed_rung_0": 1.0}
