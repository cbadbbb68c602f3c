"""What the official sweeper's documentation shows, with `optuna_workers` in its place."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra

Run = Callable[..., tuple[list[dict[str, Any]], dict[str, Any]]]


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Sweeps an application; returns its trials' params and optimization_results.yaml."""

    def sweep(app: str, sweeper: str, *arguments: str) -> tuple[list[dict[str, Any]], Any]:
        argv = [
            "app",
            "--multirun",
            f"hydra/sweeper={sweeper}",
            "hydra/launcher=basic",
            "hydra.sweeper.n_jobs=1",
            f"hydra.sweeper.storage=sqlite:///{sweeper}.db",
            "hydra.sweeper.study_name=s",
            f"hydra.sweep.dir={sweeper}",
            *arguments,
        ]
        monkeypatch.setattr(sys, "argv", argv)
        GlobalHydra.instance().clear()
        importlib.import_module(f"tests.sweep.official.{app}").main()
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{sweeper}.db")
        results = yaml.safe_load((folder / sweeper / "optimization_results.yaml").read_text())
        return [trial.params for trial in study.trials], results

    return sweep


def both(run: Run, app: str, *arguments: str) -> tuple[Any, Any]:
    return run(app, "optuna", *arguments), run(app, "optuna_workers", *arguments)


def assert_alike(ours: Any, official: Any) -> None:
    """As many trials of the same keys, none twice; whatever the official results say, ours do."""
    assert [set(params) for params in ours[0]] == [set(params) for params in official[0]]
    points = {tuple(sorted(params.items())) for params in ours[0]}
    assert len(points) == len(ours[0])
    assert set(official[1]) <= set(ours[1])


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_an_endless_space_gives_the_same_kind_of_trials(run: Run, sampler: str) -> None:
    """Not the same ones: ours follow the seed and the trial's number, not the process."""
    official, ours = both(
        run,
        "sphere",
        f"hydra/sweeper/sampler={sampler}",
        "hydra.sweeper.sampler.seed=123",
        "hydra.sweeper.n_trials=15",
        "hydra.sweeper.params={x:'interval(-5,5)',y:'interval(1,10)'}",
    )
    assert_alike(ours, official)
    assert all(-5 <= p["x"] <= 5 and 1 <= p["y"] <= 10 for p in ours[0])


def test_a_grid_gives_the_same_points_and_the_same_best(run: Run) -> None:
    official, ours = both(run, "sphere", "hydra/sweeper/sampler=grid", "x=-1,1,3", "y=range(0,3)")
    assert {tuple(p.items()) for p in ours[0]} == {tuple(p.items()) for p in official[0]}
    assert len(ours[0]) == len(official[0]) == 9
    assert ours[1]["best_value"] == official[1]["best_value"] == 1.0


def test_the_first_example_finds_the_best_there_is(run: Run) -> None:
    official, ours = both(
        run, "sphere", "hydra.sweeper.sampler.seed=123", "hydra.sweeper.n_trials=50"
    )
    assert ours[1]["best_value"] == official[1]["best_value"] == 0.0
    assert ours[1]["best_params"] == official[1]["best_params"] == {"x": 0.0, "y": 0}


def test_several_directions_give_the_same_kind_of_results(run: Run) -> None:
    arguments = (
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.sampler.seed=123",
        "hydra.sweeper.direction=[minimize,minimize]",
        "hydra.sweeper.n_trials=25",
        "hydra.sweeper.params={x:'interval(0,5)',y:'interval(0,3)'}",
    )
    official, ours = both(run, "multi_objective", *arguments)
    assert_alike(ours, official)
    assert set(official[1]["solutions"][0]) < set(ours[1]["solutions"][0])


def test_a_custom_search_space_gives_the_same_kind_of_trials(run: Run) -> None:
    official, ours = both(
        run,
        "conditional",
        "hydra/sweeper/sampler=random",
        "hydra.sweeper.sampler.seed=123",
        "hydra.sweeper.n_trials=10",
        "max_z_difference_from_x=0.3",
    )
    assert_alike(ours, official)
    assert set(ours[0][0]) == {"x", "y", "z", "+w"}


def test_failures_within_the_rate_do_not_stop_it(run: Run, folder: Path) -> None:
    error = ("error=true,false", "x=1", "y=2", "hydra.sweeper.max_failure_rate=0.5")
    params, results = run("sphere", "optuna_workers", *error, "hydra.sweeper.n_trials=4")
    assert params == [{"error": True}, {"error": False}]
    assert results["best_params"] == {"error": False}
    assert results["best_value"] == 5.0


def test_maximizing_finds_the_other_end(run: Run) -> None:
    _, ours = run("sphere", "optuna_workers", "x=1,2,3", "y=0", "hydra.sweeper.direction=maximize")
    assert ours["best_params"] == {"x": 3}


def test_without_a_storage_several_workers_share_a_file_in_the_sweeps_folder(
    folder: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """No storage is the official default, and so are two jobs at a time."""
    root = Path(__file__).parents[3]
    environment = {"PYTHONPATH": os.pathsep.join([str(root), str(root / "src")])}
    app = ("tests.sweep.official.sphere", "-m", "hydra/sweeper=optuna_workers")
    sweep = ("hydra.sweep.dir=out", "x=interval(-5,5)", "y=1", "hydra.sweeper.n_jobs=2")
    done = command(*app, *sweep, "hydra/launcher=local", "hydra.sweeper.n_trials=4", **environment)
    assert done.returncode == 0, done.stderr
    assert "hydra.sweeper.storage=null: the study is kept in sqlite:///out/study.db" in done.stdout
    assert "python -m sweep.dashboard --storage sqlite:///out/study.db" in done.stdout
    done = command(*app, *sweep, "hydra/launcher=basic", "hydra.sweeper.n_trials=6", **environment)
    assert done.returncode == 0, done.stderr
    assert "Study out: 6 complete." in done.stdout
    study = optuna.load_study(study_name="out", storage=f"sqlite:///{folder}/out/study.db")
    assert len({trial.params["x"] for trial in study.trials}) == 6
    looked = command("sweep.watch", "out", "--once", **environment)
    assert "6/6 finished" in looked.stdout
