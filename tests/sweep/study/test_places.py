"""Where studies and trials are found: what is printed can be typed, and what is linked is there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import optuna
import pytest
import yaml

from sweep import rerun
from sweep.report.__main__ import main as report
from sweep.studies import main as studies
from sweep.study.places import study_folder, trial_folder
from sweep.study.storage import open_storage
from sweep.watch import main as watch
from tests.sweep.conftest import Sweep

COMMAND = ("-m", "student.qkv_layers=0,1")


def _study(name: str, folder: str = "multirun") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/studies.db")


def _printed_commands(text: str) -> list[list[str]]:
    lines = [line.partition(": ")[2].strip() for line in text.splitlines() if "python -m" in line]
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("subdir", ["q${student.qkv_layers}", "deep/${hydra.job.num}", "${seed}-x"])
def test_trials_are_where_hydra_puts_them(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], subdir: str
) -> None:
    swept = ["-m", "student.qkv_layers=0,1"] if "seed" not in subdir else ["-m", "seed=0,1"]
    assert sweep(*swept, "study=x", f"hydra.sweep.subdir={subdir}") == 0
    [again, *_] = _printed_commands(capfd.readouterr().out)
    assert again[:3] == ["python", "-m", "sweep.rerun"]
    assert Path(again[3], "trial.json").is_file()
    study = _study("x")
    for trial in study.trials:
        assert (trial_folder(study, trial) / "trial.json").is_file()
    page = (folder / "multirun/x/report.html").read_text()
    links = [unquote(link) for link in re.findall(r'href="([^"#]+)/"', page)]
    assert links
    assert all((folder / "multirun/x" / link / "trial.json").is_file() for link in links)
    assert rerun.main(["multirun/x"]) == 0


def test_a_folder_that_has_moved_is_found_beside_its_storage(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweep(*COMMAND, "study=x") == 0
    (folder / "elsewhere").mkdir()
    shutil.move("multirun", "elsewhere/results")
    monkeypatch.chdir("elsewhere")
    study = _study("x", "results")
    assert study_folder(study) == folder / "elsewhere/results/x"
    for trial in study.trials:
        assert (trial_folder(study, trial) / "trial.json").is_file()
    capfd.readouterr()
    storage = ["--storage", "sqlite:///results/studies.db"]
    assert report(["x", *storage]) == 0
    assert capfd.readouterr().out.strip() == "results/x/report.html"
    assert "multirun" not in re.findall(
        r'href="([^"#]+)/"', Path("results/x/report.html").read_text()
    )
    assert watch(["x", "--once", *storage]) == 0


def test_trials_are_found_however_often_their_study_has_moved(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder
    for number in range(3):
        assert sweep("-m", f"seed={','.join(map(str, range(number + 1)))}", "study=x") == 0
        [again, *_] = _printed_commands(capfd.readouterr().out)
        study = _study("x")
        assert Path(again[3], "trial.json").is_file()
        assert len(study.trials) == number + 1
        for trial in study.trials:
            assert trial_folder(study, trial) == place / "multirun/x" / str(trial.number)
            assert (trial_folder(study, trial) / "trial.json").is_file()
        place = place / "further"
        place.mkdir()
        shutil.move("multirun", place / "multirun")
        monkeypatch.chdir(place)
    copy = "journal:///copy.log"
    assert studies(["--copy", "x", "--to", copy]) == 0
    copied = optuna.load_study(study_name="x", storage=open_storage(copy))
    for trial in copied.trials:
        assert (trial_folder(copied, trial) / "trial.json").is_file()


@pytest.mark.parametrize("name", ["a&b/it's", 'say "hi" to übung', 'it\'s "$HOME";ls'])
def test_every_command_that_is_printed_can_be_pasted(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    from sweep.overrides import override_text

    assert sweep(*COMMAND, f"study={override_text(name)}") == 0
    said = capfd.readouterr().out
    [again, *_] = _printed_commands(said)
    assert Path(again[3], "trial.json").is_file()
    done = subprocess.run(
        ["sh", "-c", shlex.join([sys.executable, *again[1:]])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert report([name]) == 0


def test_names_that_nobody_gave_are_unique(sweep: Sweep, folder: Path) -> None:
    names = set()
    for _ in range(3):
        assert sweep(*COMMAND) == 0
        names = {path.name for path in (folder / "multirun").iterdir() if path.is_dir()}
    assert len([name for name in names if not name.startswith(".")]) == 3


def test_the_results_say_which_trial_where_and_what_it_measured(sweep: Sweep, folder: Path) -> None:
    assert sweep(*COMMAND, "study=x") == 0
    results = yaml.safe_load((folder / "multirun/x/optimization_results.yaml").read_text())
    best = _study("x").best_trial
    assert results["best_value"] == best.value
    assert results["trial"] == best.number
    assert results["directory"] == str(best.number)
    assert results["metrics"]["student_parameters"] == best.user_attrs["student_parameters"]


def test_a_trial_of_a_configuration_folder_of_ones_own_is_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = folder / "my/experiment"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - tiny\nstudent:\n  qkv_layers: 0\n"
    )
    command = [sys.executable, "-m", "sweep", "--config-dir", "my", "experiment=mine", "study=x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    again = [sys.executable, "-m", "sweep.rerun", "multirun/x/0"]
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Identical to the bit." in done.stdout
    shutil.rmtree("my")
    done = subprocess.run(again, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "which is not there" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_best_of_a_folder_is_by_the_studys_objective(sweep: Sweep, folder: Path) -> None:
    command = (*COMMAND, "study=x", "objective.metrics=[student_parameters]")
    assert sweep(*command, "objective.direction=maximize") == 0
    study = _study("x")
    assert rerun.find_trial(folder / "multirun/x").name == str(study.best_trial.number)
    assert study.best_trial.params == {"student.qkv_layers": 1}
