"""Which presets take captured steps on a GPU, and why not where they do not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from hydra import compose, initialize_config_dir
from pytorch_lightning.plugins.precision import MixedPrecision

from slicewise.capturing import (
    FitFacts,
    settings_of,
    why_not_captured,
    why_one_by_one,
    why_update_outside,
)
from slicewise.steps import _say_what_it_costs
from sweep import devices
from sweep.application import CONFIG_NAME, config_directory
from sweep.resolvers import register_resolvers
from sweep.trial import parts
from sweep.trial.build import build
from sweep.trial.callbacks import FinalValidation, FirstStep, ObeyStudy
from sweep.trial.live import LiveProgress
from sweep.trial.settings import TrialSettings

CAPTURED = "captured"
BETAS = "captured but for the update: its schedule changes betas"
MUON = "captured but for the update: MuonWithAdamW is not fused"
NOTHING = "nothing to train"
OFF = "steps.capture=off"

# Each preset of these groups, on a GPU that computes in bfloat16.
PRESETS = {
    "experiment": {"article": CAPTURED, "tiny": CAPTURED},
    "search": {"article": CAPTURED, "students": BETAS},
    "student": {
        "approx": CAPTURED,
        "approx_ffn": CAPTURED,
        "bert_layer": CAPTURED,
        "linear": NOTHING,
        "low_rank": CAPTURED,
        "nothing": NOTHING,
        "original": NOTHING,
        "tiny": CAPTURED,
    },
    "data": {"mixed": CAPTURED, "noise": CAPTURED, "text": CAPTURED, "tokens": CAPTURED},
    "loss": dict.fromkeys(("cosine", "l1", "l1_and_cosine", "mse", "smooth_l1"), CAPTURED),
    "optimizer": {"adamw": CAPTURED, "muon": MUON},
    "scheduler": {
        "constant": CAPTURED,
        "cosine": CAPTURED,
        "one_cycle": BETAS,
        "warmup": CAPTURED,
    },
    "callbacks": {
        "best": CAPTURED,
        "default": CAPTURED,
        "early_stopping": CAPTURED,
        "ema": CAPTURED,
    },
    "objective": dict.fromkeys(
        ("l1", "l1_latency", "l1_parameters", "text_cosine"),
        CAPTURED,
    ),
    "trainer": {"default": CAPTURED, "ddp": "several ranks share each step"},
    "debug": {"fast": OFF, "overfit": "trainer.overfit_batches=1", "profile": CAPTURED},
}
# What stands for whatever a user brings.
TEMPLATES = {"custom"}
# What takes no part in a step: which weights the teacher has, where rows go, Hydra's own.
NO_STEPS = {"teacher", "logger", "hydra"}
SMALL_TEACHER = (
    "teacher=random_bert",
    *("teacher.hidden_size=96", "teacher.num_hidden_layers=3"),
    *("teacher.num_attention_heads=2", "teacher.intermediate_size=96"),
)


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As configurations are on a machine with a GPU of today."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(devices, "_gpu_has_bfloat16", lambda: True)


def _settings(*overrides: str) -> TrialSettings:
    register_resolvers()
    with initialize_config_dir(str(config_directory()), job_name="sweep"):
        config = compose(CONFIG_NAME, [*overrides, *SMALL_TEACHER, "~logger"])
    return TrialSettings.of(config)


def _facts(settings: TrialSettings, folder: Path) -> FitFacts:
    """Of the Trainer that the settings make where there is a GPU."""
    on_cpu = replace(settings, trainer={**settings.trainer, "accelerator": "cpu"})
    given = [build(f"callbacks.{key}", node) for key, node in settings.callbacks.items()]
    ours = [
        FirstStep("Beginning"),
        LiveProgress(folder),
        ObeyStudy(Mock(), True),
        FinalValidation(),
    ]
    facts = FitFacts.of(parts.new_trainer(on_cpu, [*given, *ours], [], folder))
    assert facts.each_step is None
    precision = str(settings.trainer["precision"])
    scales = "-mixed" in precision and MixedPrecision(precision, "cuda").scaler is not None  # type: ignore[arg-type]
    return replace(facts, device="cuda", precision=precision, scales_gradients=scales)


def _way(settings: TrialSettings, folder: Path) -> str:
    """How its steps are taken on a GPU."""
    student, _ = parts.new_student(settings.student, parts.load_teacher(settings.teacher))
    if not student.is_trainable:
        return NOTHING
    if not settings.steps.capture:
        return OFF
    reason = why_not_captured(_facts(settings, folder))
    if reason is not None:
        return reason
    make_optimizer, make_scheduler = parts.new_recipe(settings, student)
    optimizer = make_optimizer(student.parameters())
    outside = why_update_outside(optimizer)
    if outside is None and make_scheduler is not None:
        outside = _changed_by(make_scheduler(optimizer, total_steps=20), optimizer)
    return CAPTURED if outside is None else f"captured but for the update: {outside}"


def _changed_by(scheduler: object, optimizer: object) -> str | None:
    before = settings_of(optimizer)  # type: ignore[arg-type]
    for _ in range(10):
        optimizer.step()  # type: ignore[attr-defined]
        scheduler.step()  # type: ignore[attr-defined]
    [old], [new] = before, settings_of(optimizer)  # type: ignore[arg-type]
    changed = [key for key in old if old[key] != new[key]]
    return f"its schedule changes {', '.join(changed)}" if changed else None


def test_every_preset_is_listed() -> None:
    groups = {path.name for path in config_directory().iterdir() if path.is_dir()}
    assert groups == set(PRESETS) | NO_STEPS
    for group, ways in PRESETS.items():
        there = {path.stem for path in (config_directory() / group).glob("*.yaml")}
        assert there - TEMPLATES == set(ways), group


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, ways in PRESETS.items() for name in ways]
)
def test_every_preset_takes_the_fast_way(group: str, name: str, tmp_path: Path) -> None:
    # Otherwise Hydra's folder of the job that runs.
    folder = [f"trainer.profiler.directory={tmp_path}"] if name == "profile" else []
    settings = _settings(f"{group}={name}", *folder)
    assert _way(settings, tmp_path) == PRESETS[group][name]
    wanted = "32-true" if name == "tiny" and group == "experiment" else "bf16-mixed"
    assert settings.trainer["precision"] == wanted


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["trainer.precision=16-mixed"], "trainer.precision=16-mixed scales gradients"),
        (
            ["experiment=article", "trainer.precision=16-mixed"],
            "trainer.precision=16-mixed scales gradients",
        ),
        (["trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches=2"),
        (["+trainer.overfit_batches=3"], "trainer.overfit_batches=3"),
        (["experiment=article", "trainer.precision=32-true"], CAPTURED),
        (["trainer.gradient_clip_val=null"], CAPTURED),
        (["trainer.max_steps=100", "trainer.val_check_interval=7"], CAPTURED),
    ],
    ids=str,
)
def test_what_takes_another_way_says_why(
    overrides: Sequence[str], reason: str, tmp_path: Path
) -> None:
    assert _way(_settings(*overrides), tmp_path) == reason


def test_several_ranks_and_other_devices_say_why() -> None:
    assert why_not_captured(FitFacts("cuda", world_size=2)) == "several ranks share each step"
    assert why_not_captured(FitFacts("cpu")) == "a CPU has no graphs"
    # Where nothing is captured, steps may still be taken several at a time.
    assert why_one_by_one(FitFacts("cpu")) is None


@pytest.mark.usefixtures("_gpu")
def test_the_article_on_gpus_without_bfloat16_and_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_gpu_has_bfloat16", lambda: False)
    older = _settings("experiment=article")
    assert (older.trainer["precision"], older.optimizer["fused"]) == ("32-true", True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    cpu = _settings("experiment=article")
    assert (cpu.trainer["precision"], cpu.optimizer["fused"]) == ("32-true", False)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (FitFacts("cuda", precision="16-mixed", scales_gradients=True), "bf16-mixed would be"),
        (FitFacts("cuda", accumulate_grad_batches=2), "accumulate_grad_batches=2"),
        (FitFacts("cpu"), None),
    ],
)
def test_the_log_says_in_one_line_what_it_costs(
    facts: FitFacts, said: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        _say_what_it_costs(facts)
    assert len(caplog.messages) == (said is not None)
    if said is not None:
        assert said in caplog.messages[0]
        assert "six times as long" in caplog.messages[0]
        assert "\n" not in caplog.messages[0]
