"""What the official sweeper's documentation shows, with `optuna_workers` in its place."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shutil
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


@pytest.fixture
def examples(folder: Path) -> Path:
    """The plugin's folder of examples, with the sweeper's name changed and nothing else."""
    place = folder / "example"
    shutil.copytree(Path(__file__).parents[1] / "official" / "example", place)
    for path in place.rglob("*.yaml"):
        text = path.read_text()
        assert text.count("override hydra/sweeper: optuna\n") == 1
        path.write_text(text.replace("sweeper: optuna\n", "sweeper: optuna_workers\n"))
    return place


@pytest.fixture
def example(examples: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., optuna.Study]:
    """Runs one of the examples as a script, in this process; returns its study."""

    def run(name: str, *arguments: str) -> optuna.Study:
        script = str(examples / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, "-m", *arguments])
        monkeypatch.syspath_prepend(str(examples))
        GlobalHydra.instance().clear()
        runpy.run_path(script, run_name="__main__")
        [storage] = Path("multirun").glob("*/*/study.db")
        return optuna.load_study(study_name=None, storage=f"sqlite:///{storage}")

    return run


def test_the_spheres_example_finds_its_best(example: Callable[..., optuna.Study]) -> None:
    study = example("sphere")
    assert len(study.trials) == 20
    [results] = Path("multirun").glob("*/*/optimization_results.yaml")
    found = yaml.safe_load(results.read_text())
    assert (found["best_params"], found["best_value"]) == (study.best_params, study.best_value)
    assert study.best_value <= 0.25


def test_the_example_of_two_objectives_has_a_front(example: Callable[..., optuna.Study]) -> None:
    study = example("multi-objective")
    assert len(study.trials) == 20
    assert len(study.best_trials) > 1
    for trial in study.trials:
        x, y = trial.params["x"], trial.params["y"]
        assert trial.values == [4 * x**2 + 4 * y**2, (x - 5) ** 2 + (y - 5) ** 2]


def test_the_example_of_a_custom_space_stays_in_it(example: Callable[..., optuna.Study]) -> None:
    study = example("custom-search-space-objective")
    assert len(study.trials) == 20
    for trial in study.trials:
        assert set(trial.params) == {"x", "y", "z", "+w"}
        assert abs(trial.params["z"] - trial.params["x"]) <= 0.5


def test_the_examples_failure_is_told_and_can_be_inspected(
    example: Callable[..., optuna.Study], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        example("sphere", "error=true")
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert "trial 0: RuntimeError: cfg.error is True" in said
    assert re.search(r"The traceback: multirun/\S*/0/sphere.log$", said.strip())
    assert "Traceback" not in said


# Of every Python that finds it first on its path.
_WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "pytorch_lightning", "safetensors"):
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, NoTorch())
"""


def test_all_of_it_works_where_there_is_no_torch(
    examples: Path, folder: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Two workers in processes of their own, no storage, as the plugin's defaults have it."""
    (folder / "bin").mkdir()
    (folder / "bin/sitecustomize.py").write_text(_WITHOUT_TORCH)
    root = Path(__file__).parents[3]
    path = (str(folder / "bin"), str(examples), str(root), str(root / "src"))
    environment = {"PYTHONPATH": os.pathsep.join(path)}

    def run(module: str, *arguments: str) -> str:
        done = command(module, *arguments, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "is not to be had here" in command("torch", **environment).stderr
    sweep = ("-m", "hydra.sweep.dir=out", "hydra.sweeper.n_jobs=2")
    said = run("sphere", *sweep, "hydra/launcher=local", "hydra.sweeper.n_trials=4")
    assert "hydra.sweeper.storage=null: the study is kept in sqlite:///out/study.db" in said
    assert "python -m sweep.dashboard --storage sqlite:///out/study.db" in said
    said = run("sphere", *sweep, "hydra.sweeper.n_trials=6")
    assert "hydra/launcher=basic has one worker; hydra/launcher=local runs 2" in said
    assert "Study sphere: 6 complete." in said
    study = optuna.load_study(study_name="sphere", storage=f"sqlite:///{folder}/out/study.db")
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 6
    assert "6/6 finished" in run("sweep.watch", "out", "--once")
    assert run("sweep.report", "out").strip() == "out/report.html"
    assert "Identical to the bit." in run("sweep.rerun", f"out/{study.best_trial.number}")
