"""`python -m sweep.enqueue`, `hydra.sweeper.enqueue` and `warm_start`: what a study is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.storages import BaseStorage
from optuna.trial import TrialState, create_trial

from slicewise.errors import ArgumentError, SlicewiseError
from sweep import enqueue
from sweep.study import points, warm_start
from sweep.study.attributes import IDENTITY, STOPPED
from sweep.study.plan import Plan, is_finished, write_plan
from sweep.study.samplers import LearningStudy, new_sampler, sampler_of_trial
from sweep.study.shared import Budget, SharedStudy, quiet_optuna
from sweep.study.space import SearchSpace
from sweep.study.storage import open_storage
from sweep.trial.outcome import End, Outcome
from tests.sweep.conftest import Sweep

quiet_optuna()
URL = "sqlite:///multirun/studies.db"
LR = FloatDistribution(1e-4, 1e-1, log=True)
LAYERS = CategoricalDistribution([1, 2, None, "x", "[1,2]"])
SPACE = {"optimizer.lr": LR, "student.qkv_layers": LAYERS}


def make(name: str, trials: list[tuple[float, Any, float]], storage: Any = URL) -> optuna.Study:
    """A study of this space, with trials that have ended: rate, layers, value."""
    if storage == URL:
        storage = open_storage(URL)
    study = optuna.create_study(study_name=name, storage=storage)
    study.set_metric_names(["valid_l1"])
    space = {key: json.loads(distribution_to_json(one)) for key, one in SPACE.items()}
    study.set_user_attr(IDENTITY, {"space": space, "config": {"seed": 0}})
    for rate, layers, value in trials:
        params = {"optimizer.lr": rate, "student.qkv_layers": layers}
        study.add_trial(create_trial(params=params, distributions=dict(SPACE), value=value))
    return study


def waiting(name: str) -> list[dict[str, Any]]:
    trials = optuna.load_study(study_name=name, storage=URL).get_trials(
        states=(TrialState.WAITING,)
    )
    return [trial.system_attrs["fixed_params"] for trial in trials]


@pytest.fixture
def study(folder: Path) -> optuna.Study:
    return make("a", [(0.01, 1, 0.3), (0.02, None, 0.1), (0.03, "x", 0.2)])


def test_points_wait_before_a_samplers(
    study: optuna.Study, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enqueue.main(["a", "optimizer.lr=0.05", "student.qkv_layers=null"]) == 0
    assert "lr=0.05, qkv_layers=null: waits as trial 3" in capsys.readouterr().out
    assert enqueue.main(["a", "student.qkv_layers='x'"]) == 0
    (folder / "p.csv").write_text(
        'student.qkv_layers, optimizer.lr\n2, 0.05\n\n"[1,2]",\n1,0.01\n2,0.05\n'
    )
    assert enqueue.main(["a", "--csv", "p.csv"]) == 0
    assert capsys.readouterr().out.count("has been tried, or waits") == 2
    assert waiting("a") == [
        {"optimizer.lr": 0.05, "student.qkv_layers": None},
        {"student.qkv_layers": "x"},
        {"student.qkv_layers": 2, "optimizer.lr": 0.05},
        {"student.qkv_layers": "[1,2]"},
    ]


def test_so_do_the_best_of_another_study(study: optuna.Study) -> None:
    make("b", [])
    assert enqueue.main(["b", "--best", "2", "--from", "a"]) == 0
    assert waiting("b") == [
        {"optimizer.lr": 0.02, "student.qkv_layers": None},
        {"optimizer.lr": 0.03, "student.qkv_layers": "x"},
    ]


REFUSED = [
    (["student.qkv_layers=3"], "qkv_layers=3: allowed: student.qkv_layers=1,2,null,x,"),
    (["student.qkv_layers=true"], "qkv_layers=true: allowed:"),
    (["optimizer.lr=1"], "optimizer.lr=1: allowed: optimizer.lr=tag(log,interval(0.0001,0.1))"),
    (["seed=1"], "seed=1: allowed: a key that the study searches: optimizer.lr, student"),
    (["optimizer.lr=0.01,0.02"], "optimizer.lr=0.01,0.02: allowed: one value"),
    (["optimizer.lr"], "optimizer.lr: allowed: what Hydra's grammar takes"),
    (["optimizer.lr=0.01", "student.qkv_layers=1"], "trial 0 has that point already"),
    (["--csv", "none.csv"], "--csv=none.csv: allowed: a CSV file that can be read"),
    (["--csv", "empty.csv"], "--csv=empty.csv: allowed: a CSV file with a row of keys"),
    (["--csv", "bad.csv"], "bad.csv, row 3: optimizer.lr=7: allowed:"),
    (["--csv", "long.csv"], "long.csv, row 2: allowed: 1 cells, not 2"),
    (["--csv", "twice.csv"], "twice.csv, row 2: optimizer.lr=0.06: allowed: one value; it has two"),
    (["optimizer.lr=0.05", "optimizer.lr=0.06"], "optimizer.lr=0.06: allowed: one value"),
    (["bad.csv"], "bad.csv is a file: python -m sweep.enqueue a --csv bad.csv"),
    (["--best", "2"], "--best N and --from STUDY belong together"),
    (["--best", "0", "--from", "a"], "--best=0: allowed: an integer of at least 1"),
    (["--best", "1", "--from", "nobody"], "study=nobody: there is no such study"),
    ([], "no point is given: python -m sweep.enqueue a optimizer.lr=VALUE"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_is_no_point_is_refused_in_one_line_and_nothing_waits(
    study: optuna.Study,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (folder / "empty.csv").touch()
    (folder / "bad.csv").write_text("optimizer.lr\n0.05\n7\n")
    (folder / "twice.csv").write_text("optimizer.lr,optimizer.lr\n0.05,0.06\n")
    (folder / "long.csv").write_text("optimizer.lr\n0.05,2\n")
    assert enqueue.main(["a", *arguments]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert waiting("a") == []


def test_where_a_rule_has_ended_the_study_it_says_how_to_go_on_all_the_same(
    study: optuna.Study, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = "hydra/sweeper/stop=no_better hydra.sweeper.stop.trials=3"
    command = f"python -m sweep -m 'optimizer.lr=interval(0.1,1)' {rule} study=a"
    write_plan(study, Plan(n_trials=9, command=command))
    study.set_user_attr(STOPPED, {"rule": {}, "reason": "no better for 3 trials"})
    assert enqueue.main(["a", "optimizer.lr=0.05"]) == 0
    said = capsys.readouterr().out
    assert "A rule has ended the study: no better for 3 trials." in said
    # Without what only that rule has.
    going_on = "python -m sweep -m 'optimizer.lr=interval(0.1,1)' study=a hydra/sweeper/stop=none"
    assert said.splitlines()[-1].endswith(going_on)


def test_a_study_that_had_no_point_left_is_not_finished_where_one_waits(
    study: optuna.Study,
) -> None:
    write_plan(study, Plan(command="python -m sweep -m study=a", exhausted=True))
    assert is_finished(study)
    assert enqueue.main(["a", "optimizer.lr=0.01", "student.qkv_layers=1"]) == 1
    assert is_finished(study)
    assert enqueue.main(["a", "optimizer.lr=0.05"]) == 0
    assert not is_finished(study)


def test_a_part_of_a_point_is_refused_where_all_that_agree_with_it_are_tried(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A finite space would have to run one of them again."""
    space = {"rate": CategoricalDistribution([1, 2]), "steps": IntDistribution(3, 4)}
    study = optuna.create_study(study_name="a", storage=open_storage(URL))
    described = {key: json.loads(distribution_to_json(one)) for key, one in space.items()}
    study.set_user_attr(IDENTITY, {"space": described, "config": {}})
    write_plan(study, Plan(4, command="python -m sweep -m rate=1,2 steps=3,4"))
    for rate, steps in ((1, 3), (2, 3), (1, 4)):
        params = {"rate": rate, "steps": steps}
        study.add_trial(create_trial(params=params, distributions=dict(space), value=0.1))
    for taken in ("rate=1", "steps=3"):
        assert enqueue.main(["a", taken]) == 1
        said = capsys.readouterr().err
        assert f"{taken}: every point of the search space with it has been tried, or waits" in said
    (folder / "p.csv").write_text("rate,steps\n1,\n2,\n,4\n")
    assert enqueue.main(["a", "--csv", "p.csv"]) == 0
    said = capsys.readouterr().out
    assert "rate=1: has been tried, or waits" in said
    assert "n_trials" not in said
    assert "steps=4: has been tried, or waits" in said
    assert waiting("a") == [{"rate": 2}]


def learning(storage: BaseStorage, others: list[optuna.Study], space: SearchSpace) -> Any:
    study = optuna.create_study(study_name="new", storage=storage)
    study.set_metric_names(["valid_l1"])
    config = OmegaConf.create({"optimizer": {"lr": 0.001}})
    names, sought = ["valid_l1"], ["minimize"]
    warm = warm_start.trials_of(others, names, sought, space, config, lambda key: False)
    node = {"_target_": "optuna.samplers.TPESampler", "seed": 3}
    sampler = new_sampler(node, space, 4, warm)
    return LearningStudy("new", storage, sampler, optuna.pruners.MedianPruner())


def test_a_warm_start_teaches_and_uses_no_budget(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    values = [(10 ** (-4 + 3 * i / 29), 1 + i % 2, abs(i - 20) / 30) for i in range(30)]
    other = make("other", values, storage)
    space = SearchSpace.parse(
        ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "student.qkv_layers=1,2"]
    )
    study = learning(storage, [other], space)
    shared = SharedStudy(study, storage, tmp_path, space, Budget(4))
    assert shared.finished() == 0
    # Pruners compare trials of the study alone.
    assert study.get_trials() == []
    assert len(study._get_trials(states=(TrialState.COMPLETE,))) == 30
    drawn = []
    for _ in range(4):
        trial: Any = shared.claim("w", set())
        drawn.append(trial.params["optimizer.lr"])
        shared.tell(trial, "w", Outcome(End.COMPLETE, values=(0.5,)))
    assert [trial.number for trial in shared._trials()] == [0, 1, 2, 3]
    # From the first trial on near what was best, 0.0118, and not anywhere in three decades.
    assert all(0.004 < rate < 0.04 for rate in drawn), drawn


def test_a_warm_start_of_another_space_is_refused(folder: Path, sweep: Sweep) -> None:
    other = make("other", [(0.01, 1, 0.1)])
    space = SearchSpace.parse(["student.rank=1,2"])
    with pytest.raises(ArgumentError, match="warm_start=other: allowed: a study of the same space"):
        learning(open_storage(URL), [other], space)
    several = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.raises(ArgumentError, match="a study that measures valid_l1"):
        learning(open_storage("sqlite:///other.db"), [several], space)
    for name in ("other", "nobody", "mine"):
        warm = f"hydra.sweeper.warm_start=[{name}]"
        assert sweep("-m", "study=mine", "student.rank=1,2", "student=low_rank", warm) == 1
    # Nothing is left of a study that was refused.
    assert "mine" not in optuna.get_all_study_names(URL)
    assert not (folder / "multirun/mine").exists()


@pytest.mark.parametrize(
    ("sampler", "learns"),
    [("TPE", True), ("GP", True), ("Random", False), ("QMC", False), ("NSGAII", False)],
)
def test_samplers_that_would_not_look_are_refused(sampler: str, learns: bool) -> None:
    made = sampler_of_trial({"_target_": f"optuna.samplers.{sampler}Sampler"}, 0)
    if learns:
        warm_start.check_that_it_learns(made, sampler, ["a"])
    else:
        with pytest.raises(ArgumentError, match=r"warm_start=\[a\]: allowed: null with"):
            warm_start.check_that_it_learns(made, sampler, ["a"])


def test_a_sweep_begins_with_the_points_it_is_given(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    swept = ("optimizer.lr=tag(log,interval(1e-4,1e-1))", "trainer.accelerator=cpu")
    given = "hydra.sweeper.enqueue=[{optimizer.lr:%s},{optimizer.lr:0.03}]"
    assert sweep("-m", "study=a", *swept, given % "7") == 1
    assert "optimizer.lr=7: allowed: optimizer.lr=tag(log" in capfd.readouterr().err
    for n_trials in (1, 3):
        budget = f"hydra.sweeper.n_trials={n_trials}"
        assert sweep("-m", "study=a", *swept, given % "0.02", budget) == 0
    trials = optuna.load_study(study_name="a", storage=URL).trials
    assert [trial.params["optimizer.lr"] for trial in trials][:2] == [0.02, 0.03]
    assert len(trials) == 3


def test_points_of_a_space_that_asks_conditionally() -> None:
    def custom(config: Any, trial: optuna.Trial) -> None:
        if trial.suggest_categorical("family", ["deep", "flat"]) == "deep":
            trial.suggest_int("depth", 1, 5)

    space = SearchSpace.parse(["seed=1,2"], custom).with_asked(None)
    assert points.checked_point({"family": "deep", "depth": 3}, space)
    with pytest.raises(SlicewiseError, match=r"depth=9: allowed: depth=int\(interval\(1,5\)\)"):
        points.checked_point({"depth": 9}, space)
