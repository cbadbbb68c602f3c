"""Repeating a trial from what it saved."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf
from rich.console import Console

from sweep import rerun
from sweep.trial.record import TrialRecord
from sweep.view.summary import trial_table
from tests.sweep.conftest import Sweep

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_trial_of_a_study_repeats_to_the_bit(
    sweep: Sweep, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    assert rerun.main(["multirun/a/1"]) == 0
    assert "Identical to the bit." in capsys.readouterr().out
    first = json.loads((folder / "multirun/a/1/trial.json").read_text())
    again = json.loads((folder / "multirun/a/1/rerun-1/trial.json").read_text())
    assert first["valid_l1"] == again["valid_l1"]
    assert first["student_parameters"] == again["student_parameters"]
    weights = "student/model.safetensors"
    assert (folder / "multirun/a/1" / weights).read_bytes() == (
        folder / "multirun/a/1/rerun-1" / weights
    ).read_bytes()


def test_a_repetition_can_be_repeated(sweep: Sweep) -> None:
    assert sweep("study=a", "optimizer.lr=2e-3") == 0
    assert rerun.main(["multirun/a/0"]) == 0
    assert rerun.main(["multirun/a/0"]) == 0
    assert rerun.main(["multirun/a/0/rerun-2"]) == 0


def test_a_study_means_its_best_trial(
    sweep: Sweep, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-m", "study=a", "optimizer.lr=1e-6,1e-2,1e-5") == 0
    assert rerun.find_trial(Path("multirun/a")) == Path("multirun/a/1")


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_of_equals_the_best_is_the_first_as_in_the_table(folder: Path, direction: str) -> None:
    for number in (10, 2, 9):
        place = folder / "multirun/a" / str(number)
        (place / ".hydra").mkdir(parents=True)
        TrialRecord(
            study="a",
            number=number,
            state="COMPLETE",
            params={},
            overrides=[],
            seed=0,
            threads=1,
            hardware="cpu",
            values=[1.0],
        ).write(place)
        for name in ("overrides", "config"):
            (place / ".hydra" / f"{name}.yaml").write_text("[]" if name == "overrides" else "{}")
        OmegaConf.save(
            {"hydra": {"sweeper": {"direction": direction}}}, place / ".hydra" / "hydra.yaml"
        )
    assert rerun.find_trial(Path("multirun/a")) == Path("multirun/a/2")


def test_saved_values_win_over_defaults_that_have_changed(
    sweep: Sweep, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweep("study=a") == 0
    conf = folder / "conf"
    shutil.copytree(rerun.application.config_directory(), conf)
    changed = OmegaConf.load(conf / "optimizer/adamw.yaml")
    changed.lr = 0.5
    OmegaConf.save(changed, conf / "optimizer/adamw.yaml")
    monkeypatch.setattr(rerun.application, "config_directory", lambda: conf)
    assert rerun.main(["multirun/a/0"]) == 0


def test_a_key_that_is_gone_shows(
    sweep: Sweep, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("study=a") == 0
    path = folder / "multirun/a/0/.hydra/config.yaml"
    config = OmegaConf.load(path)
    config.student.forgotten = 1
    OmegaConf.save(config, path)
    assert rerun.main(["multirun/a/0"]) == 1
    said = capsys.readouterr().err
    assert "no longer fits" in said
    assert "forgotten" in said
    assert "Traceback" not in said


def test_a_different_loss_is_exit_code_three(
    sweep: Sweep, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("study=a") == 0
    _edit(folder / "multirun/a/0/trial.json", valid_l1=0.5)
    assert rerun.main(["multirun/a/0"]) == 3
    assert "DIFFERENT, on the same machine and versions" in capsys.readouterr().out


def test_other_versions_are_named_and_judged_by_tolerance(
    sweep: Sweep, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("study=a") == 0
    path = folder / "multirun/a/0/trial.json"
    record = json.loads(path.read_text())
    versions = {**record["versions"], "torch": "2.11.0"}
    _edit(path, versions=versions, valid_l1=record["valid_l1"] * 1.01)
    assert rerun.main(["multirun/a/0", "--tolerance", "0.02"]) == 0
    said = capsys.readouterr().out
    assert "torch: was 2.11.0, is" in said
    assert "within --tolerance 0.02" in said
    assert rerun.main(["multirun/a/0", "--tolerance", "0.001"]) == 3


@pytest.mark.parametrize(
    ("how", "end"),
    [
        (("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1"), "step 2 "),
        (
            (
                "hydra/sweeper/pruner=median",
                "hydra.sweeper.pruner.n_startup_trials=1",
                "objective.seeds=[0,1,2]",
            ),
            "step 2 ",
        ),
        (
            (
                "hydra/sweeper/pruner=wilcoxon",
                "hydra.sweeper.pruner.p_threshold=0.3",
                "objective.seeds=[0,1,2]",
            ),
            "after 2 of 3 seeds ",
        ),
        (
            (
                "hydra/sweeper/pruner=pareto",
                "hydra.sweeper.pruner.n_startup_trials=1",
                "objective=l1_parameters",
            ),
            "step 2 ",
        ),
    ],
    ids=["a step", "a step of the first seed", "between seeds", "several objectives"],
)
def test_a_pruned_trial_ends_where_it_did(
    sweep: Sweep,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    how: tuple[str, ...],
    end: str,
) -> None:
    assert sweep("-m", "study=a", "optimizer.lr=choice(1e-2,1e-8)", *how) == 0
    first, again = (
        json.loads((folder / "multirun/a/1" / place / "trial.json").read_text())
        for place in (".", "rerun-1")
        if place == "." or rerun.main(["multirun/a/1"]) == 0
    )
    assert end in first["reason"]
    for key in ("state", "reason", "valid_l1", "steps", "seeds", "values"):
        assert again[key] == first[key]
    assert "Identical to the bit." in capsys.readouterr().out
    if how[-1].startswith("objective.seeds"):
        [row] = [line for line in _table("a") if line.endswith("pruned")]
        assert f" {first['valid_l1']:.4g} " in row


@pytest.mark.parametrize("seeds", ["null", "[0,1]"])
def test_a_loss_that_is_no_number_is_none_again(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], seeds: str
) -> None:
    assert sweep("study=a", "optimizer.lr=1e30", f"objective.seeds={seeds}") == 1
    said = capfd.readouterr().err
    assert said.splitlines()[-1].endswith("valid_l1 is nan after 2 steps")
    assert "Traceback" not in said
    assert rerun.main(["multirun/a/0"]) == 0
    said = capfd.readouterr().out
    assert "original  valid_l1 nan\nrepeated  valid_l1 nan " in said
    assert "Identical to the bit." in said
    assert rerun.main(["multirun/a"]) == 1
    said = capfd.readouterr().err
    assert "none of its trials is complete" in said
    assert "python -m sweep.rerun multirun/a/0" in said


def _table(study: str) -> list[str]:
    """The lines of a study's table."""
    console = Console(width=120, record=True, file=io.StringIO())
    opened = optuna.load_study(study_name=study, storage="sqlite:///multirun/studies.db")
    console.print(trial_table(opened))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_what_is_no_trial_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    assert rerun.main([place]) == 1
    assert "neither a finished trial" in capsys.readouterr().err


def test_a_damaged_record_says_so(
    sweep: Sweep, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("study=a") == 0
    path = folder / "multirun/a/0/trial.json"
    path.write_text(path.read_text()[:40])
    assert rerun.main(["multirun/a/0"]) == 1
    assert "trial.json is damaged" in capsys.readouterr().err


def test_a_results_folder_cannot_run_code(
    sweep: Sweep, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("study=a") == 0
    path = folder / "multirun/a/0/.hydra/config.yaml"
    config = OmegaConf.load(path)
    config.student._target_ = "os.system"
    OmegaConf.save(config, path)
    assert rerun.main(["multirun/a/0"]) == 1
    assert "student._target_=os.system: allowed: slicewise.*" in capsys.readouterr().err


def test_hydras_own_way_works_too(sweep: Sweep, folder: Path, command: Command) -> None:
    assert sweep("study=a", "seed=3") == 0
    saved = folder / "multirun/a/0/.hydra"
    done = command("sweep", "--config-path", str(saved), "--config-name", "config")
    assert done.returncode == 0, done.stderr
    [again] = folder.glob("outputs/*/*/trial.json")
    first = json.loads((folder / "multirun/a/0/trial.json").read_text())
    assert json.loads(again.read_text())["valid_l1"] == first["valid_l1"]


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
