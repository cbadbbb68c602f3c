"""`callbacks=best`, and whatever else of Lightning's keeps checkpoints."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slicewise import load_student
from slicewise.data.batch import Split
from slicewise.data.noise import noise_batch
from slicewise.teacher import random_bert
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]

# Grows worse after its first steps.
OVERSHOOTS = ("optimizer.lr=0.3", "trainer.gradient_clip_val=null", "data.train_batches=20")


def _losses(place: Path) -> list[float]:
    with (place / "metrics.csv").open(newline="") as file:
        return [float(row["valid_l1"]) for row in csv.DictReader(file) if row["valid_l1"]]


def _loss_of(place: Path) -> float:
    teacher = random_bert(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48
    )
    student = load_student(place / "student")
    with torch.no_grad():
        inputs = [noise_batch((4, 8, 24), 0, Split.VALID, i, torch.device("cpu")) for i in (0, 1)]
        return sum((student(x) - teacher(x)).abs().mean().item() for x in inputs) / 2


@pytest.mark.parametrize(
    "callbacks",
    [
        "callbacks=best",
        "+callbacks.mine={_target_: pytorch_lightning.callbacks.ModelCheckpoint, "
        "monitor: valid_l1, save_last: true}",
    ],
    ids=["preset", "own"],
)
@pytest.mark.parametrize("in_study", [False, True])
def test_the_student_is_that_of_the_best_validation(
    sweep: Sweep, folder: Path, record: Record, callbacks: str, in_study: bool
) -> None:
    study = ["-m", "student.qkv_layers=1", "hydra.sweeper.n_trials=1"] if in_study else []
    assert sweep(*study, "study=a", *OVERSHOOTS, callbacks) == 0
    place = folder / "multirun/a/0"
    found = record("a/0")
    losses = _losses(place)
    assert found["valid_l1"] == min(losses) < losses[-2]
    assert found["valid_l1"] == pytest.approx(_loss_of(place), abs=1e-6)
    assert found["train_l1"] is not None
    assert found["steps"] == 20
    kept = {path.name for path in (place / "checkpoints").iterdir()}
    assert "resume.ckpt" not in kept
    assert any(name.startswith("epoch=0-step=") for name in kept)


LIGHTNINGS = {
    name: f"+callbacks.lightnings={{_target_: pytorch_lightning.callbacks.{name}, {settings}}}"
    for name, settings in {
        "StochasticWeightAveraging": "swa_lrs: 1e-2, swa_epoch_start: 1",
        "EMAWeightAveraging": "decay: 0.5",
        "WeightAveraging": "device: cpu",
        "ModelPruning": "pruning_fn: l1_unstructured, amount: 0.5",
    }.items()
}


@pytest.mark.parametrize("callback", LIGHTNINGS.values(), ids=LIGHTNINGS)
def test_a_trial_is_judged_by_the_student_that_it_leaves(
    sweep: Sweep, folder: Path, record: Record, callback: str
) -> None:
    assert sweep("study=a", "optimizer.lr=1e-2", "trainer.max_epochs=2", callback) == 0
    assert sweep("study=b", "optimizer.lr=1e-2", "trainer.max_epochs=2") == 0
    loss = record("a/0")["valid_l1"]
    assert loss == pytest.approx(_loss_of(folder / "multirun/a/0"), abs=1e-6)
    assert loss != record("b/0")["valid_l1"]
    assert record("a/0")["steps"] == 20


def test_lightnings_own_checkpoints_are_kept(sweep: Sweep, folder: Path, record: Record) -> None:
    assert sweep("study=a", "+trainer.enable_checkpointing=true") == 0
    assert sweep("study=b") == 0
    assert list((folder / "multirun/a/0/checkpoints").glob("epoch=*.ckpt"))
    assert not (folder / "multirun/b/0/checkpoints").exists()
    assert record("a/0")["valid_l1"] == record("b/0")["valid_l1"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["callbacks=[best,ema]"], "callbacks=best, ema: allowed: one of them"),
        (
            ["callbacks=best", LIGHTNINGS["EMAWeightAveraging"]],
            "callbacks=best, EMAWeightAveraging: allowed: one of them",
        ),
        (["trainer.strategy=ddp_spawn"], "trainer.strategy=ddp_spawn: allowed: auto, ddp"),
    ],
)
def test_what_does_not_go_together_is_refused(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    assert sweep("study=a", *overrides) == 1
    printed = capfd.readouterr().err
    assert said in printed
    assert "Traceback" not in printed
