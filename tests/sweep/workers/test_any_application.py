"""An application that knows nothing of this package but how to report: all in its own words."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra
from optuna.trial import TrialState

from sweep import rerun, watch
from sweep.study.plan import read_plan
from tests.sweep import own_app

Run = Callable[..., int]
FOLDER = "hydra.sweep.dir=out"


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python own_app.py -m ...` in this process; its exit code."""

    def application(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["own_app.py", "-m", *arguments])
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
        GlobalHydra.instance().clear()
        try:
            own_app.main()
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    return application


def load(name: str = "mine", folder: str = "out") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/study.db")


def test_the_same_command_goes_on_where_the_folder_is_the_same(run: Run) -> None:
    sweep = (FOLDER, "rate=interval(0.1,0.9)")
    assert run(*sweep, "hydra.sweeper.n_trials=2") == 0
    assert run(*sweep, "hydra.sweeper.n_trials=3") == 0
    study = load()
    assert len(study.trials) == 3
    assert study.metric_names == ["error"]
    command = "python own_app.py -m hydra.sweep.dir=out 'rate=interval(0.1,0.9)'"
    assert read_plan(study).command == f"{command} hydra.sweeper.n_trials=3"


def test_where_the_time_names_the_folder_the_command_that_goes_on_says_it(
    run: Run, folder: Path
) -> None:
    sweep = ("rate=interval(0.1,0.9)", "hydra.sweeper.study_name=null")
    assert run(*sweep, "hydra.sweeper.n_trials=1") == 0
    [place] = (folder / "multirun").glob("*/*")
    name = place.name
    command = read_plan(load(name, str(place))).command
    assert command is not None
    assert command.endswith(f" hydra.sweep.dir={place.relative_to(folder)}")
    arguments = [*sweep, "hydra.sweeper.n_trials=2", f"hydra.sweep.dir={place}"]
    assert run(*arguments) == 0
    assert len(load(name, str(place)).trials) == 2


def test_a_time_that_is_up_is_said(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    sweep = (FOLDER, "rate=interval(0.1,0.9)")
    assert run(*sweep, "hydra.sweeper.n_trials=1") == 0
    assert "Stopped" not in capfd.readouterr().out
    assert run(*sweep, "hydra.sweeper.timeout=0.001") == 0
    said = capfd.readouterr().out
    assert "Stopped before its budget was met: the time is up (hydra.sweeper.timeout=0.001)" in said


def test_it_goes_on_only_where_something_is_left(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    def last_line() -> str:
        return capfd.readouterr().out.splitlines()[-1]

    assert run(FOLDER, "rate=0.1,0.2") == 0
    assert last_line().startswith("Best with:")
    rule = ("hydra/sweeper/stop=no_better", "hydra.sweeper.stop.trials=1")
    more = ("hydra.sweep.dir=more", "hydra.sweeper.n_trials=5", "rate=choice(0.5,0.1,0.2,0.3)")
    assert run(*more, "hydra.sweeper.study_name=more", *rule) == 0
    command = last_line().removeprefix("To go on:     python own_app.py -m ")
    assert "no_better" not in command
    assert run(*shlex.split(command)) == 0
    assert len(load("more", "more").trials) == 4
    assert last_line().startswith("Best with:")


def test_all_of_its_configuration_is_what_a_study_is_about(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    """Keys that in this package change nothing may decide all in another."""
    sweep = (FOLDER, "rate=0.1,0.2")
    assert run(*sweep) == 0
    for change in ("budget=6", "trainer=sgd", "callbacks=[a]", "study.subject=zoology"):
        assert run(*sweep, change) == 1
        said = capfd.readouterr().err
        key = change.partition("=")[0]
        assert f"  config.{key}: was " in said
        assert "Choose another hydra.sweeper.study_name=NAME" in said
        assert "Traceback" not in said
    assert run(*sweep, "budget=6", "+resume=force") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rate=0.1,0.2 hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0: allowed: an integer"),
        ("rate=0.1,0.2 hydra.sweeper.metric_names=[a,b]", "one for each of a, b"),
        ("rate=0.1,0.2 hydra.sweeper.metric_names=7", "metric_names=7: allowed: a list of names"),
        ("rate=0.1,0.2 speed=1,2", "speed"),
        ("rate=choice()", "rate=choice()"),
        ("rate=0.1,0.2 hydra.sweeper.direction=down", "hydra.sweeper.direction=down"),
        (
            "rate=0.1,0.2 hydra.sweeper.custom_search_space=none.such",
            "custom_search_space=none.such",
        ),
        ("rate=0.1,0.2 hydra/sweeper/pruner=patient", "patient"),
        ("rate=0.1,0.2 hydra.sweeper.storage=oracle", "hydra.sweeper.storage=oracle"),
        ("rate=0.1,0.2 do=words", "it returned 'good', not a number"),
        (
            "rate=0.1,0.2 hydra.sweeper.custom_search_space=tests.sweep.own_app.unknown",
            "there is no such key: allowed: hydra, rate, steps",
        ),
        ("rate=0.1,0.2 do=exit", "SystemExit: 3"),
        ("rate=0.1,0.2 do=cancel", "CancelledError"),
    ],
)
def test_a_mistake_is_one_message(
    run: Run, capfd: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert run(FOLDER, *arguments.split()) == 1
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert "python -m sweep" not in said
    assert "study=NAME" not in said.replace("study_name=NAME", "")


def test_ctrl_c_stops_at_the_next_report_and_says_how_to_go_on(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(FOLDER, "rate=0.1,0.2", "do=interrupt") == 130
    said = capfd.readouterr()
    assert "Stopping at the trial's next report, or its end" in said.out
    command = "python own_app.py -m hydra.sweep.dir=out rate=0.1,0.2 do=interrupt"
    assert said.err.strip() == f"Stopped. To resume: {command}"
    [trial] = load().trials
    assert trial.state is TrialState.WAITING
    assert run(FOLDER, "rate=0.1,0.2", "+resume=force") == 0
    assert [t.state for t in load().trials] == [TrialState.COMPLETE] * 2


def test_a_pruned_trial_is_one_that_raised_so(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    pruner = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1")
    assert run(FOLDER, "rate=0.9,0.1", *pruner) == 0
    states = [t.state for t in load().trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED]
    assert "Trial 1 pruned at step 0 with 0.9" in capfd.readouterr().out


def test_an_exception_of_the_application_can_be_inspected(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(FOLDER, "rate=0.1", "do=fail") == 1
    said = capfd.readouterr().err
    assert "trial 0: RuntimeError: a mistake of the application" in said
    assert said.strip().endswith("The traceback: out/0/own_app.log")
    assert "Traceback" not in said
    raised = 'raise RuntimeError("a mistake of the application")'
    assert raised in Path("out/0/own_app.log").read_text()
    assert raised in json.loads(Path("out/0/trial.json").read_text())["traceback"]


def test_the_end_watch_and_report_say_what_it_is(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(FOLDER, "rate=0.1,0.2") == 0
    said = capfd.readouterr().out
    assert "Best trial:   out/1" in said
    assert " #  trial  rate  error     state" in said
    assert "Run it again: python -m sweep.rerun out/1" in said
    assert "To go on" not in said
    assert watch.main(["out", "--once"]) == 0
    assert "Best: trial 1, error 0.512  rate=0.2" in capfd.readouterr().out
    text = Path("out/report.html").read_text()
    words = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", text, flags=re.S)
    assert "A study of python own_app.py" in words
    assert "Sought: minimize error" in " ".join(words.split())
    assert "Reported error by step of 2 trials" in text
    for word in ("student", "teacher", "slicewise study", "valid_l1", "python -m sweep "):
        assert word not in words


def test_several_directions_have_their_front(run: Run) -> None:
    assert (
        run(
            FOLDER,
            "rate=0.1,0.2,0.3",
            "do=two",
            "hydra.sweeper.direction=[minimize,maximize]",
            "hydra.sweeper.metric_names=[error,speed]",
        )
        == 0
    )
    text = Path("out/report.html").read_text()
    assert "Objectives against each other" in text
    assert "<h3>Best trials</h3>" in text
    assert load().metric_names == ["error", "speed"]


def test_a_trial_is_repeated_by_its_own_command(
    run: Run, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(str(own_app.__file__), folder)
    assert run(FOLDER, "rate=0.1,0.2", "hydra.sweeper.direction=maximize") == 0
    capfd.readouterr()
    assert rerun.main(["out"]) == rerun.IDENTICAL
    said = capfd.readouterr().out
    assert "original  error 0.729" in said
    assert "out/0/rerun-1" in said
    assert "Identical to the bit." in said
    # Defaults that have changed change what it comes to.
    source = (folder / "own_app.py").read_text()
    (folder / "own_app.py").write_text(source.replace('"steps": 3', '"steps": 4'))
    assert rerun.main(["out/0"]) == rerun.DIFFERENT
    (folder / "own_app.py").write_text("raise SystemExit(4)")
    assert rerun.main(["out/0"]) == 1
    assert "out/0 was not repeated: python own_app.py ended with exit code 4" in (
        capfd.readouterr().err
    )
    (folder / "own_app.py").unlink()
    assert rerun.main(["out/0"]) == 1
    assert "there is no own_app.py in" in capfd.readouterr().err


def test_what_a_dead_worker_had_finished_is_told_by_its_successor(run: Run, folder: Path) -> None:
    assert run(FOLDER, "rate=0.1,0.2") == 0
    record = folder / "out/1/trial.json"
    told = json.loads(record.read_text())
    record.write_text(json.dumps(told | {"values": [0.25]}))
    study = load()
    trial = study.trials[1]
    with contextlib.closing(sqlite3.connect(folder / "out/study.db")) as database:
        database.execute("update trials set state='WAITING' where number=1")
        database.commit()
    assert trial.state is TrialState.COMPLETE
    assert run(FOLDER, "rate=0.1,0.2") == 0
    assert load().trials[1].value == 0.25
    # A file of that name which is the application's own is left alone.
    record.write_text("[]")
    with contextlib.closing(sqlite3.connect(folder / "out/study.db")) as database:
        database.execute("update trials set state='WAITING' where number=1")
        database.commit()
    assert run(FOLDER, "rate=0.1,0.2") == 0
    assert record.read_text() == "[]"
    assert load().trials[1].value == pytest.approx(0.512)
