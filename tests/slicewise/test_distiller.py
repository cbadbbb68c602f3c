from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from slicewise.baselines import Baselines
from slicewise.data.batch import Batch, Split
from slicewise.data.noise import NoiseDataModule, noise_batch
from slicewise.distiller import Distiller, SchedulerFactory
from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import TeacherSlice

NewTrainer = Callable[..., Trainer]
NewDistiller = Callable[..., Distiller]
NewData = Callable[..., NoiseDataModule]
NewStudent = Callable[..., ApproximateAttention]

CPU = torch.device("cpu")
adamw = partial(AdamW, lr=3e-3)


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def _valid_l1(trainer: Trainer) -> float:
    return trainer.callback_metrics["valid_l1"].item()


def _loader(*batches: Batch) -> DataLoader[Batch]:
    return DataLoader(list(batches), batch_size=None)  # type: ignore[arg-type]


# The teacher is no part of what is trained


def test_optimizer_holds_the_students_parameters_and_no_others(
    new_trainer: NewTrainer, new_distiller: NewDistiller, new_data: NewData
) -> None:
    distiller, trainer = new_distiller(), new_trainer()
    trainer.fit(distiller, datamodule=new_data())
    held = [p for group in trainer.optimizers[0].param_groups for p in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in distiller.student.parameters()]
    assert [id(p) for p in distiller.parameters()] == [id(p) for p in held]


def test_checkpoint_holds_the_student_and_the_baselines_only(
    new_trainer: NewTrainer, new_distiller: NewDistiller, new_data: NewData, tmp_path: Path
) -> None:
    distiller, trainer = new_distiller(), new_trainer()
    trainer.fit(distiller, datamodule=new_data())
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    checkpoint = torch.load(tmp_path / "fit.ckpt", weights_only=True)
    expected = {f"student.{name}" for name in distiller.student.state_dict()}
    assert set(checkpoint["state_dict"]) == expected
    assert set(checkpoint["baselines"]) == {"num_batches", "total"}
    moments = checkpoint["optimizer_states"][0]["state"]
    assert len(moments) == len(list(distiller.student.parameters()))


def test_fit_leaves_the_teacher_as_it_was(
    new_trainer: NewTrainer,
    new_distiller: NewDistiller,
    new_data: NewData,
    tiny_teacher: TeacherSlice,
) -> None:
    before = _copy(tiny_teacher.state_dict())
    distiller = new_distiller(optimizer=partial(SGD, lr=1.0))
    new_trainer().fit(distiller, datamodule=new_data())
    assert distiller.teacher is tiny_teacher
    assert _equal(before, tiny_teacher.state_dict())
    assert all(p.grad is None and not p.requires_grad for p in tiny_teacher.parameters())
    distiller.train()
    assert distiller.student.training
    assert not any(module.training for module in tiny_teacher.modules())


def test_teacher_moves_to_the_device_of_the_fit(
    new_trainer: NewTrainer, new_distiller: NewDistiller, tiny_teacher: TeacherSlice
) -> None:
    """Lightning calls `setup` before it moves the module, so the module's device is too old."""
    distiller = new_distiller()
    device = torch.device("meta")
    distiller.trainer = new_trainer(strategy=SingleDeviceStrategy(device=device))
    distiller.setup("fit")
    assert {parameter.device for parameter in tiny_teacher.parameters()} == {device}


# The loss


def test_valid_l1_is_the_mean_absolute_difference(
    new_trainer: NewTrainer,
    new_distiller: NewDistiller,
    new_data: NewData,
    tiny_teacher: TeacherSlice,
) -> None:
    distiller, trainer, data = new_distiller(), new_trainer(), new_data(seed=3)
    trainer.fit(distiller, datamodule=data)
    student = distiller.student.eval()
    differences, targets = [], []
    with torch.no_grad():
        for index in range(2):
            x_BTH = noise_batch((3, 6, 24), 3, Split.VALID, index, CPU)
            targets.append(tiny_teacher(x_BTH))
            differences.append((student(x_BTH) - targets[-1]).double().abs())
    assert _valid_l1(trainer) == pytest.approx(torch.stack(differences).mean().item(), abs=1e-6)
    zero = torch.stack(targets).double().abs().mean().item()
    assert trainer.callback_metrics["baseline/zero"].item() == pytest.approx(zero, abs=1e-6)


def test_baselines_learn_from_training_and_are_measured_on_validation(
    new_trainer: NewTrainer,
    new_distiller: NewDistiller,
    new_data: NewData,
    tiny_teacher: TeacherSlice,
) -> None:
    trainer = new_trainer(max_epochs=2)
    trainer.fit(new_distiller(), datamodule=new_data(seed=3))
    baselines = Baselines(6, 24)
    for index in range(8):
        baselines.update(tiny_teacher(noise_batch((3, 6, 24), 3, Split.TRAIN, index, CPU)))
    baselines.gather()
    sums: dict[str, float] = {}
    for index in range(2):
        x_BTH = noise_batch((3, 6, 24), 3, Split.VALID, index, CPU)
        for name, loss in baselines.losses(x_BTH, tiny_teacher(x_BTH)).items():
            sums[name] = sums.get(name, 0) + loss.item() / 2
    logged = {
        name.removeprefix("baseline/"): value.item()
        for name, value in trainer.callback_metrics.items()
        if name.startswith("baseline/")
    }
    assert logged == pytest.approx(sums, abs=1e-6)


def test_mask_reaches_teacher_and_student(
    new_trainer: NewTrainer,
    new_distiller: NewDistiller,
    tiny_teacher: TeacherSlice,
    additive_mask: Callable[..., Tensor],
) -> None:
    batch = Batch(torch.randn(2, 6, 24), additive_mask(2, 5))
    distiller, trainer = new_distiller(), new_trainer()
    [metrics] = trainer.validate(distiller, dataloaders=_loader(batch), verbose=False)
    student = distiller.student.eval()
    with torch.no_grad():
        x_BTH, mask, real_BT = *batch[:2], batch.real_tokens()
        assert real_BT is not None
        assert not real_BT.all()
        both = student(x_BTH, mask) - tiny_teacher(x_BTH, mask)
        only_student = student(x_BTH, mask) - tiny_teacher(x_BTH)
        only_teacher = student(x_BTH) - tiny_teacher(x_BTH, mask)
    assert metrics["valid_l1"] == pytest.approx(both[real_BT].abs().mean().item(), abs=1e-6)
    for wrong in (both, only_student[real_BT], only_teacher[real_BT]):
        assert metrics["valid_l1"] != pytest.approx(wrong.abs().mean().item(), abs=1e-6)


def test_loss_decreases(
    new_trainer: NewTrainer, new_distiller: NewDistiller, new_data: NewData
) -> None:
    distiller, trainer = new_distiller(optimizer=adamw), new_trainer()
    data = new_data(train_batches=60, batch_size=8)
    [untrained] = trainer.validate(distiller, datamodule=data, verbose=False)
    trainer.fit(distiller, datamodule=data)
    assert _valid_l1(trainer) < 0.9 * untrained["valid_l1"]


def test_default_optimizer_is_the_articles(new_distiller: NewDistiller) -> None:
    distiller = new_distiller()
    optimizer = distiller.configure_optimizers()
    assert type(optimizer) is AdamW
    assert optimizer.defaults["lr"] == 1e-3
    assert optimizer.defaults["weight_decay"] == 1e-4


# The scheduler


class _LearningRates(Callback):
    """Keeps the learning rate that each optimizer step was made with."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_cycle_is_stepped_with_the_optimizer_over_the_whole_fit(
    accumulate: int, new_trainer: NewTrainer, new_distiller: NewDistiller, new_data: NewData
) -> None:
    recorder = _LearningRates()
    new_trainer(max_epochs=3, accumulate_grad_batches=accumulate, callbacks=[recorder]).fit(
        new_distiller(optimizer=adamw, scheduler=partial(OneCycleLR, max_lr=0.01, pct_start=0.3)),
        datamodule=new_data(train_batches=8),
    )
    steps = 3 * 8 // accumulate
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    schedule = OneCycleLR(optimizer, max_lr=0.01, pct_start=0.3, total_steps=steps)
    expected = []
    for _ in range(steps):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(expected) < steps:
            schedule.step()
    assert recorder.rates == pytest.approx(expected, rel=1e-9)
    assert max(recorder.rates) > 100 * recorder.rates[-1]


def test_learning_rate_is_constant_without_a_scheduler(
    new_trainer: NewTrainer, new_distiller: NewDistiller, new_data: NewData
) -> None:
    recorder = _LearningRates()
    new_trainer(max_epochs=2, callbacks=[recorder]).fit(
        new_distiller(optimizer=adamw), datamodule=new_data()
    )
    assert recorder.rates == [3e-3] * 8


# The same fit again


class _Losses(Callback):
    """Keeps the losses of a fit, bit for bit, by step."""

    def __init__(self) -> None:
        self.train: dict[int, float] = {}
        self.valid: dict[int, float] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.train[trainer.global_step] = outputs["loss"].item()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.valid[trainer.global_step] = _valid_l1(trainer)


class _SaveAt(Callback):
    """Saves a checkpoint inside one hook, after one step."""

    def __init__(self, hook: str, step: int, path: Path) -> None:
        self.step = step
        self.path = path
        setattr(self, hook, self._save)

    def _save(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def _fit(
    new_trainer: NewTrainer,
    new_distiller: NewDistiller,
    new_data: NewData,
    *callbacks: Callback,
    scheduler: SchedulerFactory | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> tuple[Distiller, _Losses]:
    """Two epochs of four steps, dropout on, a validation every 2 steps."""
    losses = _Losses()
    distiller = new_distiller(optimizer=adamw, scheduler=scheduler, seed=seed)
    assert distiller.student.config["dropout"] > 0
    trainer = new_trainer(max_epochs=2, val_check_interval=0.5, callbacks=[losses, *callbacks])
    trainer.fit(
        distiller, datamodule=new_data(), ckpt_path=checkpoint, weights_only=bool(checkpoint)
    )
    assert trainer.global_step == 8
    return distiller, losses


@pytest.mark.parametrize(
    "scheduler",
    [
        pytest.param(None, id="constant"),
        # It asks for the length of the fit, and so for the data, before the stream is resumed.
        pytest.param(partial(OneCycleLR, max_lr=3e-3), id="one_cycle"),
    ],
)
@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("on_train_batch_end", 1),
        # Before a validation in the middle of an epoch, before the one at its end, and after it.
        ("on_train_batch_end", 2),
        ("on_train_batch_end", 4),
        ("on_train_batch_end", 5),
        ("on_train_batch_end", 7),
        ("on_validation_end", 2),
        ("on_validation_end", 4),
        ("on_validation_end", 6),
    ],
)
def test_resumed_fit_ends_where_an_uninterrupted_one_does(
    hook: str,
    step: int,
    scheduler: SchedulerFactory | None,
    new_trainer: NewTrainer,
    new_distiller: NewDistiller,
    new_data: NewData,
    tmp_path: Path,
) -> None:
    path = tmp_path / "fit.ckpt"
    fit = partial(_fit, new_trainer, new_distiller, new_data, scheduler=scheduler)
    whole, expected = fit(_SaveAt(hook, step, path))
    # What a new process would start from is nothing like what the first fit left behind.
    torch.manual_seed(99)
    resumed, losses = fit(checkpoint=path)
    assert resumed is not whole
    assert losses.train == {s: loss for s, loss in expected.train.items() if s > step}
    assert losses.valid.items() <= expected.valid.items()
    assert losses.valid[8] == expected.valid[8]
    assert _equal(resumed.student.state_dict(), whole.student.state_dict())
    assert torch.equal(resumed.baselines.gather(), whole.baselines.gather())


def test_fit_is_a_function_of_its_seed(
    new_trainer: NewTrainer, new_distiller: NewDistiller, new_data: NewData
) -> None:
    fits = []
    for global_seed, seed in [(1, 0), (2, 0), (1, 4)]:
        torch.manual_seed(global_seed)
        distiller, losses = _fit(new_trainer, new_distiller, new_data, seed=seed)
        fits.append((_copy(distiller.student.state_dict()), losses))
    assert _equal(fits[0][0], fits[1][0])
    assert fits[0][1].valid == fits[1][1].valid
    # Another seed is other dropout: the first step's loss differs already.
    assert fits[0][1].train[1] != fits[2][1].train[1]


def test_dropout_differs_from_step_to_step(
    new_trainer: NewTrainer, new_distiller: NewDistiller, new_student: NewStudent
) -> None:
    """On one batch, with a student that does not move, the loss moves with the dropout alone."""
    batch = Batch(torch.randn(3, 6, 24))
    losses = _Losses()
    new_trainer(callbacks=[losses]).fit(
        new_distiller(optimizer=partial(SGD, lr=0.0)), train_dataloaders=_loader(*[batch] * 5)
    )
    assert len(set(losses.train.values())) == len(losses.train) == 5
    assert all(one != other for one, other in itertools.pairwise(losses.train.values()))


def test_fifty_steps_are_the_plain_loop(
    new_trainer: NewTrainer,
    new_distiller: NewDistiller,
    new_data: NewData,
    tiny_teacher: TeacherSlice,
) -> None:
    """Fused, clipped, read ahead: in full precision it is still what anyone would write."""
    ours = new_distiller(optimizer=lambda p: AdamW(p, lr=1e-2, weight_decay=1e-4, fused=True))
    plain = new_distiller().student.train()
    losses: list[float] = []

    class Noted(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            losses.append(trainer.callback_metrics["train_l1"].item())

    trainer = new_trainer(callbacks=[Noted()], gradient_clip_val=0.01)
    trainer.fit(ours, datamodule=new_data(train_batches=50))

    optimizer = AdamW(plain.parameters(), lr=1e-2, weight_decay=1e-4, foreach=False)
    expected = []
    for index in range(50):
        x_BTH = noise_batch((3, 6, 24), 0, Split.TRAIN, index, CPU)
        torch.manual_seed(hash((0, index, 0)) % 2**63)
        loss = (plain(x_BTH) - tiny_teacher(x_BTH)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.01)
        optimizer.step()
        expected.append(loss.item())
    assert losses == pytest.approx(expected, abs=1e-6)
    assert losses[-1] < losses[0]
