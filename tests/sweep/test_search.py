"""What a search looks at, and where it looks: objectives, presets, families, recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from slicewise import load_student
from sweep.console import MISTAKE
from sweep.enqueue import add as enqueue
from sweep.study.attributes import FINISHED, IMPOSSIBLE, REASON
from sweep.study.plan import DEFAULT_STORAGE
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]


def _study() -> optuna.Study:
    return optuna.load_study(study_name="s", storage="sqlite:///multirun/studies.db")


@pytest.mark.parametrize(
    "family", ["approx", "bert_layer", "low_rank", "approx_ffn", "linear", "original"]
)
def test_every_family_ends_with_a_student_and_its_place_in_the_model(
    sweep: Sweep, record: Record, folder: Path, family: str
) -> None:
    sizes = ("student.rank=8",) if family == "low_rank" else ()
    assert sweep(f"student={family}", *sizes, "study=s") == 0
    found = record("s/0")
    assert found["state"] == "COMPLETE"
    assert found["steps"] == (0 if family in ("linear", "original") else 10)
    assert found["student_flops"] > 0
    assert found["student_latency_ms"] > 0
    assert -1 <= found["text_cosine"] <= 1 + 1e-6
    assert found["text_l1"] >= 0
    if family == "original":
        assert found["valid_l1"] < 1e-6
        assert found["text_l1"] < 1e-6
        assert found["text_cosine"] == pytest.approx(1, abs=1e-6)
    student = load_student(folder / "multirun/s/0/student")
    assert sum(p.numel() for p in student.parameters()) == found["student_parameters"]


def test_too_large_a_student_is_rejected_before_training(sweep: Sweep, record: Record) -> None:
    points = "student.qkv_layers=0,1,4"
    assert sweep("-m", "study=s", points, "objective.max_parameters=4000") == 0
    small, medium, large = _study().trials
    assert small.state is medium.state is TrialState.COMPLETE
    assert large.state is TrialState.FAIL
    assert large.user_attrs[IMPOSSIBLE]
    assert "more than objective.max_parameters=4,000" in large.user_attrs[REASON]
    assert record("s/2")["steps"] == 0


def test_too_slow_a_student_is_rejected_before_training(sweep: Sweep, record: Record) -> None:
    assert sweep("study=s", "objective.max_latency_ms=1e-6") == MISTAKE
    found = record("s/0")
    assert "more than objective.max_latency_ms=1e-06" in found["reason"]
    assert found["steps"] == 0


def test_loss_and_size_make_a_front(sweep: Sweep, record: Record) -> None:
    command = ("-m", "study=s", "search=article", "objective=l1_parameters")
    assert sweep(*command, "hydra.sweeper.n_trials=6") == 0
    study = _study()
    assert study.directions == [StudyDirection.MINIMIZE] * 2
    assert study.metric_names == ["valid_l1", "student_parameters"]
    for trial in study.trials:
        assert set(trial.params) == {
            "student.qkv_layers",
            "student.attention_hidden_size",
            "student.value_dim",
        }
        found = record(f"s/{trial.number}")
        assert trial.values == [found["valid_l1"], found["student_parameters"]]
    front = [trial.values for trial in study.best_trials]
    assert all(not (a[0] < b[0] and a[1] < b[1]) for a in front for b in front)


def test_the_best_on_text_is_the_highest(sweep: Sweep, record: Record) -> None:
    pruner = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1")
    families = "student=approx,bert_layer,original"
    assert sweep("-m", "study=s", "objective=text_cosine", *pruner, families) == 0
    study = _study()
    assert study.direction is StudyDirection.MAXIMIZE
    assert study.best_trial.params == {"student": "original"}
    assert study.best_value == record("s/2")["text_cosine"]
    # The loss is nothing that this study could compare.
    assert not any(trial.intermediate_values for trial in study.trials)


def test_the_students_preset_asks_each_family_its_own_questions(sweep: Sweep) -> None:
    wide = (
        *("teacher.hidden_size=192", "teacher.intermediate_size=1536"),
        *("teacher.num_attention_heads=4", "data.train_batches=2"),
    )
    command = ("-m", "study=s", "search=students", *wide)
    assert sweep(*command, "hydra.sweeper.n_trials=12", "hydra/sweeper/sampler=random") == 0
    asked: dict[str, set[str]] = {}
    for trial in _study().trials:
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED), trial.user_attrs
        asked.setdefault(trial.params["student"], set()).update(trial.params)
    assert len(asked) > 1
    for family, keys in asked.items():
        assert ("student.rank" in keys) == (family == "low_rank")
        assert ("student.intermediate_size" in keys) == (family in ("bert_layer", "approx_ffn"))
        assert "optimizer.lr" in keys


@pytest.mark.parametrize("preset", ["students", "article"])
def test_a_preset_runs_with_the_launcher_that_is_the_default(command: Any, preset: str) -> None:
    """What is searched goes to workers in other processes."""
    points = ("hydra.sweeper.n_trials=1", "teacher.intermediate_size=1536")
    done = command("sweep", "-m", "study=s", "experiment=tiny", f"search={preset}", *points)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Study s: 1 " in done.stdout


@pytest.mark.parametrize("path", ["sweep.search.nobody", "nowhere.students", "students"])
def test_a_custom_space_that_is_not_there_is_one_message(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], path: str
) -> None:
    assert sweep("-m", "study=s", f"hydra.sweeper.custom_search_space={path}") == 1
    said = capfd.readouterr().err
    assert f"hydra.sweeper.custom_search_space={path}: allowed: the dotted path" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("data", ["text", "tokens", "mixed"])
def test_students_learn_from_what_enters_the_slice(sweep: Sweep, record: Record, data: str) -> None:
    assert sweep(f"data={data}", "data.train_batches=60", "study=s", "student=bert_layer") == 0
    trained, untrained = record("s/0"), "study=u"
    assert sweep(f"data={data}", "data.train_batches=2", untrained, "student=bert_layer") == 0
    assert trained["text_l1"] < record("u/0")["text_l1"]


@pytest.mark.parametrize(
    "recipe",
    [
        ("scheduler=cosine", "optimizer=muon"),
        ("scheduler=one_cycle", "callbacks=ema"),
        ("scheduler=warmup",),
    ],
)
def test_recipes_lower_the_loss(sweep: Sweep, record: Record, recipe: tuple[str, ...]) -> None:
    assert sweep("study=s", *recipe, "data.train_batches=80") == 0
    assert record("s/0")["baseline_ratio"] > 1.5


def test_a_search_among_families_goes_on_where_it_stopped(sweep: Sweep) -> None:
    """A family is an option of a group, of which the configuration itself has another one."""
    wide = (
        *("teacher.hidden_size=192", "teacher.intermediate_size=1536"),
        *("teacher.num_attention_heads=4", "data.train_batches=2"),
    )
    command = ("-m", "study=s", "search=students", *wide, "hydra/sweeper/sampler=random")
    assert sweep(*command, "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=0") == 0
    assert len({trial.params["student"] for trial in _study().trials}) > 1
    enqueue("s", DEFAULT_STORAGE, ["student=low_rank", "student.rank=16"])
    assert sweep(*command, "hydra.sweeper.n_trials=4", "hydra.sweeper.timeout=100") == 0
    assert [trial.state in FINISHED for trial in _study().trials] == [True] * 4
    assert _study().trials[3].params["student.rank"] == 16
