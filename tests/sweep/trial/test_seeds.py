"""objective.seeds: a trial is the mean over several fits."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from slicewise import load_student
from sweep import rerun
from sweep.study.shared import quiet_optuna
from sweep.view.status import StudyMonitor
from sweep.watch import main as watch
from sweep.workers.sweeper import _wilcoxon_unable
from tests.sweep import faults
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]

SEEDS = "objective.seeds=[0,1,2]"
TRUST = ("SLICEWISE_TRUSTED", faults.TRUSTED)
DIE = "+callbacks.die={_target_: tests.sweep.faults.DieWithSeed, seed: %d, step: %d}"


def load(name: str) -> optuna.Study:
    quiet_optuna()
    return optuna.load_study(study_name=name, storage="sqlite:///multirun/studies.db")


def fit_of(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "fit.json").read_text())
    return found


def test_a_trial_is_the_mean_over_its_seeds(
    sweep: Sweep, folder: Path, record: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    """And a finite space stays finite: two points are two trials, each run as ever."""
    assert sweep("-m", "study=a", "student.qkv_layers=1,2", SEEDS) == 0
    assert sweep("-m", "study=b", "student.qkv_layers=1,2", "seed=0,1,2") == 0
    study, losses = load("a"), {}
    for trial in load("b").trials:
        losses[trial.params["student.qkv_layers"], trial.params["seed"]] = trial.value
    assert [trial.params for trial in study.trials] == [{"student.qkv_layers": q} for q in (1, 2)]
    for trial in study.trials:
        place = folder / "multirun/a" / str(trial.number)
        found, layers = record(f"a/{trial.number}"), trial.params["student.qkv_layers"]
        each = {seed: losses[layers, seed] for seed in (0, 1, 2)}
        assert found["seeds"] == {str(seed): [loss] for seed, loss in each.items()}
        assert trial.value == found["valid_l1"] == statistics.fmean(each.values())
        assert found["value_std"] == statistics.stdev(each.values())
        assert trial.user_attrs["value_std"] == found["value_std"]
        fits = [fit_of(place / f"seed_{seed}") for seed in each]
        assert found["text_cosine"] == statistics.fmean(fit["text_cosine"] for fit in fits)
        # Of one fit, as many as of another.
        assert found["steps"] == fits[0]["steps"] == 10
        best = min(each, key=each.__getitem__)
        assert found["best_seed"] == best
        weights = "student/model.safetensors"
        assert (place / weights).read_bytes() == (place / f"seed_{best}" / weights).read_bytes()
        assert sum(p.numel() for p in load_student(place / "student").parameters())
        assert not list(place.rglob("*.ckpt")) + list(place.rglob("progress.json"))
    said, std = capfd.readouterr().out, f"{study.best_trial.user_attrs['value_std']:.4g}"
    assert said.count(std) >= 1
    assert "std" in said
    assert std in (folder / "multirun/a/report.html").read_text()
    assert watch(["a", "--once"]) == 0
    assert f"{std} std" in " ".join(capfd.readouterr().out.split())
    assert StudyMonitor(study).status().is_finished


def test_it_is_repeated_to_the_bit_seed_by_seed(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    """A single fit, in no study, is averaged as well."""
    assert sweep("study=a", SEEDS) == 0
    assert rerun.main(["multirun/a"]) == rerun.IDENTICAL
    said = capfd.readouterr().out
    assert "Identical to the bit" in said
    assert said.count("seed 2") >= 2
    assert Path("multirun/a/0/rerun-1/seed_2/fit.json").is_file()
    again = fit_of(Path("multirun/a/0/rerun-1/seed_2"))["valid_l1"]
    assert again == fit_of(Path("multirun/a/0/seed_2"))["valid_l1"]
    # One of its fits is no trial of its own.
    assert rerun.main(["multirun/a/0/seed_1"]) == 1


def test_a_trial_that_died_goes_on_with_the_seed_that_it_was_at(
    sweep: Sweep, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*TRUST)
    swept = ("-m", "student.qkv_layers=1", SEEDS, "callbacks.resume_point.every_seconds=0")
    assert sweep(*swept, "study=whole") == 0
    with pytest.raises(faults.Death):
        sweep(*swept, "study=a", DIE % (1, 7))
    place = Path("multirun/a/0")
    first = (place / "seed_0/fit.json").stat().st_mtime_ns
    assert (place / "seed_1/checkpoints/resume.ckpt").is_file()
    assert not (place / "trial.json").exists()
    # What is there of its fits is no trial: neither to be repeated, nor of another study.
    assert rerun.main(["multirun/a"]) == 1
    assert sweep(*swept, "study=a", "+resume=force") == 0
    assert (place / "seed_0/fit.json").stat().st_mtime_ns == first
    log = (place / "sweep.log").read_text()
    assert "Seed 0 is finished already" in log
    assert log.count("Going on from step 6") == 1
    assert record("a/0")["seeds"] == record("whole/0")["seeds"]
    [trial] = load("a").trials
    assert trial.state is TrialState.COMPLETE


def test_a_seed_that_fails_is_the_trials_failure(
    sweep: Sweep, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*TRUST)
    fails = "+callbacks.fail={_target_: tests.sweep.faults.FailWithSeed, seed: 1}"
    assert sweep("-m", "study=a", "student.qkv_layers=1,2", SEEDS, fails) == 1
    found = record("a/0")
    assert (found["state"], found["end"]) == ("FAIL", "failed")
    assert found["reason"].startswith("seed 1: valid_l1 is nan")
    assert found["values"] is None
    assert load("a").trials[0].user_attrs["reason"] == found["reason"]
    # What cannot be run cannot with any seed.
    assert sweep("-m", "study=b", "student.value_dim=5,12", SEEDS) == 0
    impossible, complete = load("b").trials
    assert impossible.user_attrs["impossible"]
    assert "seed" not in impossible.user_attrs["reason"]
    assert complete.state is TrialState.COMPLETE


def test_wilcoxon_ends_a_trial_between_two_seeds(sweep: Sweep, record: Record) -> None:
    wilcoxon = ("hydra/sweeper/pruner=wilcoxon", "hydra.sweeper.pruner.p_threshold=0.3")
    assert sweep("-m", "study=a", "student.qkv_layers=1,0", SEEDS, *wilcoxon) == 0
    best, pruned = load("a").trials
    assert sorted(best.intermediate_values) == [0, 1, 2]
    assert list(best.intermediate_values.values()) == [v for [v] in record("a/0")["seeds"].values()]
    assert (best.state, pruned.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    found = record("a/1")
    assert list(found["seeds"]) == ["0", "1"]
    assert found["reason"].startswith("pruned after 2 of 3 seeds with valid_l1")
    assert found["valid_l1"] == statistics.fmean(v for [v] in found["seeds"].values())
    assert not Path("multirun/a/1/seed_2").exists()


def test_other_pruners_look_at_the_first_seeds_steps(sweep: Sweep, record: Record) -> None:
    median = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1")
    assert sweep("-m", "study=a", "student.qkv_layers=1,0", "objective.seeds=[1,0]", *median) == 0
    best, pruned = load("a").trials
    assert sorted(best.intermediate_values) == [2, 4, 6, 8, 10]
    assert best.intermediate_values[10] == record("a/0")["seeds"]["1"][0]
    assert pruned.state is TrialState.PRUNED
    assert "pruned at step" in record("a/1")["reason"]
    assert not Path("multirun/a/1/seed_0").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seed=0,1", SEEDS], "seed=0,1: allowed: none with objective.seeds"),
        (["student.qkv_layers=1,2", "objective.seeds=[0]"], "two or more different integers"),
        (["student.qkv_layers=1,2", "objective.seeds=[0,0]"], "objective.seeds=[0,0]: allowed"),
        (["student.qkv_layers=1,2", "objective.seeds=3"], "objective.seeds=3: allowed"),
        (["student.qkv_layers=1,2", "objective.seeds=[-1,1]"], "objective.seeds=[-1,1]: allowed"),
        (["objective.seeds=[0,1],[2,3]"], "Another objective is another study"),
    ],
)
def test_seeds_that_cannot_be_averaged_are_one_line(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert sweep("-m", "study=a", *arguments) == 1
    error = capfd.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not list(folder.glob("multirun/a/[0-9]*"))


def test_a_study_keeps_its_seeds(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    swept = ("-m", "study=a", "student.qkv_layers=1")
    assert sweep(*swept, "objective.seeds=[0,1]") == 0
    assert sweep(*swept, SEEDS) == 1
    assert "config.objective.seeds: was [0, 1], now [0, 1, 2]" in capfd.readouterr().err
    assert sweep(*swept) == 1
    assert "config.objective.seeds: was [0, 1], now null" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("n_seeds", "threshold", "said"),
    [(3, 0.1, "above 0.25 it may"), (2, 0.9, "it takes three or more"), (5, 0.1, None)],
)
def test_a_test_that_so_few_seeds_cannot_pass_is_told(
    n_seeds: int, threshold: float, said: str | None
) -> None:
    pruner = optuna.pruners.WilcoxonPruner(p_threshold=threshold)
    told = _wilcoxon_unable(pruner, n_seeds)
    assert (told is None) if said is None else (said in str(told))
