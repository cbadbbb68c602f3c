"""`python -m sweep.watch`: what it shows of a study that runs, and of one that does not."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from sweep.study.attributes import DIRECTORY, WORKER
from sweep.study.plan import Plan, write_plan
from sweep.study.presence import own_heartbeat, write_heartbeat
from sweep.trial.pulse import Pulse
from sweep.view.picture import picture, shown_live, shown_progress
from sweep.view.status import Status, StudyMonitor
from sweep.watch import main
from tests.sweep.processes import Program
from tests.sweep.studies import make_study
from tests.waiting import eventually


@pytest.fixture
def running(folder: Path) -> optuna.Study:
    """Thirty trials done of forty, and two workers at work, as far as the study knows."""
    study = make_study(folder, 30)
    plan = Plan(40, str(folder / "multirun/mine"), "python -m sweep -m study=mine")
    write_plan(study, plan)
    write_heartbeat(study, "sweep", "abc123", own_heartbeat("abc123"))
    for number in (0, 1, 2):
        name = f"abc123/{number}-ffff"
        write_heartbeat(study, "worker", name, own_heartbeat("abc123"))
        if number == 2:
            continue
        trial = study.ask()
        trial.suggest_float("optimizer.lr", 1e-4, 1e-1, log=True)
        trial.suggest_categorical("student.qkv_layers", [1, 2, 4])
        place = folder / "multirun/mine" / str(trial.number)
        place.mkdir()
        trial.set_user_attr(WORKER, name)
        trial.set_user_attr(DIRECTORY, str(place))
        if number == 0:
            Pulse(420, 1000, 0.3121, 12.34, seconds=34.0).write(place)
    return study


def drawn(status: Status, width: int = 80, **options: object) -> str:
    console = Console(width=width, file=io.StringIO(), **options)  # type: ignore[arg-type]
    console.print(picture(status))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_says_all_that_is_asked_in_eighty_columns(running: optuna.Study) -> None:
    status = StudyMonitor(running).status()
    text = drawn(status)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "Study mine" in text
    assert "26/40 finished" in text
    assert "20 complete, 6 pruned, 4 failed, 2 running" in text
    assert f"trial {running.best_trial.number}, valid_l1 {running.best_value:.4g}" in text
    assert "1.90 x baseline" in text
    [first] = [line for line in text.splitlines() if "420/1000" in line]
    assert re.search(r"^ *0 +30 .*lr=.* 0\.3121 +12\.3", first)
    assert re.search(r"^ *1 +31 .*starting", text, re.MULTILINE)
    assert re.search(r"^ *2 .*between two trials", text, re.MULTILINE)
    assert "left" in text


def test_time_left_is_what_the_last_trials_took(running: optuna.Study) -> None:
    seconds = StudyMonitor(running).status().seconds_left
    # Twelve more trials of 35 s, and what is left of two, by three workers.
    assert seconds == pytest.approx((12 * 35 + 580 / 12.34 + 35) / 3, rel=0.05)


def test_no_color_is_no_color(running: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    status = StudyMonitor(running).status()
    assert "\x1b[3" in drawn(status, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    coloured = re.compile(r"\x1b\[[0-9;]*(3[0-7]|9[0-7]|38|48)[0-9;]*m")
    assert not coloured.search(drawn(status, force_terminal=True, color_system="standard"))


def test_once_needs_no_terminal(running: optuna.Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine", "--once"]) == 0
    said = capsys.readouterr().out
    assert "26/40 finished" in said
    assert "\x1b" not in said


def test_a_sweep_that_has_ended_is_not_waited_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(make_study(folder, 4), Plan(40, None, "python -m sweep -m study=mine"))
    assert main(["mine"]) == 0
    said = capsys.readouterr().out
    assert "No sweep works on it now. To go on: python -m sweep -m study=mine" in said


def test_an_unknown_study_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(folder, 1)
    assert main(["other"]) == 1
    assert "study=other: there is no such study; there are: mine" in capsys.readouterr().err


def test_what_is_logged_goes_above_the_picture(
    running: optuna.Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Hydra sets logging up: a handler that keeps the stream it was made with.
    logger = logging.getLogger()
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(sys.stdout)])
    console = Console(force_terminal=True, width=80, height=40)
    with shown_live(running, console, transient=True) as draw:
        draw()
        logger.warning("Job #1 died")
        draw()
    logger.warning("afterwards")
    said = capsys.readouterr().out
    # The picture was wiped before the line, and drawn again below it.
    before, after = said.split("Job #1 died")
    assert before.endswith("\x1b[2K")
    assert "Study mine" in before
    assert "Study mine" in after
    assert said.endswith("afterwards\n")


def test_without_a_terminal_it_is_a_line_for_each_trial(
    running: optuna.Study, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with shown_progress(running, 40, live=True) as look:
        look()
        assert caplog.messages == []
        running.tell(30, 0.1234)
        look()
    [line] = caplog.messages
    assert re.match(r"Trial 30 complete: 0\.1234  optimizer\.lr=.*\[27/40\]$", line)


def test_it_follows_a_sweep_of_two_workers_to_its_end(tmp_path: Path) -> None:
    program = Program(tmp_path)
    try:
        running = program.start(
            "seed=range(0,6)", "hydra.sweeper.n_jobs=2", "data.train_batches=300"
        )
        study = program.study
        eventually(lambda: program.trials(TrialState.RUNNING), "a trial that runs")
        follower = subprocess.run(
            [sys.executable, "-m", "sweep.watch", "s", "--every", "0.2"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        assert running.wait() == 0
        assert "No sweep works on it now." in follower.stdout
        assert len(re.findall(r"Trial \d complete: ", follower.stdout)) >= 1
        assert "[6/6]" in follower.stdout
        assert len(study.trials) == 6
        program.assert_complete(6)
    finally:
        program.end()
