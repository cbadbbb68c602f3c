"""`python -m sweep -m`: whole studies, one worker in this process."""

from __future__ import annotations

import itertools
import shlex
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any, Self

import optuna
import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from sweep import rerun
from sweep.studies import main as studies
from sweep.study.storage import open_storage
from sweep.watch import main as watch
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]


def load(name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage="sqlite:///multirun/studies.db")


def test_three_values_are_three_trials(
    sweep: Sweep, folder: Path, record: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=0,1,2") == 0
    study = load("a")
    assert [t.params for t in study.trials] == [{"student.qkv_layers": q} for q in (0, 1, 2)]
    assert study.metric_names == ["valid_l1"]
    for trial in study.trials:
        found = record(f"a/{trial.number}")
        assert found["state"] == trial.state.name == "COMPLETE"
        assert found["params"] == trial.params
        assert found["valid_l1"] == trial.value
        assert trial.user_attrs["directory"] == str(folder / "multirun/a" / str(trial.number))
        for name in ("student_parameters", "baseline_ratio"):
            assert trial.user_attrs[name] == found[name]
    said = capfd.readouterr().out
    assert "qkv_layers" in said
    assert f"Run it again: python -m sweep.rerun multirun/a/{study.best_trial.number}" in said
    results = yaml.safe_load((folder / "multirun/a/optimization_results.yaml").read_text())
    best = study.best_trial
    assert results.pop("metrics")["student_parameters"] == best.user_attrs["student_parameters"]
    assert results == {
        "name": "optuna",
        "best_params": best.params,
        "best_value": best.value,
        "trial": best.number,
        "directory": str(best.number),
    }


def test_a_study_without_a_name_has_one_time_for_its_name_and_its_folder(
    sweep: Sweep, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EverySecond(datetime):
        seconds = itertools.count()

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls(2026, 1, 1, 12, 0, next(cls.seconds) % 60, tzinfo=tz)

    monkeypatch.setattr("hydra.core.utils.datetime", EverySecond)
    assert sweep("-m", "student.qkv_layers=0,1") == 0
    [name] = optuna.get_all_study_names("sqlite:///multirun/studies.db")
    [place] = [path.name for path in (folder / "multirun").iterdir() if path.name[0] == "2"]
    assert name == place
    assert {path.name for path in (folder / "multirun" / name).iterdir()} >= {"0", "1"}


def test_parameters_are_numbers_in_the_storage(sweep: Sweep, folder: Path) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=range(0,2)") == 0
    with sqlite3.connect(folder / "multirun/studies.db") as database:
        rows = database.execute("select param_name, param_value from trial_params").fetchall()
    assert sorted(rows) == [("student.qkv_layers", 0.0), ("student.qkv_layers", 1.0)]


def test_a_study_is_finished_where_every_point_is_tried_and_one_is_impossible(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    space = ("-m", "study=a", "student.qkv_layers=1")
    # Five heads do not divide the width.
    assert sweep(*space, "student.num_attention_heads=2,5") == 0
    for command in (watch, studies):
        capfd.readouterr()
        assert command(["a"] if command is watch else []) == 0
        said = capfd.readouterr().out
        assert "To go on" not in said
        assert "unfinished" not in said
    # Until it has more to try.
    up = "hydra.sweeper.timeout=0.001"
    assert sweep(*space, "student.num_attention_heads=2,5,3", up) == 0
    assert watch(["a"]) == 0
    assert "To go on: " in capfd.readouterr().out


def test_the_same_command_resumes_and_a_finished_study_says_so(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ("-m", "study=a", "optimizer.lr=interval(1e-4,1e-2)")
    assert sweep(*command, "hydra.sweeper.n_trials=2") == 0
    assert sweep(*command, "hydra.sweeper.n_trials=2") == 0
    assert "Study a is finished: the budget is met" in capfd.readouterr().out
    assert len(load("a").trials) == 2
    assert sweep(*command, "hydra.sweeper.n_trials=3") == 0
    assert len(load("a").trials) == 3


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("seed=1", "config.seed: was 0, now 1"),
        ("data.batch_size=2", "config.data.batch_size: was 4, now 2"),
        ("teacher.num_layers=1", "config.teacher.num_layers: was 2, now 1"),
        ("objective.metrics=[train_l1]", 'config.objective.metrics: was ["valid_l1"]'),
        ("trainer.max_epochs=2", "config.trainer.max_epochs: was 1, now 2"),
    ],
)
def test_a_study_about_something_else_is_refused_unless_forced(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], change: str, difference: str
) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    assert sweep("-m", "study=a", "student.qkv_layers=0,1", change) == 1
    said = capfd.readouterr().err
    assert difference in said
    assert "+resume=force" in said
    assert "Traceback" not in said
    assert sweep("-m", "study=a", "student.qkv_layers=0,1", change, "+resume=force") == 0


def test_where_it_runs_may_change(sweep: Sweep) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    assert sweep("-m", "study=a", "student.qkv_layers=0,1", "trainer.accelerator=cpu") == 0


def test_folders_of_a_forgotten_study_are_not_mixed_in(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    (folder / "multirun/studies.db").unlink()
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 1
    assert "holds trials of another study" in capfd.readouterr().err
    # It would be listed as a study with that folder, and removed with it.
    assert optuna.get_all_study_names("sqlite:///multirun/studies.db") == []


@pytest.mark.parametrize("chdir", ["true", "false"])
@pytest.mark.parametrize("multirun", [("-m",), ()])
def test_a_trial_says_its_folder_as_the_command_was_typed(
    sweep: Sweep,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    chdir: str,
    multirun: tuple[str, ...],
) -> None:
    assert sweep(*multirun, "study=a", f"hydra.job.chdir={chdir}") == 0
    assert "Trial 0, in multirun/a/0\n" in capfd.readouterr().out
    saved = OmegaConf.load(folder / "multirun/a/0/.hydra/hydra.yaml")
    assert saved.hydra.runtime.cwd == str(folder)


@pytest.mark.parametrize("other", ["a/b/c", "a/b/0", "a/b/0/c", "a"])
def test_no_study_lies_in_the_folder_of_another(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], other: str
) -> None:
    url = "sqlite:///multirun/studies.db"
    first = optuna.create_study(study_name="a/b", storage=open_storage(url))
    first.ask()
    assert sweep("-m", f"study={other}", "student.qkv_layers=0") == 1
    said = capfd.readouterr().err
    assert f"study={other}: allowed: a folder apart from that of study a/b" in said
    assert optuna.get_all_study_names(url) == ["a/b"]
    assert not (folder / "multirun" / other).exists()


def test_a_study_that_was_renamed_with_its_storage_goes_on(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = ("-m", "hydra.sweeper.storage=null")
    assert sweep(*own, "study=a", "student.qkv_layers=0") == 0
    (folder / "multirun/a").rename(folder / "multirun/b c")
    assert sweep(*own, "study='b c'", "student.qkv_layers=0,1") == 1
    said = capfd.readouterr().err
    assert "holds study a, and no study b c" in said
    goes_on = said.rstrip().partition("to go on with it, ")[2]
    assert sweep(*own, *shlex.split(goes_on), "student.qkv_layers=0,1") == 0
    assert "Study a: 2 complete." in capfd.readouterr().out
    assert rerun.main(["multirun/b c/0"]) == 0


@pytest.mark.parametrize("name", [".cache", "a/.cache", "../a", "a//b", "a/."])
def test_a_study_has_a_folder_of_its_own(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    assert sweep("-m", f"study={name}", "student.qkv_layers=0") == 1
    assert "allowed: a name that a folder can have, below multirun/" in capfd.readouterr().err
    assert not (folder / "multirun/studies.db").exists()


@pytest.mark.parametrize("name", ["..", "", "null", "../a", "/a"])
def test_a_fit_makes_no_folder_of_a_name_that_none_can_have(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    assert sweep(f"study={name}") == 1
    said = capfd.readouterr().err
    assert "allowed: a name that a folder can have, below multirun/" in said
    assert "Traceback" not in said
    assert not list(folder.iterdir())


def test_a_study_has_one_name(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep("-m", "study=one,two", "student.qkv_layers=0,1") == 1
    assert "study=one,two: allowed: one name" in capfd.readouterr().err


def test_its_files_are_read_once_for_its_trials_and_once_for_its_worker(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load_sweep_config = ConfigLoaderImpl.load_sweep_config

    def noted(loader: ConfigLoaderImpl, config: DictConfig, overrides: list[str]) -> DictConfig:
        loaded.append(overrides)
        return load_sweep_config(loader, config, overrides)

    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", noted)
    assert sweep("-m", "study=a", "student.qkv_layers=0,1,2") == 0
    trials, worker = loaded
    assert worker == [*trials, "hydra.sweep.subdir=workers/${hydra.job.num}"]


def test_an_impossible_point_is_recorded_before_any_training(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-m", "study=a", "student.value_dim=13,12") == 0
    failed, complete = load("a").trials
    assert failed.state is TrialState.FAIL
    assert failed.user_attrs["impossible"]
    assert failed.user_attrs["reason"].startswith("student.value_dim=13: allowed: a multiple of")
    assert complete.state is TrialState.COMPLETE
    assert not (folder / "multirun/a/0/metrics.csv").exists()
    assert "Failed (0): student.value_dim=13" in capfd.readouterr().out


def test_a_trial_that_diverges_is_recorded_and_the_sweep_goes_on(
    sweep: Sweep, record: Record
) -> None:
    arguments = ("optimizer.lr=1e30,1e-3", "trainer.gradient_clip_val=null")
    assert sweep("-m", "study=a", *arguments) == 0
    failed, complete = load("a").trials
    assert failed.state is TrialState.FAIL
    assert "valid_l1 is nan" in failed.user_attrs["reason"]
    assert "impossible" not in failed.user_attrs
    assert record("a/0")["state"] == "FAIL"
    assert complete.state is TrialState.COMPLETE


def test_failures_end_the_sweep_past_their_rate(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("optimizer.lr=interval(1e30,1e31)", "trainer.gradient_clip_val=null")
    budget = ("hydra.sweeper.n_trials=4", "hydra.sweeper.max_failure_rate=0.3")
    assert sweep("-m", "study=a", *arguments, *budget) == 1
    said = capfd.readouterr().err
    assert "the sweep stopped: 2 trials failed" in said
    assert "valid_l1 is nan" in said


def test_a_pruned_trial_stops_early_and_keeps_its_record(
    sweep: Sweep, folder: Path, record: Record
) -> None:
    arguments = (
        "optimizer.lr=1e-2,1e-7",
        "data.train_batches=20",
        "hydra/sweeper/pruner=median",
        "hydra.sweeper.pruner.n_startup_trials=1",
    )
    assert sweep("-m", "study=a", *arguments) == 0
    complete, pruned = load("a").trials
    assert complete.state is TrialState.COMPLETE
    assert sorted(complete.intermediate_values) == [4, 8, 12, 16, 20]
    assert pruned.state is TrialState.PRUNED
    found = record("a/1")
    assert found["state"] == "PRUNED"
    # It stops at the validation that decided, not a batch later.
    assert found["steps"] == max(pruned.intermediate_values) < 20
    assert found["valid_l1"] == pruned.value
    assert (folder / "multirun/a/1/metrics.csv").stat().st_size > 0


def test_values_that_are_not_numbers_reach_the_trial_as_they_are(
    sweep: Sweep, record: Record
) -> None:
    arguments = ("scheduler=constant,one_cycle", "student.value_dim=null,12")
    assert sweep("-m", "study=a", *arguments) == 0
    params = [trial.params for trial in load("a").trials]
    assert params == [
        {"scheduler": scheduler, "student.value_dim": value_dim}
        for scheduler in ("constant", "one_cycle")
        for value_dim in (None, 12)
    ]
    losses = {record(f"a/{number}")["valid_l1"] for number in range(4)}
    # half of 24 is 12, so null and 12 are one student under each scheduler.
    assert len(losses) == 2


def test_several_directions_give_a_front(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "student.qkv_layers=0,1,2",
        "objective.metrics=[valid_l1,student_parameters]",
        "hydra.sweeper.direction=[minimize,minimize]",
    )
    assert sweep("-m", "study=a", *arguments) == 0
    study = load("a")
    results = yaml.safe_load((folder / "multirun/a/optimization_results.yaml").read_text())
    found = [(s["params"], s["values"], s["trial"]) for s in results["solutions"]]
    assert found == [(t.params, t.values, t.number) for t in study.best_trials]
    assert "pareto" in capfd.readouterr().out


def test_seeds_beside_others_are_summed_up(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    assert sweep("-m", "study=a", "seed=1,2,3", "student.qkv_layers=0,1") == 0
    assert len(load("a").trials) == 6
    said = capfd.readouterr().out
    assert "Over seeds" in said
    assert "mean valid_l1" in said


def test_the_sweepers_own_params_are_searched(sweep: Sweep, folder: Path) -> None:
    arguments = ("+hydra.sweeper.params={student.qkv_layers:'0,1'}",)
    assert sweep("-m", "study=a", *arguments) == 0
    assert [t.params for t in load("a").trials] == [
        {"student.qkv_layers": 0},
        {"student.qkv_layers": 1},
    ]


def test_the_official_sweeper_still_works(sweep: Sweep, folder: Path) -> None:
    arguments = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=1")
    assert sweep("-m", "study=a", *arguments, "student.qkv_layers=0,1") == 0
    assert len(load("a").trials) == 4


def test_a_trial_finished_on_disk_is_told_without_a_fit(sweep: Sweep, record: Record) -> None:
    """What a worker leaves that dies between writing its result and telling it."""
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    before = record("a/1")
    with sqlite3.connect("multirun/studies.db") as database:
        database.execute("update trials set state = 'RUNNING' where number = 1")
        database.execute("delete from trial_values where trial_id = 2")
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    assert record("a/1") == before
    assert load("a").trials[1].value == before["valid_l1"]


@pytest.mark.parametrize("storage", ["null", "sqlite://", "sqlite:///:memory:"])
def test_a_study_in_memory_is_kept_in_its_folder(
    sweep: Sweep,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    command: Callable[..., subprocess.CompletedProcess[str]],
    storage: str,
) -> None:
    memory = (f"hydra.sweeper.storage={storage}", "optimizer.lr=interval(1e-4,1e-2)")
    assert sweep("-m", "study=a", *memory, "hydra.sweeper.n_trials=1") == 0
    said = capfd.readouterr().out
    assert f"hydra.sweeper.storage={storage}: the study is kept in" in said
    assert "All studies:  python -m sweep.dashboard --storage sqlite:///multirun/a/study.db" in said
    # The same command finds it, and goes on.
    assert sweep("-m", "study=a", *memory, "hydra.sweeper.n_trials=2") == 0
    url = f"sqlite:///{folder}/multirun/a/study.db"
    trials = optuna.load_study(study_name="a", storage=url).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert not (folder / "multirun/studies.db").exists()
    assert "--storage sqlite:///multirun/a/study.db" in (
        (folder / "multirun/a/report.html").read_text()
    )
    # By name alone, too.
    assert "2/2 finished" in command("sweep.watch", "a", "--once").stdout
    assert command("sweep.report", "a").stdout.strip() == "multirun/a/report.html"


def test_so_is_one_of_several_processes(
    folder: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    memory = ("hydra.sweeper.storage=null", "experiment=tiny", "trainer.accelerator=cpu")
    for number, jobs in enumerate(("auto", "2")):
        space = ("student.qkv_layers=0,1", f"hydra.sweeper.n_jobs={jobs}")
        done = command("sweep", "-m", f"study=s{number}", *memory, *space)
        assert done.returncode == 0, done.stderr
        assert f"Study s{number}: 2 complete." in done.stdout
        assert f"the study is kept in sqlite:///multirun/s{number}/study.db" in done.stdout


def test_no_file_can_be_named_in_a_folder_with_a_question_mark(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    memory = ("hydra.sweeper.storage=null", "student.qkv_layers=0,1")
    assert sweep("-m", "study='what?'", *memory) == 1
    assert "has a ? in its name" in capfd.readouterr().err


def test_what_cannot_be_repeated_is_not_said_to_be(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=0,1", "hydra.output_subdir=null") == 0
    said = capfd.readouterr().out
    assert "Best student: multirun/a/" in said
    assert "sweep.rerun" not in said


@pytest.mark.parametrize("given", ["${oc.env:DATABASE}", "a file"])
def test_a_password_from_elsewhere_is_no_change_of_the_sweep(
    sweep: Sweep,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    given: str,
) -> None:
    """A storage's URL in a file, or in the environment, is one that jobs would find again."""
    url = "postgresql://u:s3cret@127.0.0.1:1/db"
    monkeypatch.setenv("PGPASSWORD", "before")
    monkeypatch.setenv("DATABASE", url)
    arguments = [f"hydra.sweeper.storage={given}"]
    if given == "a file":
        file = folder / "mine" / "experiment" / "mine.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(f"# @package _global_\nhydra:\n  sweeper:\n    storage: {url}\n")
        arguments = ["--config-dir", str(folder / "mine"), "experiment=mine"]
    assert sweep("-m", "study=a", "student.qkv_layers=0,1", *arguments) == 1
    said = capfd.readouterr().err
    assert "hydra.sweeper.storage=postgresql://u@127.0.0.1:1/db: allowed: " in said
    assert "s3cret" not in said


def test_a_storage_that_is_no_url_is_refused(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").touch()
    for storage in ("7", "sqlite:///file/x.db"):
        assert sweep("-m", "study=a", f"hydra.sweeper.storage={storage}") == 1
        said = capfd.readouterr().err
        assert f"hydra.sweeper.storage={storage}" in said.replace(f"{folder}/", "")
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("subdir", "reason"),
    [
        ("file/${hydra.job.num}", "hydra.sweep.subdir="),
        ("${student.rank}/${hydra.job.num}", "Interpolation key 'student.rank' not found"),
    ],
)
def test_a_trial_without_a_folder_of_its_own_has_failed_and_runs_no_more(
    sweep: Sweep, folder: Path, subdir: str, reason: str
) -> None:
    (folder / "multirun/a").mkdir(parents=True)
    (folder / "multirun/a/file").touch()
    swept = ("student=low_rank,tiny", "++student.qkv_layers=1")
    assert sweep("-m", "study=a", *swept, f"hydra.sweep.subdir={subdir}") == 1
    trials = load("a").trials
    assert trials
    for trial in trials:
        assert trial.state is TrialState.FAIL
    assert reason in trials[-1].user_attrs["reason"]
