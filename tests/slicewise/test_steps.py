"""Several steps in one batch of Lightning's: nothing but the speed may differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from pytorch_lightning.callbacks import (
    GradientAccumulationScheduler,
    LambdaCallback,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.trainer.connectors.checkpoint_connector import _CheckpointConnector
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from slicewise.averaging import WeightAverage
from slicewise.capturing import why_one_by_one
from slicewise.cuda_graph import Captured
from slicewise.data.batch import Batch, BatchIndex, batch_seed
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.data.noise import NoiseDataModule
from slicewise.data.recent import Recent
from slicewise.distiller import Distiller
from slicewise.errors import ArgumentError
from slicewise.hooks import at_each_step
from slicewise.muon import MuonWithAdamW
from slicewise.schedules import cosine
from slicewise.steps import ManualDistiller, new_distiller
from slicewise.students.approx import ApproximateAttention
from slicewise.targets import CachedTargets
from slicewise.teacher import TeacherSlice
from slicewise.whole import padding_mask

NewTrainer = Callable[..., Trainer]
NewData = Callable[..., NoiseDataModule]
NewStudent = Callable[..., ApproximateAttention]
Fit = Callable[..., tuple[Trainer, Distiller]]

adamw = partial(AdamW, lr=3e-3)


class Validations(Callback):
    """At which steps the fit validated, with what loss."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen[trainer.global_step] = float(trainer.callback_metrics["valid_l1"])


@pytest.fixture
def fit(
    new_trainer: NewTrainer, new_data: NewData, new_student: NewStudent, tiny_teacher: TeacherSlice
) -> Fit:
    """Runs a fit of 24 steps an epoch; `at_once` steps in a batch."""

    def run(
        at_once: int | str = 1,
        checkpoint: Path | None = None,
        data: HiddenStatesDataModule | None = None,
        capture: bool = True,
        optimizer: Callable[..., Optimizer] = adamw,
        scheduler: Callable[..., Any] | None = None,
        compile: bool = False,
        dropout: float = 0.1,
        targets: CachedTargets | None = None,
        family: type[ApproximateAttention] = ApproximateAttention,
        **arguments: Any,
    ) -> tuple[Trainer, Distiller]:
        trainer = new_trainer(**{"gradient_clip_val": 0.5, **arguments})
        data = data or new_data(train_batches=24)
        student = new_student(dropout=dropout)
        student.__class__ = family
        distiller = new_distiller(
            trainer,
            data,
            tiny_teacher,
            student,
            data.seq_length,
            optimizer,
            scheduler,
            at_once=at_once,
            capture=capture,
            compile=compile,
            targets=targets,
        )
        trainer.fit(distiller, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        return trainer, distiller

    return run


def _weights(distiller: Distiller) -> dict[str, Tensor]:
    return {name: tensor.cpu().clone() for name, tensor in distiller.student.state_dict().items()}


def _assert_equal(one: Distiller, other: Distiller) -> None:
    torch.testing.assert_close(_weights(one), _weights(other), rtol=0, atol=0)


def test_on_a_cpu_lightning_takes_the_steps_unless_told(fit: Fit) -> None:
    assert type(fit("auto")[1]) is Distiller


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_clip_val": None},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"max_epochs": 2, "val_check_interval": 0.5},
        {"val_check_interval": 8},
        {"val_check_interval": 0.34},
        {"max_epochs": -1, "max_steps": 36, "val_check_interval": 0.5},
        {"limit_train_batches": 12},
        {"limit_train_batches": 0.5, "val_check_interval": 1.0},
        {"precision": "bf16-mixed"},
        {"optimizer": partial(SGD, lr=0.1, momentum=0.9)},
        {"optimizer": partial(MuonWithAdamW, lr=3e-3)},
        {"scheduler": partial(OneCycleLR, max_lr=3e-3), "max_epochs": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("at_once", [2, 4])
def test_several_steps_at_once_are_the_same_steps(
    fit: Fit, settings: dict[str, Any], at_once: int
) -> None:
    ones, several = Validations(), Validations()
    trainer, alone = fit(1, callbacks=[ones], **settings)
    other, together = fit(at_once, callbacks=[several], **settings)
    assert type(alone) is Distiller
    assert type(together) is ManualDistiller
    assert several.seen == ones.seen
    assert len(ones.seen) > 0
    assert other.global_step == trainer.global_step
    _assert_equal(alone, together)
    expected = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert {n: v.item() for n, v in other.callback_metrics.items()} == expected


def test_the_rows_of_a_logger_are_the_same(fit: Fit, tmp_path: Path) -> None:
    files = []
    for at_once in (1, 4):
        logger = CSVLogger(tmp_path / str(at_once), name="", version="")
        fit(at_once, logger=logger, log_every_n_steps=3, val_check_interval=0.5, max_epochs=2)
        files.append((tmp_path / str(at_once) / "metrics.csv").read_text())
    assert files[0] == files[1]
    assert files[0].count("\n") == 1 + 16 + 4


def test_the_average_follows_every_step(fit: Fit) -> None:
    fits = [fit(n, callbacks=[WeightAverage(0.9)], val_check_interval=0.5) for n in (1, 6)]
    _assert_equal(fits[0][1], fits[1][1])
    assert fits[0][0].callback_metrics["valid_l1"] == fits[1][0].callback_metrics["valid_l1"]


class _SaveAt(Callback):
    """Saves after a step, wherever the batch of that step ends."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [4, 8, 28])
def test_a_fit_that_goes_on_ends_as_one_that_never_stopped(
    fit: Fit, tmp_path: Path, step: int
) -> None:
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "val_check_interval": 0.5,
        "scheduler": partial(OneCycleLR, max_lr=3e-3),
    }
    whole, resumed = Validations(), Validations()
    path = tmp_path / "fit.ckpt"
    average = WeightAverage(0.9)
    straight, never = fit(4, callbacks=[whole, average, _SaveAt(step, path)], **settings)
    average = WeightAverage(0.9)
    trainer, distiller = fit(4, checkpoint=path, callbacks=[resumed, average], **settings)
    _assert_equal(never, distiller)
    assert trainer.global_step == straight.global_step == 48
    assert resumed.seen == {at: loss for at, loss in whole.seen.items() if at > step}


def test_a_checkpoint_holds_the_student_only(fit: Fit, tmp_path: Path) -> None:
    path = tmp_path / "fit.ckpt"
    _, distiller = fit(4, callbacks=[_SaveAt(8, path)])
    checkpoint = torch.load(path, weights_only=True)
    expected = {f"student.{name}" for name in distiller.student.state_dict()}
    assert set(checkpoint["state_dict"]) == expected
    assert checkpoint["at_once"] == 4
    assert checkpoint["global_step"] == 8


def test_progress_is_counted_in_steps(fit: Fit) -> None:
    totals = []
    for at_once in (1, 4):
        trainer, distiller = fit(at_once, max_epochs=3, max_steps=60)
        totals.append((distiller.total_steps, trainer.global_step))
    assert totals == [(60, 60), (60, 60)]


@pytest.mark.parametrize(
    ("at_once", "settings", "allowed"),
    [
        (5, {}, "auto, 1, 2, 3, 4, 6, 8, 12, 24"),
        (24, {"val_check_interval": 0.5}, "auto, 1, 2, 3, 4, 6, 12"),
        (3, {"max_steps": 10}, "auto, 1, 2"),
        (4, {"accumulate_grad_batches": 2}, "auto, 1 (trainer.accumulate_grad_batches=2)"),
        (4, {"overfit_batches": 4}, "auto, 1 (trainer.overfit_batches=4)"),
    ],
)
def test_steps_that_do_not_fit_are_refused(
    fit: Fit, at_once: int, settings: dict[str, Any], allowed: str
) -> None:
    with pytest.raises(ArgumentError) as refused:
        fit(at_once, **settings)
    assert str(refused.value).startswith(f"at_once={at_once}: allowed: {allowed}")


@given(
    batches=st.integers(1, 400),
    interval=st.one_of(st.integers(1, 400), st.floats(0.01, 1.0)),
    max_steps=st.one_of(st.just(-1), st.integers(1, 500)),
)
def test_what_is_allowed_divides_all_that_lightning_counts(
    batches: int, interval: float, max_steps: int
) -> None:
    from slicewise.steps import _divisors, _steps_between_events

    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        max_epochs=1,
        max_steps=max_steps,
        val_check_interval=interval,
    )
    data = NoiseDataModule(4, 1, 1, train_batches=batches, valid_batches=1)
    to_validation = interval if isinstance(interval, int) else max(1, int(batches * interval))
    for at_once in _divisors(_steps_between_events(trainer, data), 32):
        assert batches % at_once == 0
        assert to_validation % at_once == 0
        assert max_steps == -1 or max_steps % at_once == 0


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_compiled_steps_are_the_same_but_for_their_last_digits(fit: Fit, precision: str) -> None:
    settings: dict[str, Any] = {"dropout": 0.0, "precision": precision, "val_check_interval": 0.5}
    plain, compiled = Validations(), Validations()
    fit(1, callbacks=[plain], **settings)
    _, distiller = fit(1, compile=True, callbacks=[compiled], **settings)
    assert isinstance(distiller, ManualDistiller)
    assert distiller.compiles
    digits = 1e-4 if precision == "32-true" else 1e-2
    assert compiled.seen == pytest.approx(plain.seen, rel=digits)


def test_a_compiled_fit_with_dropout_learns(fit: Fit) -> None:
    seen = Validations()
    fit(1, compile=True, callbacks=[seen], max_epochs=8, precision="bf16-mixed")
    losses = list(seen.seen.values())
    assert losses[-1] < 0.9 * losses[0]


def test_without_a_compiler_nothing_is_compiled(fit: Fit) -> None:
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": (None, "/no/compiler")}),
        pytest.raises(ArgumentError, match=r"compile=true: allowed: false; .* install g\+\+"),
    ):
        fit(1, compile=True)


def test_fused_updates_of_scaled_gradients_are_clipped(fit: Fit) -> None:
    """What `trainer.precision=16-mixed` does on a GPU, with a scaler that there is on a CPU too."""
    fused = partial(AdamW, lr=3e-3, fused=True)
    weights = []
    for optimizer in (fused, adamw):
        plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
        _, distiller = fit(optimizer=optimizer, plugins=[plugin], gradient_clip_val=0.01)
        assert type(distiller) is Distiller
        weights.append(_weights(distiller))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    _, unclipped = fit(optimizer=adamw, gradient_clip_val=None)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(weights[0], _weights(unclipped), rtol=1e-4, atol=1e-5)


OPTIMIZERS = pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [
        (adamw, None),
        (partial(AdamW, lr=3e-3, fused=True), cosine),
        # Changes AdamW's betas too.
        (partial(AdamW, lr=3e-3, fused=True), partial(OneCycleLR, max_lr=3e-3)),
        (partial(SGD, lr=0.1, momentum=0.9), partial(OneCycleLR, max_lr=0.1)),
        (partial(MuonWithAdamW, lr=3e-3), cosine),
    ],
    ids=["adamw", "fused", "betas", "sgd", "muon"],
)


class _Sentences(HiddenStatesDataModule):
    """Noise of which most is padding, as in texts; every third batch has none."""

    def make_batch(self, index: BatchIndex, device: torch.device) -> Batch:
        generator = torch.Generator().manual_seed(batch_seed(self.seed, *index))
        x_BTH = torch.randn(self.size, generator=generator)
        mask = None
        if index.number % 3 < 2:
            lengths_B = torch.randint(1, 12, (self.batch_size,), generator=generator)
            keep_BT = torch.arange(self.seq_length) < lengths_B[:, None]
            mask = padding_mask(keep_BT).to(device)
        return Batch(x_BTH.to(device), mask, index)


HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_batch_end",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


def _calls_of(fit: Fit, hook: str, capture: bool, **attributes: Any) -> list[int]:
    """The steps at which a callback is called that has the hook."""
    calls: list[int] = []

    def called(callback: Callback, trainer: Trainer, *_: Any) -> None:
        calls.append(trainer.global_step)

    callback = type("Called", (Callback,), {hook: called, **attributes})()
    fit("auto", capture=capture, callbacks=[callback], val_check_interval=4)
    return calls


@pytest.mark.parametrize("hook", HOOKS)
def test_a_callback_is_called_as_often_as_lightning_would(
    fit: Fit, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way of a GPU, on a device whose graphs are the functions themselves."""
    monkeypatch.setattr("slicewise.steps.why_not_captured", why_one_by_one)
    by_lightning = _calls_of(fit, hook, capture=False)
    assert len(by_lightning) >= 10
    assert _calls_of(fit, hook, capture=True) == by_lightning
    if "batch" in hook:
        fewer = _calls_of(fit, hook, capture=True, once_for_several_steps=True)
        assert 0 < len(fewer) < len(by_lightning)


@pytest.mark.parametrize(
    "callback",
    [
        GradientAccumulationScheduler({0: 2}),
        StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1),
        ModelPruning("l1_unstructured", amount=0.5),
        ModelCheckpoint(train_time_interval=timedelta(seconds=1)),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_whoever_changes_the_steps_has_lightning_take_them(
    fit: Fit, callback: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slicewise.steps.why_not_captured", why_one_by_one)
    keeps = isinstance(callback, ModelCheckpoint)
    _, distiller = fit("auto", callbacks=[callback], max_epochs=2, enable_checkpointing=keeps)
    assert type(distiller) is Distiller


def test_a_callback_says_so_where_it_has_its_hook() -> None:
    class Once(Callback):
        once_for_several_steps = True

        def on_train_batch_end(self, *_: Any) -> None:
            """Anything."""

    class Same(Once):
        pass

    class Each(Once):
        def on_train_batch_end(self, *_: Any) -> None:
            """Something else."""

    assert at_each_step([Once(), Same()]) is None
    assert at_each_step([Once(), Each()]) == "Each.on_train_batch_end"
    ours = LambdaCallback(on_train_batch_end=lambda *_: None)
    assert at_each_step([ours]) == "LambdaCallback.on_train_batch_end"


def test_a_checkpoint_every_few_steps_is_saved_at_them(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slicewise.steps.why_not_captured", why_one_by_one)
    checkpoints = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=5)
    _, distiller = fit("auto", callbacks=[checkpoints], enable_checkpointing=True)
    assert isinstance(distiller, ManualDistiller)
    saved = {int(path.stem.partition("step=")[2]) for path in tmp_path.glob("*.ckpt")}
    assert saved == {5, 10, 15, 20}


@OPTIMIZERS
def test_what_is_to_be_recorded_is_the_same_where_nothing_can_be(
    fit: Fit,
    optimizer: Callable[..., Optimizer],
    scheduler: Callable[..., Any] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The way of a GPU, on a device whose graphs are the functions themselves."""
    ones, several = Validations(), Validations()
    settings = {"optimizer": optimizer, "scheduler": scheduler, "val_check_interval": 0.5}

    def texts() -> HiddenStatesDataModule:
        return _Sentences(24, 3, 16, train_batches=24, valid_batches=5)

    _, plain = fit(1, data=texts(), callbacks=[ones], **settings)
    monkeypatch.setattr("slicewise.steps.why_not_captured", lambda facts: None)
    _, captured = fit("auto", data=texts(), callbacks=[several], **settings)
    assert isinstance(captured, ManualDistiller)
    assert captured.capture
    assert captured.at_once == 12
    assert several.seen == ones.seen
    _assert_equal(plain, captured)


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_fits_learn_the_same_targets_kept_or_not(
    fit: Fit, tiny_teacher: TeacherSlice, device: str
) -> None:
    """Rounded as they are kept, whichever distiller asks for them."""

    def targets(limit: int) -> CachedTargets:
        return CachedTargets(lambda b: tiny_teacher(*b[:2]), None, limit, dtype=torch.bfloat16)

    shared, arguments = targets(10_000), {"accelerator": device, "val_check_interval": 0.5}
    weights, seen = [], []
    for at_once, known in ((1, targets(0)), (4, targets(0)), (4, shared), (4, shared), (1, shared)):
        validations = Validations()
        _, distiller = fit(at_once, targets=known, callbacks=[validations], **arguments)
        weights.append(_weights(distiller))
        seen.append(validations.seen)
    # Of 24 targets the first 11 are kept, 2 bytes a number.
    assert shared.computed == 24 + 13 + 13 + 2
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=0, atol=0)
    assert all(losses == seen[0] for losses in seen)


def test_a_fit_leaves_the_memory_of_others_as_it_is(
    new_trainer: NewTrainer,
    new_data: NewData,
    new_student: NewStudent,
    tiny_teacher: TeacherSlice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lightning has torch give back what it keeps, before each run, where it begins or goes on, and
    after."""
    checkpoint = tmp_path / "begun.ckpt"
    version = pytorch_lightning.__version__
    torch.save({"pytorch-lightning_version": version, "state_dict": {}}, checkpoint)
    emptied: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(None))
    trainer, data = new_trainer(), new_data()
    trainer.strategy.accelerator = CUDAAccelerator()
    for replaced in (False, True):
        if replaced:
            new_distiller(trainer, data, tiny_teacher, new_student(), data.seq_length)
        accelerator = trainer.strategy.accelerator
        assert isinstance(accelerator, CUDAAccelerator)
        accelerator.setup(trainer)
        trainer.state.fn = TrainerFn.FITTING
        trainer._checkpoint_connector.resume_start(checkpoint, weights_only=True)
        assert trainer._checkpoint_connector._loaded_checkpoint["state_dict"] == {}
        trainer._checkpoint_connector.resume_end()
        accelerator.teardown()
        assert len(emptied) == 4, "by Lightning's own alone"
    plain = new_trainer()
    new_distiller(plain, data, tiny_teacher, new_student(), data.seq_length)
    assert type(plain.strategy.accelerator) is CPUAccelerator
    assert type(plain._checkpoint_connector) is _CheckpointConnector


# On a GPU


def _on_gpu(**settings: Any) -> dict[str, Any]:
    return {"accelerator": "gpu", "deterministic": True, "val_check_interval": 0.5, **settings}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@OPTIMIZERS
def test_captured_steps_are_the_same_steps(
    fit: Fit,
    optimizer: Callable[..., Optimizer],
    scheduler: Callable[..., Any] | None,
    precision: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ones, several = Validations(), Validations()
    settings = _on_gpu(optimizer=optimizer, precision=precision, scheduler=scheduler)
    _, plain = fit(1, capture=False, callbacks=[ones], **settings)
    _, captured = fit("auto", callbacks=[several], **settings)
    assert type(plain) is Distiller
    assert isinstance(captured, ManualDistiller)
    assert captured.at_once == 12
    assert "No CUDA graph" not in caplog.text
    assert several.seen == ones.seen
    _assert_equal(plain, captured)


class _WritesToItsInput(ApproximateAttention):
    def forward(self, x_BTH: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return super().forward(x_BTH.mul_(1.5), attention_mask)


@pytest.mark.gpu
@pytest.mark.parametrize("known", [False, True])
def test_a_student_writes_to_what_nobody_reads(
    fit: Fit, new_data: NewData, tiny_teacher: TeacherSlice, known: bool
) -> None:
    """Neither the teacher, on a stream beside it, nor a later validation, nor another fit."""
    shared = CachedTargets(lambda b: tiny_teacher(*b[:2]), None, 2**30) if known else None
    batches: Recent[Batch] = Recent(limit=2**30)

    def data() -> HiddenStatesDataModule:
        made = new_data(train_batches=24)
        made.recent = batches
        return made

    ones, several = Validations(), Validations()
    settings = _on_gpu(family=_WritesToItsInput)
    _, plain = fit(1, capture=False, callbacks=[ones], **settings)
    if known:
        fit("auto", targets=shared, data=data(), **settings)
    _, captured = fit("auto", targets=shared, data=data(), callbacks=[several], **settings)
    assert len(batches._first) == 24
    assert several.seen == ones.seen
    _assert_equal(plain, captured)


@pytest.mark.gpu
@pytest.mark.parametrize("at_once", [1, 4, 12])
def test_captured_steps_do_not_depend_on_how_many_are_taken_at_once(fit: Fit, at_once: int) -> None:
    _, one = fit(2, **_on_gpu())
    _, other = fit(at_once, **_on_gpu())
    _assert_equal(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize("scheduler", [cosine, partial(OneCycleLR, max_lr=3e-3)])
def test_a_captured_fit_goes_on_to_the_bit(
    fit: Fit, tmp_path: Path, scheduler: Callable[..., Any]
) -> None:
    settings = _on_gpu(max_epochs=2, scheduler=scheduler)
    path = tmp_path / "fit.ckpt"
    _, never = fit(4, callbacks=[WeightAverage(0.9), _SaveAt(28, path)], **settings)
    _, resumed = fit(4, checkpoint=path, callbacks=[WeightAverage(0.9)], **settings)
    _assert_equal(never, resumed)


@pytest.mark.gpu
@pytest.mark.parametrize("captures", [True, False])
def test_graphs_outlive_fits(fit: Fit, captures: bool) -> None:
    """Lightning frees the workspace of matrix products after a run, unless told."""
    weight = torch.randn(3072, 768, device="cuda", dtype=torch.bfloat16)
    x = torch.randn(4096, 768, device="cuda", dtype=torch.bfloat16)
    captured = Captured(lambda x: (x @ weight.T @ weight,), "a product", warm_up=1)
    expected = captured(x)[0].clone()
    captured(x)
    fit("auto", capture=captures, **_on_gpu())
    torch.cuda.empty_cache()
    for _ in range(3):
        assert torch.equal(captured(x)[0], expected)


@pytest.mark.gpu
def test_a_captured_fit_learns(fit: Fit) -> None:
    seen = Validations()
    fit("auto", callbacks=[seen], **_on_gpu(max_epochs=8))
    losses = list(seen.seen.values())
    assert math.isfinite(losses[-1])
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.gpu
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@OPTIMIZERS
def test_captured_steps_on_texts_are_the_same_steps(
    fit: Fit,
    optimizer: Callable[..., Optimizer],
    scheduler: Callable[..., Any] | None,
    precision: str,
    dropout: float,
) -> None:
    """A graph with a mask and one without take turns; blocks of keys are masked as a whole."""
    seen: list[Validations] = [Validations(), Validations()]
    distillers = []
    for capture, validations in zip((False, True), seen, strict=True):
        data = _Sentences(24, 4, 128, train_batches=24, valid_batches=6)
        _, distiller = fit(
            "auto",
            data=data,
            capture=capture,
            callbacks=[validations],
            dropout=dropout,
            **_on_gpu(optimizer=optimizer, precision=precision, scheduler=scheduler, max_epochs=3),
        )
        distillers.append(distiller)
    assert all(math.isfinite(loss) for loss in seen[1].seen.values())
    assert seen[1].seen == seen[0].seen
    _assert_equal(*distillers)


@pytest.mark.gpu
def test_captured_validations_see_the_weights_of_the_moment(fit: Fit) -> None:
    """Averaged ones too, which are swapped in for the validation."""
    seen: list[Validations] = [Validations(), Validations()]
    for capture, validations in zip((False, True), seen, strict=True):
        fit(
            "auto",
            capture=capture,
            callbacks=[validations, WeightAverage(0.9)],
            **_on_gpu(max_epochs=3, val_check_interval=0.25),
        )
    assert seen[1].seen == seen[0].seen
    assert len(set(seen[1].seen.values())) == 12
