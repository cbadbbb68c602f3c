"""One fit: what it writes, and that it writes the same again."""

from __future__ import annotations

import csv
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slicewise import load_student
from slicewise.data.batch import Split
from slicewise.data.noise import noise_batch
from slicewise.students.bert_layer import BertLayer
from slicewise.teacher import TeacherSlice, random_bert
from sweep.console import INTERRUPTED
from sweep.trial import parts
from sweep.trial.checkpoint import CHECKPOINT
from tests.sweep.conftest import Sweep
from tests.waiting import PATIENCE, eventually

Record = Callable[[str], dict[str, Any]]
Command = Callable[..., subprocess.CompletedProcess[str]]


def test_a_fit_leaves_its_record_configuration_metrics_and_student(
    sweep: Sweep, folder: Path, record: Record
) -> None:
    assert sweep("study=a") == 0
    trial = folder / "multirun" / "a" / "0"
    assert {p.name for p in trial.iterdir()} == {
        ".hydra",
        "metrics.csv",
        "student",
        "sweep.log",
        "trial.json",
    }
    found = record("a/0")
    assert found["state"] == "COMPLETE"
    assert found["steps"] == 10
    assert found["values"] == [found["valid_l1"]]
    assert found["overrides"] == ["experiment=tiny", "study=a"]
    assert found["baseline_ratio"] == pytest.approx(
        min(found["baselines"].values()) / found["valid_l1"]
    )
    assert found["versions"]["torch"] == torch.__version__
    with (trial / "metrics.csv").open() as file:
        losses = [row["valid_l1"] for row in csv.DictReader(file) if row["valid_l1"]]
    assert len(losses) == 5
    assert float(losses[-1]) == found["valid_l1"]


@pytest.mark.parametrize(
    ("student", "is_better"),
    # As good as the input, which is a baseline; and the slice itself.
    [("nothing", False), ("original", True)],
)
def test_a_student_no_better_than_a_baseline_is_not_called_better(
    sweep: Sweep, folder: Path, student: str, is_better: bool
) -> None:
    assert sweep("study=a", f"student={student}") == 0
    log = (folder / "multirun/a/0/sweep.log").read_text()
    assert " better than the best baseline, " in log
    assert (": no better than the best baseline, " in log) is not is_better


def test_the_recorded_loss_is_the_saved_students(sweep: Sweep, record: Record) -> None:
    assert sweep("study=a") == 0
    teacher = random_bert(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48
    )
    student = load_student("multirun/a/0/student")
    losses = []
    for index in range(2):
        x_BTH = noise_batch((4, 8, 24), 0, Split.VALID, index, torch.device("cpu"))
        with torch.no_grad():
            losses.append((student(x_BTH) - teacher(x_BTH)).abs().mean().item())
    found = record("a/0")
    assert found["valid_l1"] == pytest.approx(sum(losses) / 2, abs=1e-6)
    assert found["student_parameters"] == sum(p.numel() for p in student.parameters())
    assert found["teacher_parameters"] == sum(p.numel() for p in teacher.parameters())


def test_the_same_configuration_gives_the_same_loss_in_another_process(
    sweep: Sweep, record: Record, command: Command
) -> None:
    assert sweep("study=a") == 0
    threads = str(record("a/0")["threads"])
    done = command("sweep", "experiment=tiny", "study=b", OMP_NUM_THREADS=threads)
    assert done.returncode == 0, done.stderr
    assert record("a/0")["valid_l1"] == record("b/0")["valid_l1"]


def test_first_weights_are_found_where_the_fit_runs(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[object] = []
    move, start = TeacherSlice.to, BertLayer.start_from

    def noted_move(teacher: TeacherSlice, device: torch.device) -> TeacherSlice:
        happened.append(device)
        return move(teacher, device)

    def noted_start(student: BertLayer, *given: Any) -> None:
        happened.append("start")
        start(student, *given)

    monkeypatch.setattr(TeacherSlice, "to", noted_move)
    monkeypatch.setattr(BertLayer, "start_from", noted_start)
    assert sweep("study=a", "student=bert_layer", "student.init=teacher") == 0
    assert happened[:2] == [torch.device("cpu"), "start"]


@pytest.mark.gpu
def test_first_weights_are_a_workers_first_trials_as_its_second_ones(
    sweep: Sweep, record: Record
) -> None:
    given = ("student=bert_layer", "student.init=teacher", "trainer.accelerator=gpu")
    parts._teacher.cache_clear()
    for study in "ab":
        assert sweep(f"study={study}", *given) == 0
    assert record("a/0")["valid_l1"] == record("b/0")["valid_l1"]


def test_another_seed_gives_another_loss(sweep: Sweep, record: Record) -> None:
    assert sweep("study=a") == 0
    assert sweep("study=b", "seed=1") == 0
    assert record("a/0")["valid_l1"] != record("b/0")["valid_l1"]


def test_a_fit_that_ends_between_validations_is_validated(sweep: Sweep, record: Record) -> None:
    assert sweep("study=a", "trainer.max_steps=7") == 0
    assert sweep("study=b", "trainer.max_steps=7", "trainer.val_check_interval=7") == 0
    assert record("a/0")["steps"] == 7
    assert record("a/0")["valid_l1"] == record("b/0")["valid_l1"]


def test_a_finished_trial_is_not_overwritten(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep("study=a") == 0
    before = (folder / "multirun/a/0/trial.json").read_bytes()
    assert sweep("study=a") == 1
    assert "choose another study=NAME" in capfd.readouterr().err
    assert (folder / "multirun/a/0/trial.json").read_bytes() == before


def test_the_article_has_its_parameter_counts(sweep: Sweep, record: Record) -> None:
    article = (
        "experiment=article",
        "teacher=random_bert",
        "teacher.num_hidden_layers=2",
        "study=article",
        "data.batch_size=1",
        "trainer.limit_train_batches=1",
        "trainer.limit_val_batches=1",
        "trainer.max_epochs=1",
    )
    assert sweep(*article) == 0
    assert record("article/0")["teacher_parameters"] == 14_175_744
    assert record("article/0")["student_parameters"] == 5_022_336


def test_a_scheduler_changes_the_fit_and_is_recorded(sweep: Sweep, record: Record) -> None:
    assert sweep("study=a") == 0
    assert sweep("study=b", "scheduler=one_cycle") == 0
    assert record("a/0")["valid_l1"] != record("b/0")["valid_l1"]
    assert "scheduler=one_cycle" in record("b/0")["overrides"]


def test_a_loss_that_is_not_a_number_fails_with_its_reason(
    sweep: Sweep, record: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep("study=a", "optimizer.lr=1e30", "trainer.gradient_clip_val=null") == 1
    assert record("a/0")["state"] == "FAIL"
    assert "valid_l1 is nan" in str(record("a/0")["reason"])
    assert "valid_l1 is nan" in capfd.readouterr().err


def test_the_record_is_plain_json(sweep: Sweep, folder: Path) -> None:
    assert sweep("study=a") == 0
    text = (folder / "multirun/a/0/trial.json").read_text()
    assert json.loads(text)["study"] == "a"
    assert not list((folder / "multirun/a").rglob("*.pt")) + list(folder.rglob("*.pkl"))


LONG = ("experiment=tiny", "trainer.accelerator=cpu", "data.train_batches=200")


def test_a_fit_that_is_interrupted_goes_on_to_the_same_loss(
    sweep: Sweep, folder: Path, record: Record
) -> None:
    assert sweep(*LONG, "study=whole") == 0
    command = [sys.executable, "-m", "sweep", *LONG]
    checkpoints = "callbacks.resume_point.every_seconds=0.1"
    for number in (signal.SIGINT, signal.SIGTERM):
        study = f"study={number.name}"
        place = folder / "multirun" / number.name / "0"
        with subprocess.Popen(
            [*command, checkpoints, study],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            eventually((place / CHECKPOINT).exists, "a checkpoint")
            process.send_signal(number)
            _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == INTERRUPTED
        # What takes long on a busy machine is said too.
        said = said[said.index("Stopped. ") :]
        assert said.startswith("Stopped. To go on: python -m sweep experiment=tiny")
        assert said.rstrip().endswith(study)
        assert "Traceback" not in said
        assert not (place / "trial.json").exists()
        _, *arguments = shlex.split(said.partition("go on: ")[2])
        assert sweep(*arguments[2:]) == 0
        assert "Going on from step" in (place / "sweep.log").read_text()
        assert record(f"{number.name}/0")["valid_l1"] == record("whole/0")["valid_l1"]
