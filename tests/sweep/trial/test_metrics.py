"""The table of metrics: whoever tells, keeps or shows a number of a trial does so by its row."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sweep.trial.loggers import results
from sweep.trial.metrics import METRICS, Metrics, metric_named, objectives, seen_in
from sweep.trial.record import TrialRecord
from sweep.view.summary import trial_table
from tests.sweep.conftest import Sweep

ROOT = Path(__file__).resolve().parents[3]
NAMES = [metric.name for metric in METRICS]


def columns(report: Path) -> list[str]:
    """Of the leaderboard."""
    board = report.read_text().partition('<section id="leaderboard">')[2].partition("</thead>")[0]
    return re.findall(r"<button>(.*?)</button>", board)


def printed(drawn: Any, width: int = 200) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(drawn)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_row_for_each_number_of_a_record() -> None:
    measured = {entry.name for entry in fields(Metrics)}
    derived = {name for name, value in vars(Metrics).items() if isinstance(value, property)}
    assert measured | derived == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)
    numbers = {
        entry.name
        for entry in fields(TrialRecord)
        if re.fullmatch(r"(int|float)( \| None)?", str(entry.type))
    }
    assert numbers - measured == {"number", "seed", "best_seed", "threads"}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_row_is_whole(metric: Any) -> None:
    assert metric.description
    assert metric.heading
    # The summary and the view of a running sweep read the storage, no files.
    if {"summary", "watch"} & set(metric.views):
        assert metric.is_kept
    assert not metric.is_objective or metric.better
    assert metric_named(metric.name) == metric
    assert metric.shown(None) == ""


@given(value=st.integers(0, 2**50) | st.floats(0, 1e12))
def test_a_number_is_shown_near_its_value(value: float) -> None:
    for metric in METRICS:
        shown = metric.shown(value).replace(",", "")
        read = float(shown.rstrip("%")) / (100 if shown.endswith("%") else 1)
        assert read == pytest.approx(value, rel=1e-3, abs=0.5)


def test_objectives_of_the_configuration_look_for_what_is_better() -> None:
    for path in (ROOT / "conf/objective").glob("*.yaml"):
        node = yaml.safe_load(path.read_text())
        directions = node["direction"]
        directions = [directions] if isinstance(directions, str) else directions
        wanted = [getattr(metric_named(name), "direction", None) for name in node["metrics"]]
        assert directions == wanted, path.name


def test_each_objective_is_one_and_everyone_tells_the_same_numbers(
    sweep: Sweep, folder: Path, record: Callable[[str], dict[str, Any]]
) -> None:
    names = objectives()
    directions = ",".join(str(getattr(metric_named(name), "direction", None)) for name in names)
    objective = f"objective.metrics=[{','.join(names)}]"
    direction = f"objective.direction=[{directions}]"
    seeds = "objective.seeds=[0,1]"
    assert sweep("-m", "study=a", "student.qkv_layers=0", objective, direction, seeds) == 0
    found = record("a/0")
    study = optuna.load_study(study_name="a", storage=f"sqlite:///{folder}/multirun/studies.db")
    [trial] = study.trials
    assert trial.values == [found[name] for name in names] == found["values"]
    told = TrialRecord.read(folder / "multirun/a/0")
    # A fit of a student measures all but what is of whole encoders.
    assert set(results(told)) == set(NAMES) - {"damage"}
    assert {name: told.get(metric) for name, metric in zip(NAMES, METRICS, strict=True)} == {
        **{name: found[name] for name in NAMES if name in found},
        "parameter_share": found["student_parameters"] / found["teacher_parameters"],
    }
    for metric in METRICS:
        kept = trial.user_attrs.get(metric.name)
        assert kept == (found[metric.name] if metric.is_kept else None)
    headings = columns(folder / "multirun/a/report.html")
    assert set(headings) >= {*names, *(m.heading for m in seen_in("report") if m.name not in names)}
    table = printed(trial_table(study))
    for name in names:
        metric = metric_named(name)
        assert metric is not None
        assert re.search(rf"\b{re.escape(metric.heading)}\b", table)
        assert metric.shown(found[name]) in table


def test_what_is_no_metric_is_no_objective(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("objective.metrics=[valid_l2]") == 1
    said = capsys.readouterr().err
    assert f"objective.metrics=[valid_l2]: allowed: {', '.join(objectives())}" in said


def test_to_look_for_the_worst_is_said(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    point = ("-m", "student.qkv_layers=0")
    assert sweep(*point, "study=a", "objective.metrics=[baseline_ratio]") == 0
    warning = "objective.direction=minimize, but larger baseline_ratio is better"
    assert capsys.readouterr().out.count(warning) == 1
    assert sweep(*point, "study=b", "objective=text_cosine") == 0
    assert "is better" not in capsys.readouterr().out


def test_reports_and_views_load_no_torch() -> None:
    program = """
import sys
import sweep.trial.metrics
assert not {"optuna", "hydra"} & set(sys.modules)
import sweep.report.sections, sweep.view.picture, sweep.view.summary, sweep.watch
assert not {"torch", "pytorch_lightning", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=100)


def test_a_new_metric_is_a_row_and_the_line_that_measures_it(tmp_path: Path) -> None:
    """In a copy of the house with these two lines, everything knows it."""
    for room in ("sweep", "src", "conf"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    row = """
    biases: int | None = _row(
        "biases of the student", heading="biases", format=",.0f", better="smaller",
        is_objective=True, is_kept=True, views=("report", "summary", "watch"),
    )
    steps: int | None = _row("""
    measured = """
    record.biases = 10**6 + sum("bias" in name for name, _ in student.named_parameters())
    record.hardware, """
    for name, old, new in (
        ("metrics.py", "\n    steps: int | None = _row(", row),
        ("fit.py", "\n    record.hardware, ", measured),
    ):
        path = tmp_path / "sweep/trial" / name
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))
    arguments = ["experiment=tiny", "study=a", "student.qkv_layers=0,1", "hydra/launcher=basic"]
    objective = ["objective.metrics=[valid_l1,biases]", "objective.direction=[minimize,minimize]"]
    paths = os.pathsep.join(map(str, (tmp_path, tmp_path / "src")))
    done = subprocess.run(
        [sys.executable, "-m", "sweep", "-m", *arguments, *objective, "logger=tensorboard"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "multirun/a/1/trial.json").read_text())
    assert record["biases"] > 10**6
    assert record["values"] == [record["valid_l1"], record["biases"]]
    study = optuna.load_study(study_name="a", storage=f"sqlite:///{tmp_path}/multirun/studies.db")
    assert study.trials[1].user_attrs["biases"] == record["biases"]
    assert "biases" in columns(tmp_path / "multirun/a/report.html")
    assert f"{record['biases']:,}" in (tmp_path / "multirun/a/report.html").read_text()
    assert f"{record['biases']:,}" in done.stdout.split("Study a")[-2]
    events = (tmp_path / "multirun/a/1").rglob("events.out.tfevents.*")
    assert any(b"final/biases" in path.read_bytes() for path in events)
    watched = subprocess.run(
        [sys.executable, "-m", "sweep.watch", "a", "--once"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert re.search(r"biases 1,000,0\d\d", watched.stdout.replace("\n", " "))
