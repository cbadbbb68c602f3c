"""Pruning with several objectives: the rule, and that studies live with what it ends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState, create_trial

from sweep.rerun import IDENTICAL
from sweep.rerun import main as rerun
from sweep.study.shared import quiet_optuna
from sweep.trial.pareto import COURSE, Course, ParetoPruner, is_dominated
from sweep.watch import main as watch
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]

values = st.floats(-10, 10)
sizes = st.tuples(st.integers(1, 3), st.integers(1, 3))
steps = st.integers(0, 5)
curves = st.dictionaries(steps, values, max_size=5)
running = st.builds(Course, sizes, curves, st.none())
complete = st.builds(Course, sizes, curves, values)
fronts = st.lists(complete, max_size=6)
margins = st.sampled_from([0.0, 0.1, 1.0])


@given(running, fronts, margins)
def test_what_is_smaller_than_all_others_goes_on(
    course: Course, others: list[Course], margin: float
) -> None:
    """However bad it is: it is on the front by its size."""
    small = dataclasses.replace(course, known=(0, 0))
    assert not is_dominated(small, others, margin)


@given(running, fronts, margins)
def test_what_is_no_worse_than_all_others_at_its_step_goes_on(
    course: Course, others: list[Course], margin: float
) -> None:
    reached = [v for other in others for v in other.reported.values()]
    best = min([*reached, *course.reported.values()], default=0.0)
    good = dataclasses.replace(course, reported={**course.reported, 5: best})
    assert not is_dominated(good, others, margin)


@given(running, fronts, margins)
def test_who_ends_it_is_on_the_front_no_larger_and_was_better_by_then(
    course: Course, others: list[Course], margin: float
) -> None:
    if not is_dominated(course, others, margin):
        return
    step, own = max(course.reported), min(course.reported.values())
    assert any(
        all(a <= b for a, b in zip(other.known, course.known, strict=True))
        and min(v for at, v in other.reported.items() if at <= step) < own
        and not any(_dominates(third, other) for third in others)
        for other in others
        if any(at <= step for at in other.reported)
    )


@given(running, fronts, margins, st.floats(0, 5), st.integers(0, 3))
def test_to_be_worse_or_larger_saves_no_trial(
    course: Course, others: list[Course], margin: float, worse: float, larger: int
) -> None:
    if is_dominated(course, others, margin):
        reported = {step: value + worse for step, value in course.reported.items()}
        known = tuple(size + larger for size in course.known)
        assert is_dominated(Course(known, reported), others, margin)


@given(running, fronts, margins)
def test_a_wider_margin_ends_no_more(course: Course, others: list[Course], margin: float) -> None:
    if is_dominated(course, others, margin + 0.5):
        assert is_dominated(course, others, margin)


RIVAL = Course((1,), {2: 0.5, 4: 0.4}, 0.4)


@pytest.mark.parametrize(
    ("course", "others", "ended"),
    [
        (Course((1,), {2: 0.6}), [RIVAL], True),
        (Course((2,), {2: 0.6}), [RIVAL], True),
        (Course((1,), {2: 0.54}), [RIVAL], False),
        (Course((1,), {}), [RIVAL], False),
        # It was worse, but before the rival had said anything; and better once, if not since.
        (Course((1,), {1: 9.0}), [RIVAL], False),
        (Course((1,), {2: 0.5, 4: 0.9}), [Course((1,), {2: 0.5, 4: 0.5}, 0.5)], False),
        # The rival was better only later.
        (Course((1,), {2: 0.5}), [Course((1,), {2: 0.5, 4: 0.1}, 0.1)], False),
        # What was better at the step is not on the front: another, no larger, ended below it.
        (Course((1,), {2: 0.6}), [RIVAL, Course((1,), {2: 0.9, 4: 0.1}, 0.1)], False),
        (Course((1, 2), {2: 0.6}), [Course((1, 3), {2: 0.1}, 0.1)], False),
    ],
)
def test_case_by_case(course: Course, others: list[Course], ended: bool) -> None:
    assert is_dominated(course, others, 0.1) is ended


def _dominates(one: Course, other: Course) -> bool:
    mine, its = (one.value, *one.known), (other.value, *other.known)
    assert None not in (*mine, *its)
    return mine != its and all(a <= b for a, b in zip(mine, its, strict=True))  # type: ignore[operator]


def _study(sampler: optuna.samplers.BaseSampler | None = None) -> optuna.Study:
    """Six trials of growing size that all fall alike; the first objective is maximized."""
    quiet_optuna()
    study = optuna.create_study(
        storage=InMemoryStorage(), directions=["maximize", "minimize"], sampler=sampler
    )
    study.set_metric_names(["valid_l1", "student_parameters"])
    for size in range(1, 7):
        course = {
            "known": {"student_parameters": size},
            "reported": {"1": 0.1 * size, "2": 1.0 * size},
        }
        study.add_trial(
            create_trial(
                values=[1.0 * size, size],
                params={"x": 0.1 * size},
                distributions={"x": optuna.distributions.FloatDistribution(0, 1)},
                user_attrs={COURSE: course},
            )
        )
    return study


def test_directions_startup_and_warm_up() -> None:
    study = _study()
    pruner = ParetoPruner(n_startup_trials=6, n_warmup_steps=2)

    def verdict(value: float, step: int, size: int, pruner: ParetoPruner = pruner) -> bool:
        trial = study.ask()
        pruner.report(trial, value, step, {"student_parameters": size})
        # A step counts once, as with Optuna.
        pruner.report(trial, 100.0, step, {"student_parameters": size})
        return pruner.prune(study, study._storage.get_trial(trial._trial_id))

    assert verdict(3.0, 2, 4)
    assert not verdict(3.7, 2, 4), "within the margin of the trial of its size"
    assert not verdict(2.8, 2, 3)
    assert not verdict(0.0, 1, 4), "warm-up"
    assert not verdict(3.0, 2, 4, ParetoPruner(n_startup_trials=7))
    assert verdict(0.3, 1, 4, ParetoPruner(n_startup_trials=6))


@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.TPESampler(n_startup_trials=1, seed=0),
        optuna.samplers.NSGAIISampler(population_size=3, seed=0),
        optuna.samplers.NSGAIIISampler(population_size=3, seed=0),
        optuna.samplers.RandomSampler(seed=0),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samplers_live_with_what_is_pruned(sampler: optuna.samplers.BaseSampler) -> None:
    study = _study(sampler)
    for _ in range(4):
        trial: Trial = study.ask()
        trial.suggest_float("x", 0, 1)
        ParetoPruner().report(trial, 0.0, 1, {"student_parameters": 6})
        study.tell(trial, state=TrialState.PRUNED)
    assert 0 <= study.ask().suggest_float("x", 0, 1) <= 1
    assert all(trial.state is TrialState.COMPLETE for trial in study.best_trials)


def test_a_study_of_loss_and_size_ends_what_is_dominated(
    sweep: Sweep, folder: Path, record: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    """A student that is large and learns nothing; one that is small, and as bad, is kept."""
    pruner = ("hydra/sweeper/pruner=pareto", "hydra.sweeper.pruner.n_startup_trials=1")
    swept = ("student.qkv_layers=1,2,0", "optimizer.lr=1e-2,1e-9")
    assert sweep("-m", "study=a", "objective=l1_parameters", *swept, *pruner) == 0
    study = optuna.load_study(study_name="a", storage="sqlite:///multirun/studies.db")
    ends = {
        (trial.params["student.qkv_layers"], trial.params["optimizer.lr"]): trial.state
        for trial in study.trials
    }
    assert ends[2, 1e-9] is ends[1, 1e-9] is TrialState.PRUNED
    assert ends[1, 1e-2] is ends[0, 1e-2] is TrialState.COMPLETE
    # The smallest of all was no rival's, when it came.
    assert study.best_trials
    pruned = next(t for t in study.trials if t.state is TrialState.PRUNED)
    assert pruned.values is None
    found = record(f"a/{pruned.number}")
    assert found["state"] == "PRUNED"
    assert found["reason"].startswith("pruned at step 2 with valid_l1")
    course = pruned.user_attrs[COURSE]
    assert course["known"] == {"student_parameters": found["student_parameters"]}
    assert course["reported"] == {"2": found["valid_l1"]}
    said = capfd.readouterr().out
    assert "pareto" in said
    assert "nan" not in said
    assert said.count(f"{found['student_parameters']:,}") >= 3
    assert watch(["a", "--once"]) == 0
    assert f"{sum(s is TrialState.PRUNED for s in ends.values())} pruned" in capfd.readouterr().out
    assert "pruned" in (folder / "multirun/a/report.html").read_text()
    assert rerun(["multirun/a"]) == IDENTICAL
    results = (folder / "multirun/a/optimization_results.yaml").read_text()
    assert json.dumps(pruned.params["optimizer.lr"]) not in results.partition("metrics")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra/sweeper/pruner=pareto"], "allowed: median, hyperband, ... with one objective"),
        (
            ["objective=l1_parameters", "hydra/sweeper/pruner=median"],
            "hydra/sweeper/pruner=median: allowed: pareto, none with several objectives",
        ),
        (
            [
                "hydra/sweeper/pruner=pareto",
                "objective.metrics=[valid_l1,text_cosine]",
                "objective.direction=[minimize,maximize]",
            ],
            "student_parameters or student_latency_ms",
        ),
        (
            [
                "objective=l1_parameters",
                "hydra/sweeper/pruner=pareto",
                "hydra.sweeper.pruner.margin=-1",
            ],
            "hydra.sweeper.pruner.margin=-1.0: allowed",
        ),
    ],
)
def test_a_pruner_that_cannot_judge_is_one_line(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=1,2", *arguments) == 1
    error = capfd.readouterr().err
    assert said in error
    assert "Traceback" not in error
