"""`python -m sweep.report`: what is in the file, for all kinds of studies."""

from __future__ import annotations

import json
import re
import shutil
import time
from html import unescape
from pathlib import Path

import pytest

from sweep.report import write_report
from sweep.report.__main__ import main
from tests.sweep.conftest import Sweep
from tests.sweep.studies import make_study

SECTIONS = ["question", "answer", "leaderboard", "curves", "size", "parameters", "slices"]
SECTIONS += ["timeline", "failures", "versions", "commands"]


def section(text: str, name: str) -> str:
    """One part of the page."""
    return re.split(r"</section>", re.split(rf'<section id="{name}"[^>]*>', text)[-1])[0]


def figure_names(text: str) -> set[str]:
    return set(re.findall(r'<figure id="([^"]+)"', text))


def test_thirty_trials_fill_every_section(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(folder, 30)
    assert main(["mine"]) == 0
    assert capsys.readouterr().out == "multirun/mine/report.html\n"
    path = folder / "multirun/mine/report.html"
    text = path.read_text()
    assert path.stat().st_size < 8e6
    for name in SECTIONS:
        assert "Too few trials" not in section(text, name)
        assert len(section(text, name)) > 60, name
    assert figure_names(text) >= {"learning-curves", "loss-by-size", "importance", "timeline"}
    assert "slice-valid-l1-optimizer-lr" in figure_names(text)
    # Every picture has its words, every reason is shown as it is.
    assert len(re.findall(r'role="img" aria-label="[^"]{40,}', text)) == len(figure_names(text))
    assert "student.value_dim=0: allowed: &lt;more&gt; &amp; more" in section(text, "failures")
    assert "python -m sweep.rerun multirun/mine/17" in section(text, "commands")
    assert "0.0001 to 0.1, logarithmic" in section(text, "question")


def test_its_numbers_are_those_of_trial_json(folder: Path) -> None:
    study = make_study(folder, 12)
    main(["mine"])
    board = section((folder / "multirun/mine/report.html").read_text(), "leaderboard")
    body = board.partition("<tbody>")[2]
    rows = {int(n): row for row in body.split("<tr")[1:] for n in re.findall(r"/\">(\d+)<", row)}
    assert len(rows) == len(study.trials)
    for number, row in rows.items():
        record = json.loads((folder / f"multirun/mine/{number}/trial.json").read_text())
        values = re.findall(r'data-v="([^"]+)"', row)
        if record["state"] == "COMPLETE":
            assert repr(record["valid_l1"]) in values
            assert str(record["student_parameters"]) in values
            assert repr(record["baseline_ratio"]) in values
        assert repr(record["params"]["optimizer.lr"]) in values
        assert record["state"].lower() in unescape(row)


@pytest.mark.parametrize("n_trials", [0, 1])
def test_a_study_that_has_hardly_begun(folder: Path, n_trials: int) -> None:
    make_study(folder, n_trials)
    assert main(["mine"]) == 0
    text = (folder / "multirun/mine/report.html").read_text()
    assert ("No trial is complete" in section(text, "answer")) == (n_trials == 0)
    assert ("learning-curves" in figure_names(text)) == (n_trials == 1)


def test_a_study_of_failures_says_why(folder: Path) -> None:
    make_study(folder, 5, all_fail=True)
    assert main(["multirun/mine"]) == 0
    text = (folder / "multirun/mine/report.html").read_text()
    assert "No trial is complete" in section(text, "answer")
    assert "student.value_dim=1" in section(text, "failures")


def test_three_directions_have_a_front_and_pictures_each(folder: Path) -> None:
    objectives = ("valid_l1", "student_parameters", "seconds")
    study = make_study(folder, 40, objectives)
    main(["mine"])
    text = (folder / "multirun/mine/report.html").read_text()
    names = figure_names(text)
    assert "pareto-front" in names
    # The storage has no intermediate values of such a study; metrics.csv has.
    assert "learning-curves" in names
    assert {f"parallel-{n.replace('_', '-')}" for n in objectives} <= names
    marked = set(re.findall(r'class="front">\s*<td class="n"><a href="[^"]+">(\d+)<', text))
    assert {int(n) for n in marked} >= {trial.number for trial in study.best_trials}


def test_two_thousand_trials_take_seconds_and_fit(folder: Path) -> None:
    study = make_study(folder, 2000, in_memory=True)
    started = time.process_time()
    path = write_report(study, folder / "multirun/mine", None)
    assert time.process_time() - started < 20
    assert path.stat().st_size < 8e6


def test_files_that_are_gone_leave_what_the_storage_knows(folder: Path) -> None:
    make_study(folder, 10)
    for place in (folder / "multirun/mine").glob("[0-9]*"):
        shutil.rmtree(place)
    assert main(["mine"]) == 0
    text = (folder / "multirun/mine/report.html").read_text()
    assert "No trial.json can be read" in section(text, "versions")
    assert "learning-curves" in figure_names(text)


def test_a_study_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mine"]) == 1
    assert "storage=sqlite:///multirun/studies.db: allowed:" in capsys.readouterr().err
    make_study(folder, 1)
    assert main(["other"]) == 1
    assert "study=other: there is no such study; there are: mine" in capsys.readouterr().err


def test_a_sweep_ends_with_a_report(
    sweep: Sweep, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    said = capsys.readouterr().out
    assert "multirun/a/report.html" in said
    text = (folder / "multirun/a/report.html").read_text()
    for number in (0, 1):
        record = json.loads((folder / f"multirun/a/{number}/trial.json").read_text())
        assert repr(record["valid_l1"]) in section(text, "leaderboard")
        assert f"{record['valid_l1']:.4g} (trial {number})" in said.splitlines()[-3]
    assert said.splitlines()[-3].startswith("Shown:        valid_l1 from ")
    assert said.splitlines()[-2].startswith("On text:      cosine 0.")
    assert "python -m sweep.compress budget.parameters=0.33" in said.splitlines()[-1]
    assert "student.qkv_layers=0,1" in section(text, "commands")


def test_a_report_that_cannot_be_written_fails_no_sweep(
    sweep: Sweep, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "multirun/a/report.html/in-the-way").mkdir(parents=True)
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    assert "Could not write the report" in capsys.readouterr().out


def test_a_password_is_not_shown(folder: Path) -> None:
    from sweep.study.plan import Plan

    plan = Plan(command="python -m sweep hydra.sweeper.storage=postgresql://me:secret@db/x")
    assert plan.command == "python -m sweep hydra.sweeper.storage=postgresql://me@db/x"


def test_what_a_search_decides_is_not_shown_as_shared(sweep: Sweep, folder: Path) -> None:
    """Nor what follows from it: the schedule's highest learning rate is the optimizer's."""
    assert sweep("-m", "study=a", "search=students", "hydra.sweeper.n_trials=2") == 0
    question = section((folder / "multirun/a/report.html").read_text(), "question")
    assert "ApproximateAttention" not in question
    assert "lr=0.001" not in question
    assert "weight_decay=0.0001" in question
