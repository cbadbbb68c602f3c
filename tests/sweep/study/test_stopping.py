"""A study ends when its rule says so; the reason is kept, and another rule goes on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import Trial

from slicewise.errors import SlicewiseError
from sweep.studies import main as studies
from sweep.study.attributes import STOPPED
from sweep.study.samplers import LearningStudy, new_sampler
from sweep.study.shared import Budget, Rest, SharedStudy, open_study, quiet_optuna
from sweep.study.space import SearchSpace
from sweep.study.stopping import NoBetter, RegretBound, new_rule
from sweep.trial.outcome import End, Outcome
from sweep.watch import main as watch
from tests.sweep.conftest import Sweep

quiet_optuna()
NO_BETTER = {"_target_": "sweep.study.stopping.NoBetter", "trials": 3}
STEPS = {"_target_": "sweep.study.stopping.Steps", "steps": 100}
REGRET = {"_target_": "sweep.study.stopping.RegretBound", "error": 0.05, "min_trials": 10}


def opened(
    node: dict[str, Any],
    storage: Any = None,
    directions: tuple[str, ...] = ("minimize",),
    n_trials: int = 50,
) -> SharedStudy:
    storage = storage or InMemoryStorage()
    space = SearchSpace.parse(["a=interval(0.0,1.0)"])
    open_study("s", storage, directions)
    sampler = {"_target_": "optuna.samplers.RandomSampler", "seed": 0}
    study = LearningStudy("s", storage, new_sampler(sampler, space, n_trials))
    rule = (new_rule(node), node)
    return SharedStudy(study, storage, Path("unused"), space, Budget(n_trials), rule=rule)


def run(shared: SharedStudy, outcomes: list[Any]) -> Any:
    """Why it ended before the outcomes did; None: it did not."""
    for outcome in outcomes:
        trial = shared.claim("w", set())
        if not isinstance(trial, Trial):
            return trial
        if outcome is None:
            shared.tell(trial, "w", Outcome(End.PRUNED))
        else:
            values = outcome if isinstance(outcome, tuple) else (outcome,)
            shared.tell(trial, "w", Outcome(End.COMPLETE, values=values))
    end = shared.claim("w", set())
    return None if isinstance(end, Trial) else end


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.none() | st.integers(0, 5), min_size=1, max_size=15),
    trials=st.integers(1, 5),
)
def test_it_ends_at_the_first_trial_that_is_so_many_after_the_best(
    values: list[int | None], trials: int
) -> None:
    best, since, expected = math.inf, 0, None
    for number, value in enumerate(values):
        if value is not None and value < best:
            best, since = value, 0
        else:
            since += best < math.inf
        if expected is None and since >= trials and number >= trials:
            expected = number + 1
    shared = opened({**NO_BETTER, "trials": trials})
    end = run(shared, values)
    assert (end is Rest.RULE) == (expected is not None)
    if expected is not None:
        assert len(shared.study.trials) == expected
        assert shared.reason_to_stop() == f"no better for {trials} trials"


def test_on_a_front_what_nobody_dominates_is_better() -> None:
    shared = opened(NO_BETTER, directions=("minimize", "minimize"))
    assert run(shared, [(1.0, 5.0), (2.0, 4.0), (3.0, 3.0), (4.0, 2.0), (5.0, 1.0)]) is None
    assert run(shared, [(6.0, 6.0)] * 3) is Rest.RULE


def test_the_reason_is_kept_and_another_rule_goes_on() -> None:
    storage = InMemoryStorage()
    assert run(opened(NO_BETTER, storage), [1.0] * 9) is Rest.RULE
    again = opened(NO_BETTER, storage)
    assert again.rest() is Rest.RULE
    assert again.study.user_attrs[STOPPED] == {
        "rule": NO_BETTER,
        "reason": "no better for 3 trials",
    }
    assert opened({**NO_BETTER, "trials": 7}, storage).rest() is None
    assert opened({"_target_": "sweep.study.stopping.Never"}, storage).rest() is None
    again.forget_other_rules()
    assert again.rest() is Rest.RULE
    # It is no longer what ended the study.
    opened({**NO_BETTER, "trials": 7}, storage).forget_other_rules()
    assert again.study.user_attrs[STOPPED] is None


@settings(max_examples=30, deadline=None)
@given(
    taken=st.lists(
        st.tuples(st.integers(1, 40), st.sampled_from([End.COMPLETE, End.PRUNED, End.FAILED])),
        min_size=1,
        max_size=8,
    ),
    allowed=st.integers(1, 100),
)
def test_it_ends_once_so_many_steps_are_taken_however_their_trials_ended(
    taken: list[tuple[int, End]], allowed: int
) -> None:
    shared = opened({**STEPS, "steps": allowed}, n_trials=1000)
    spent = 0
    for steps, end in taken:
        trial = shared.claim("w", set())
        assert isinstance(trial, Trial)
        # A fit is judged where it is validated; what it took in the end, it tells.
        trial.report(1.0, max(1, steps // 2))
        trial.set_user_attr("steps", steps)
        shared.tell(trial, "w", Outcome(end, values=(1.0,) if end is End.COMPLETE else ()))
        spent += steps
        # Judged when one has ended that counts.
        if end is not End.FAILED and spent >= allowed:
            assert shared.claim("w", set()) is Rest.RULE
            return
    assert shared.rest() is None


def test_steps_of_trials_that_run_count_as_far_as_they_have_reported() -> None:
    shared = opened(STEPS)
    first, second = shared.claim("v", set()), shared.claim("w", set())
    assert isinstance(first, Trial)
    assert isinstance(second, Trial)
    first.report(1.0, 60)
    second.report(1.0, 30)
    assert shared.rest() is None
    second.report(1.0, 40)
    shared.tell(second, "w", Outcome(End.PRUNED))
    assert shared.claim("w", set()) is Rest.RULE
    assert shared.reason_to_stop() == "100 steps of 100 are taken"


def test_optunas_bound_ends_a_study_that_has_little_to_gain() -> None:
    shared = opened(REGRET, n_trials=60)
    trials = 0
    while isinstance(trial := shared.claim("w", set()), Trial):
        value = 10 * (trial.params["a"] - 0.4) ** 2
        shared.tell(trial, "w", Outcome(End.COMPLETE, values=(value,)))
        trials += 1
    assert trial is Rest.RULE
    assert 10 <= trials < 60
    assert str(shared.reason_to_stop()).startswith("the best could gain ")
    # So it does where each value is a mean whose deviation is as large.
    sure = opened({**REGRET, "error": None})
    while isinstance(trial := sure.claim("w", set()), Trial):
        trial.set_user_attr("value_std", 0.05)
        value = 10 * (trial.params["a"] - 0.4) ** 2
        sure.tell(trial, "w", Outcome(End.COMPLETE, values=(value,)))
    assert trial is Rest.RULE
    assert len(sure.study.trials) == trials
    # With values all over the place there is always more to gain.
    noisy = opened({**REGRET, "error": 1e-6})
    assert run(noisy, [math.sin(1e4 * i) for i in range(12)]) is None


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({**NO_BETTER, "trials": 0}, "hydra.sweeper.stop.trials=0: allowed: an integer of at"),
        ({**NO_BETTER, "trails": 3}, "hydra.sweeper.stop: .*unexpected keyword argument 'trails'"),
        ({**STEPS, "steps": None}, "hydra.sweeper.stop.steps=null: allowed: an integer of at"),
        ({**REGRET, "error": -1}, "hydra.sweeper.stop.error=-1: allowed: a number above 0"),
        ({"_target_": "sweep.study.stopping.NoBeter"}, "hydra.sweeper.stop: .*NoBeter"),
        ({"_target_": "os.system"}, "hydra.sweeper.stop._target_=os.system: allowed: slicewise"),
        ({"_target_": "sweep.study.space.History"}, "History: allowed: a subclass of"),
    ],
)
def test_a_rule_that_cannot_be_is_one_message(node: dict[str, Any], message: str) -> None:
    with pytest.raises(SlicewiseError, match=message):
        new_rule(node)


def test_a_bound_is_refused_where_it_cannot_judge() -> None:
    with pytest.raises(SlicewiseError, match="no_better with several objectives"):
        RegretBound().check(SearchSpace.parse(["a=1,2"]), 2)
    with pytest.raises(SlicewiseError, match="no_better with custom_search_space"):
        RegretBound().check(SearchSpace.parse([], custom=lambda config, trial: None), 1)
    NoBetter().check(SearchSpace.parse([], custom=lambda config, trial: None), 2)


def test_a_sweep_says_why_it_stopped(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    command = ("-m", "study=a", "optimizer.lr=interval(1e-12,1e-11)", "trainer.accelerator=cpu")
    few = ("hydra/sweeper/stop=no_better", "hydra.sweeper.stop.trials=1")
    assert sweep(*command, *few, "hydra.sweeper.n_trials=9") == 0
    assert "Stopped before its budget was met: no better for 1 trials." in capfd.readouterr().out
    assert sweep(*command, *few, "hydra.sweeper.n_trials=9") == 0
    assert "Study a is finished: no better for 1 trials. To go on" in capfd.readouterr().out
    study = optuna.load_study(study_name="a", storage="sqlite:///multirun/studies.db")
    assert len(study.trials) < 9
    assert watch(["a", "--once"]) == 0
    assert "Stopped before its budget was met: no better for 1 trials" in capfd.readouterr().out
    assert sweep(*command, "hydra/sweeper/stop=no_beter") == 1
    said = capfd.readouterr().err
    assert "hydra/sweeper/stop=no_beter: allowed: no_better, none, regret_bound, steps" in said
    assert "Traceback" not in said


def test_a_sweep_says_that_its_time_was_up_until_it_goes_on(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ("-m", "study=a", "optimizer.lr=interval(1e-4,1e-2)")
    up = "Stopped before its budget was met: the time is up (hydra.sweeper.timeout=0.001)"
    assert sweep(*command, "hydra.sweeper.timeout=0.001") == 0
    said = capfd.readouterr().out
    assert f"{up}." in said
    # Nothing has failed.
    assert "mended" not in said
    assert watch(["a", "--once"]) == 0
    assert up in capfd.readouterr().out
    assert studies([]) == 0
    assert "stopped" in capfd.readouterr().out
    assert sweep(*command, "hydra.sweeper.n_trials=1") == 0
    assert watch(["a", "--once"]) == 0
    assert "Stopped" not in capfd.readouterr().out
    # A budget that is met has not been stopped.
    assert sweep(*command, "hydra.sweeper.n_trials=1", "hydra.sweeper.timeout=0.001") == 0
    assert "Stopped" not in capfd.readouterr().out
