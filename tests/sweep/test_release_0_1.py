"""What the first release has left behind is gone on with, and repeated."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweep import rerun
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]

LEFT = Path(__file__).with_name("release_0_1")
# Of that release, on another machine; it had stopped within trial 0, which here goes on.
COMMAND = (
    "-m",
    "trainer.accelerator=cpu",
    "study=begun",
    "student.qkv_layers=0,1,2",
    "data.train_batches=400",
    "callbacks.resume_point.every_seconds=0.1",
)
LOSSES = [0.008531569503247738, 0.00782658439129591, 0.007967561483383179]


@pytest.fixture
def multirun(folder: Path) -> Path:
    """The folder that it wrote: studies in a SQLite file, one with a trial that had begun."""
    multirun = folder / "multirun"
    shutil.copytree(LEFT, multirun)
    script = (multirun / "studies.sql").read_text().replace("{folder}", str(folder))
    with sqlite3.connect(multirun / "studies.db") as database:
        database.executescript(script)
    return multirun


def test_a_study_goes_on(sweep: Sweep, multirun: Path, record: Record) -> None:
    assert sweep(*COMMAND) == 0
    study = optuna.load_study(study_name="begun", storage="sqlite:///multirun/studies.db")
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    log = (multirun / "begun/0/sweep.log").read_text()
    assert "Going on from step" in log
    losses = [record(f"begun/{number}")["valid_l1"] for number in range(3)]
    # Other processors round differently.
    assert losses == pytest.approx(LOSSES, rel=0.02)


def test_it_goes_on_as_what_it_was(
    sweep: Sweep, multirun: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What its configuration does not have was as it is by default now."""
    assert sweep(*COMMAND, "loss=mse") == 1
    said = capfd.readouterr().err
    assert (
        'config.loss._target_: was "slicewise.losses.l1_loss", now "slicewise.losses.mse"' in said
    )
    assert sweep(*COMMAND, "teacher.sublayer=attention", "teacher.num_layers=1") == 1
    assert 'config.teacher.sublayer: was "layer", now "attention"' in capfd.readouterr().err


def test_it_grows_by_a_key_that_it_did_not_have(sweep: Sweep, multirun: Path) -> None:
    """The trial that had begun goes on with what it had; no point comes twice."""
    assert sweep(*COMMAND, "student.qkv_layers=0", "loss=l1,mse") == 0
    study = optuna.load_study(study_name="begun", storage="sqlite:///multirun/studies.db")
    assert [trial.params.get("loss") for trial in study.trials] == ["l1", "mse"]


def test_a_trial_is_repeated(
    folder: Path, multirun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its configuration names classes where they were then."""
    saved = (multirun / "tinym/0/.hydra/config.yaml").read_text()
    assert "sweep.resume.ResumePoint" in saved
    assert rerun.main(["multirun/tinym/0", "--tolerance", "0.02"]) == 0
    before = json.loads((multirun / "tinym/0/trial.json").read_text())
    after = json.loads((multirun / "tinym/0/rerun-1/trial.json").read_text())
    assert after["valid_l1"] == pytest.approx(before["valid_l1"], rel=0.02)
    assert "Error" not in capsys.readouterr().err


@pytest.mark.parametrize("command", ["summary", "report"])
def test_it_can_be_looked_at(multirun: Path, command: str) -> None:
    from sweep.report.__main__ import main as report
    from sweep.watch import main as watch

    assert (watch(["begun", "--once"]) if command == "summary" else report(["begun"])) == 0
