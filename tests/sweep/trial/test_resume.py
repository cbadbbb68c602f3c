"""A fit that stopped, or died, and goes on ends as one that did neither: to the bit."""

from __future__ import annotations

import csv
import functools
import gc
import itertools
import json
import logging
import os
import pickle
import random
import threading
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, open_dict
from optuna.trial import Trial, TrialState

from slicewise.cuda_graph import Captured
from sweep import application
from sweep.console import INTERRUPTED
from sweep.resolvers import register_resolvers
from sweep.study.shared import quiet_optuna
from sweep.trial import fit as fitting
from sweep.trial.active import Place, StudyTrial, activated
from sweep.trial.checkpoint import CHECKPOINT, usable_checkpoint
from sweep.trial.metrics_file import MetricsFile
from sweep.trial.outcome import TrialStopped
from sweep.trial.run import run_trial
from tests.sweep import faults
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]

# Optuna's way to say that a step is taken again.
pytestmark = pytest.mark.filterwarnings("ignore:The reported value is ignored")

STOP = "+callbacks.stop={_target_: tests.sweep.faults.StopDuring, step: %d}"
DIE = "+callbacks.die={_target_: tests.sweep.faults.DieDuring, step: %d}"
SLOW = "+callbacks.slow={_target_: tests.sweep.faults.Slow, seconds: %g}"
LOSE = "+callbacks.lose={_target_: tests.sweep.faults.LosePossession, step: %d}"
LOSE_AND_FAIL = LOSE.replace("}", ", and_fail: true}")
NOTE_SAVES = "+callbacks.note={_target_: tests.sweep.faults.NoteSaves}"
ERROR = "+callbacks.error={_target_: tests.sweep.faults.Raise, trial: 0, what: error}"
# Otherwise a slow machine would come to the 30 seconds.
NO_SAVES = "callbacks.resume_point.every_seconds=1e9"
ALL_SAVES = "callbacks.resume_point.every_seconds=0"


@dataclass
class Fit:
    """A trial, again and again in one directory, without a sweep around it."""

    directory: Path
    study: optuna.Study = field(default_factory=optuna.create_study)
    place: Place | None = None

    def run(self, *overrides: str) -> Any:
        """What `run_trial` returns; raises TrialStopped where the trial stops."""
        config = self._compose(overrides)
        HydraConfig.instance().set_config(config)
        waiting = self.study.trials
        trial = Trial(self.study, waiting[0]._trial_id) if waiting else self.study.ask()
        active = StudyTrial(trial, threading.Event())
        active.place = self.place
        with activated(active):
            return run_trial(config, fitting.fit, "sweep.trial.fit.fit")

    def run_until_stopped(self, *overrides: str) -> int:
        """The step at which it stopped."""
        with pytest.raises(TrialStopped, match=r"^stopped at step \d+$") as stopped:
            self.run(*overrides)
        return int(str(stopped.value).split()[-1])

    @property
    def checkpoint(self) -> Path:
        return self.directory / CHECKPOINT

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / "trial.json").read_text())
        return found

    def metrics(self) -> list[dict[str, str]]:
        with (self.directory / "metrics.csv").open(newline="") as file:
            return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]

    def outcome(self) -> dict[str, Any]:
        """All that a fit leaves, but for the time it took."""
        varying = ("seconds", "overrides", "params", "student_latency_ms")
        record = {key: value for key, value in self.record().items() if key not in varying}
        return {
            "record": record,
            "metrics": self.metrics(),
            "reported": self.study.trials[0].intermediate_values,
            "weights": (self.directory / "student" / "model.safetensors").read_bytes(),
        }

    def _compose(self, overrides: tuple[str, ...]) -> DictConfig:
        # The callbacks, in which one run differs from the next, are set afterwards: composing
        # takes as long as such a fit.
        callbacks = [text for text in overrides if text.lstrip("+").startswith("callbacks.")]
        others = tuple(text for text in overrides if text not in callbacks)
        config: DictConfig = pickle.loads(_composed(others))
        parsed = OverridesParser.create().parse_overrides(callbacks)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
        with open_dict(config), warnings.catch_warnings(action="ignore"):
            config.hydra.runtime.output_dir = str(self.directory)
            config.hydra.job.num = 0
        self.directory.mkdir(parents=True, exist_ok=True)
        return config


@functools.cache
def _composed(overrides: tuple[str, ...]) -> bytes:
    with initialize_config_dir(str(application.config_directory()), job_name="sweep"):
        another = any(text.startswith("student=") for text in overrides)
        student = [] if another else ["student.qkv_layers=2"]
        given = ["experiment=tiny", "study=s", *student, *overrides]
        return pickle.dumps(compose("config", given, return_hydra_config=True))


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEWISE_TRUSTED", faults.TRUSTED)


@pytest.fixture
def fit(tmp_path: Path) -> Iterator[Callable[[str], Fit]]:
    register_resolvers()
    GlobalHydra.instance().clear()
    quiet_optuna()
    yield lambda name: Fit(tmp_path / name)
    HydraConfig.instance().cfg = None


NewFit = Callable[[str], Fit]

# Ways to divide a fit into epochs, validations and optimizer steps.
FITS = {
    "one epoch": (),
    "two epochs": ("trainer.max_epochs=2",),
    "a schedule": ("trainer.max_epochs=2", "scheduler=one_cycle"),
    "muon, averaged": ("scheduler=cosine", "optimizer=muon", "callbacks=ema"),
    "half precision on text": ("trainer.precision=bf16-mixed", "data=text", "data.batch_size=4"),
    "accumulation": ("trainer.accumulate_grad_batches=2", "trainer.max_epochs=2"),
    "accumulation across an epoch's end": (
        "data.train_batches=7",
        "trainer.max_epochs=3",
        "trainer.accumulate_grad_batches=3",
        "trainer.val_check_interval=0.5",
        "scheduler=one_cycle",
    ),
    "validations across epochs": (
        "trainer.max_epochs=3",
        "trainer.check_val_every_n_epoch=null",
        "trainer.val_check_interval=4",
    ),
    "an epoch without validation": ("trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"),
    "epochs of one batch": (
        "data.train_batches=1",
        "trainer.max_epochs=6",
        "trainer.check_val_every_n_epoch=3",
        "trainer.val_check_interval=1.0",
    ),
    "an end between validations": ("trainer.max_steps=7",),
    "an end in a later epoch": ("trainer.max_steps=17", "trainer.max_epochs=-1"),
    "a validation by the clock": (
        "trainer.max_epochs=2",
        "trainer.val_check_interval='00:01:00:00'",
    ),
}


@pytest.mark.parametrize("kind", FITS)
def test_a_fit_that_stops_after_every_step_ends_as_one_that_never_stopped(
    fit: NewFit, kind: str
) -> None:
    whole, parts = fit("whole"), fit("parts")
    given = (*FITS[kind], "trainer.log_every_n_steps=1")
    whole.run(*given)
    steps = []
    for _ in range(100):
        try:
            parts.run(*given, STOP % 0)
        except TrialStopped as stopped:
            steps.append(int(str(stopped).split()[-1]))
        else:
            break
    # After the last step of max_steps it need not stop.
    assert steps in (
        list(range(1, whole.record()["steps"] + 1)),
        list(range(1, whole.record()["steps"])),
    )
    assert parts.outcome() == whole.outcome()


@pytest.mark.parametrize(
    "kind",
    [
        "two epochs",
        "a schedule",
        "muon, averaged",
        "half precision on text",
        "validations across epochs",
        "an epoch without validation",
        "a validation by the clock",
    ],
)
def test_two_steps_at_once_stopped_after_every_batch_are_one_fit_of_single_steps(
    fit: NewFit, kind: str
) -> None:
    whole, parts = fit("whole"), fit("parts")
    given = (*FITS[kind], "trainer.log_every_n_steps=1")
    whole.run(*given)
    steps = []
    for _ in range(100):
        try:
            parts.run(*given, "steps.at_once=2", STOP % 0)
        except TrialStopped as stopped:
            steps.append(int(str(stopped).split()[-1]))
        else:
            break
    assert steps == list(range(2, whole.record()["steps"] + 1, 2))
    assert parts.outcome() == whole.outcome()


@pytest.mark.parametrize(
    ("first", "then", "stopped"), [("1", "2", 5), ("2", "1", 6), ("2", "auto", 6)]
)
def test_a_fit_goes_on_in_batches_of_as_many_steps_as_it_began_with(
    fit: NewFit, first: str, then: str, stopped: int
) -> None:
    whole, parts = fit("whole"), fit("parts")
    whole.run()
    assert parts.run_until_stopped(f"steps.at_once={first}", STOP % 5) == stopped
    parts.run(f"steps.at_once={then}")
    assert parts.outcome() == whole.outcome()


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("one epoch", range(1, 11)),
        ("two epochs", (9, 10, 11, 19, 20)),
        ("an epoch without validation", (9, 10, 11, 19, 20, 21, 29, 30)),
    ],
)
def test_a_fit_stopped_once_ends_as_one_that_never_stopped(
    fit: NewFit, kind: str, steps: Sequence[int]
) -> None:
    whole = fit("whole")
    whole.run(*FITS[kind])
    for step in steps:
        parts = fit(f"parts-{step}")
        assert parts.run_until_stopped(*FITS[kind], STOP % step) == step
        parts.run(*FITS[kind])
        assert parts.outcome() == whole.outcome()


@pytest.mark.parametrize("kind", ["two epochs", "an epoch without validation", "accumulation"])
def test_a_fit_that_died_ends_as_one_that_never_did(fit: NewFit, kind: str) -> None:
    """Its last checkpoint is from some steps before; the metrics have rows from after it."""
    whole = fit("whole")
    whole.run(*FITS[kind])
    for step in range(2, whole.record()["steps"] - 3, 5):
        parts = fit(f"parts-{step}")
        parts.run_until_stopped(*FITS[kind], NO_SAVES, STOP % step)
        for _ in range(2):
            with pytest.raises(faults.Death):
                parts.run(*FITS[kind], NO_SAVES, DIE % (step + 4))
            assert not (parts.directory / "trial.json").exists()
        parts.run(*FITS[kind])
        assert parts.outcome() == whole.outcome()


def test_a_fit_that_dies_during_every_step_ends_as_one_that_never_did(fit: NewFit) -> None:
    whole, parts = fit("whole"), fit("parts")
    given = ("trainer.max_epochs=2", "trainer.log_every_n_steps=1")
    whole.run(*given)
    for step in range(2, 21):
        with pytest.raises(faults.Death):
            parts.run(*given, ALL_SAVES, DIE % step)
        assert torch.load(parts.checkpoint, weights_only=True)["global_step"] == step - 1
    parts.run(*given)
    assert parts.outcome() == whole.outcome()


def test_a_trial_stopped_in_a_study_ends_as_one_that_never_stopped(
    sweep: Sweep, folder: Path, record: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ("-m", "hydra.sweeper.n_trials=1", "student.qkv_layers=2")
    assert sweep(*command, "study=whole") == 0
    assert sweep(*command, "study=parts", STOP % 5) == INTERRUPTED
    said = capfd.readouterr()
    assert "Stopped. To resume: " in said.err
    study = optuna.load_study(study_name="parts", storage="sqlite:///multirun/studies.db")
    assert study.trials[0].state is TrialState.WAITING
    assert (folder / "multirun/parts/0" / CHECKPOINT).exists()
    # Without the callback that stopped it.
    assert sweep(*command, "study=parts", "+resume=force") == 0
    assert "Going on from step 5" in capfd.readouterr().out
    [trial] = study.trials
    assert trial.value == record("parts/0")["valid_l1"] == record("whole/0")["valid_l1"]
    assert sorted(trial.intermediate_values) == [2, 4, 6, 8, 10]
    # Nobody died.
    assert "attempts" not in trial.user_attrs


@pytest.mark.parametrize("lose", [LOSE, LOSE_AND_FAIL])
def test_what_stops_for_another_worker_leaves_everything_as_it_is(fit: NewFit, lose: str) -> None:
    """A worker that was taken for dead, and was not, does not write over the other's files."""
    parts = fit("parts")
    parts.run_until_stopped(STOP % 4)
    before = parts.checkpoint.read_bytes()
    with pytest.raises(TrialStopped, match="another worker"):
        parts.run(NO_SAVES, lose % 9)
    assert parts.checkpoint.read_bytes() == before
    assert (parts.directory / "metrics.csv").read_text() == faults.METRICS_OF_ANOTHER
    assert not (parts.directory / "trial.json").exists()
    assert not (parts.directory / "student").exists()
    assert 10 not in parts.study.trials[0].intermediate_values


# Checkpoints that are not what was written.


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _noise(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(10_000))


def _noise_that_begins_like_a_pickle(path: Path) -> None:
    path.write_bytes(b"\x80\x02" + random.Random(0).randbytes(10_000))


def _flipped_bit(path: Path) -> None:
    """In the middle of a tensor, which torch loads without complaint."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2 + 100] ^= 0x40
    path.write_bytes(content)


def _other_content(path: Path) -> None:
    torch.save({"global_step": 4}, path)


def _no_mapping(path: Path) -> None:
    torch.save(torch.zeros(3), path)


DAMAGES = [
    _truncate,
    _empty,
    _noise,
    _noise_that_begins_like_a_pickle,
    _flipped_bit,
    _other_content,
    _no_mapping,
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_damaged_checkpoint_is_a_warning_and_a_start_from_zero(
    fit: NewFit, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    whole, parts = fit("whole"), fit("parts")
    whole.run()
    parts.run_until_stopped(STOP % 4)
    damage(parts.checkpoint)
    with caplog.at_level(logging.INFO):
        parts.run()
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == 1
    assert f"{parts.checkpoint} is damaged" in warned[0]
    assert "starting from zero" in warned[0]
    assert "Going on" not in caplog.text
    assert parts.outcome() == whole.outcome()


def test_a_checkpoint_is_never_unpickled_into_code(fit: NewFit, tmp_path: Path) -> None:
    whole, parts = fit("whole"), fit("parts")
    whole.run()
    parts.run_until_stopped(STOP % 4)
    content = torch.load(parts.checkpoint, weights_only=True)
    marker = tmp_path / "ran"
    torch.save({**content, "bomb": _Bomb(marker)}, parts.checkpoint)
    parts.run()
    assert not marker.exists()
    assert parts.outcome() == whole.outcome()
    # It would have worked.
    pickle.loads(pickle.dumps(_Bomb(marker)))
    assert marker.exists()


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["a schedule", "accumulation"])
def test_a_checkpoint_is_plain_data(fit: NewFit, kind: str) -> None:
    parts = fit("parts")
    parts.run_until_stopped(*FITS[kind], STOP % 3)
    content = torch.load(parts.checkpoint, weights_only=True)
    assert content["global_step"] == 3
    assert not [name for name in content["state_dict"] if "teacher" in name]
    found = usable_checkpoint(parts.directory)
    assert found is not None
    assert found.path == parts.checkpoint


# When there is one.


def test_a_finished_trial_has_no_checkpoint(fit: NewFit) -> None:
    whole = fit("whole")
    whole.run(ALL_SAVES, NOTE_SAVES)
    assert len((whole.directory / "saves").read_text().split()) >= 10
    assert not whole.checkpoint.parent.exists()


def test_a_failed_trial_has_no_checkpoint(fit: NewFit) -> None:
    failed = fit("failed")
    with pytest.raises(RuntimeError, match="tired"):
        failed.run(ALL_SAVES, NOTE_SAVES, ERROR)
    assert (failed.directory / "saves").exists()
    assert failed.record()["state"] == "FAIL"
    assert not failed.checkpoint.parent.exists()


def test_it_is_saved_every_so_many_seconds(fit: NewFit) -> None:
    whole = fit("whole")
    whole.run(SLOW % 0.1, NOTE_SAVES, "callbacks.resume_point.every_seconds=0.25")
    saves = [float(line) for line in (whole.directory / "saves").read_text().split()]
    # Ten steps: neither after each of them nor only at the end.
    assert 2 <= len(saves) < 10
    assert all(after - before >= 0.25 for before, after in itertools.pairwise(saves))


def test_saving_changes_nothing(fit: NewFit) -> None:
    one, other = fit("one"), fit("other")
    one.run(NO_SAVES, "trainer.max_epochs=2")
    other.run(ALL_SAVES, "trainer.max_epochs=2")
    assert one.outcome() == other.outcome()


def test_a_fit_without_resume_points_starts_again_from_zero(fit: NewFit) -> None:
    whole, parts = fit("whole"), fit("parts")
    whole.run()
    parts.run_until_stopped("~callbacks.resume_point", STOP % 5)
    assert not parts.checkpoint.exists()
    parts.run("~callbacks.resume_point")
    assert parts.outcome() == whole.outcome()


# metrics.csv by itself.


def _write_rows(directory: Path, *steps: int) -> None:
    logger = MetricsFile(str(directory))
    for step in steps:
        logger.log_metrics({"valid_l1": step / 10}, step)
    logger.flush()


def _rows(directory: Path) -> list[tuple[int, float]]:
    with (directory / "metrics.csv").open(newline="") as file:
        return [(int(row["step"]), float(row["valid_l1"])) for row in csv.DictReader(file)]


def test_rows_outlive_a_process_that_dies_before_its_first_one(tmp_path: Path) -> None:
    _write_rows(tmp_path, 1, 3, 5)
    MetricsFile(str(tmp_path))
    assert _rows(tmp_path) == [(1, 0.1), (3, 0.3), (5, 0.5)]
    MetricsFile(str(tmp_path)).drop_after(4)
    assert _rows(tmp_path) == [(1, 0.1), (3, 0.3)]


def test_a_row_that_is_half_there_is_dropped(tmp_path: Path) -> None:
    _write_rows(tmp_path, 1, 3)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("5")
    logger = MetricsFile(str(tmp_path))
    logger.drop_after(6)
    logger.log_metrics({"valid_l1": 0.5}, 5)
    logger.flush()
    assert _rows(tmp_path) == [(1, 0.1), (3, 0.3), (5, 0.5)]


def test_a_new_column_keeps_the_rows(tmp_path: Path) -> None:
    _write_rows(tmp_path, 1, 3)
    logger = MetricsFile(str(tmp_path))
    logger.drop_after(4)
    logger.log_metrics({"valid_l1": 0.5, "train_l1": 0.4}, 5)
    logger.flush()
    assert _rows(tmp_path) == [(1, 0.1), (3, 0.3), (5, 0.5)]
    assert not [p for p in tmp_path.iterdir() if p.name != "metrics.csv"]


def test_a_fit_that_begins_replaces_the_file(tmp_path: Path) -> None:
    _write_rows(tmp_path, 1, 3)
    _write_rows(tmp_path, 2)
    assert _rows(tmp_path) == [(2, 0.2)]


def test_a_fit_that_is_broken_off_keeps_no_graph(
    fit: NewFit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts know each other: they would be there until Python looks for garbage, be it in the
    middle of another fit's recording. On a CPU a graph is the function itself."""
    monkeypatch.setattr("slicewise.steps.why_not_captured", lambda facts: None)
    made: list[weakref.ref[Captured]] = []

    def new(*arguments: Any, **named: Any) -> Captured:
        captured = Captured(*arguments, **named)
        made.append(weakref.ref(captured))
        return captured

    monkeypatch.setattr("slicewise.steps.Captured", new)
    gc.disable()
    try:
        fit("stops").run_until_stopped("steps.at_once=2", STOP % 7)
        assert len(made) == 2, "of a step, and of a validation's batch"
        assert [captured() for captured in made] == [None, None]
    finally:
        gc.enable()
