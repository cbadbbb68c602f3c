"""A trial of the healing: a plan is put together, and learns to return what the original does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback

from slicewise.cost import count_parameters
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.encoder.evaluation import cosine
from slicewise.encoder.folder import save_model
from slicewise.encoder.healing import Healer, OriginalSide, TextBatchDataModule
from slicewise.encoder.refit import targets_of
from slicewise.encoder.sliced import SlicedEncoder, assemble
from slicewise.targets import TargetStore, fingerprint
from slicewise.transfer import default_texts
from sweep.compress.application import LIBRARY
from sweep.compress.measure import block_of
from sweep.compress.settings import CompressSettings
from sweep.compress.workbench import Workbench, close_workbench, open_workbench
from sweep.trial.active import ActiveTrial
from sweep.trial.attempt import Attempt, attempt
from sweep.trial.build import build
from sweep.trial.callbacks import FinalValidation, ObeyStudy
from sweep.trial.checkpoint import CHECKPOINT, usable_checkpoint
from sweep.trial.hardware import hardware_of
from sweep.trial.live import LiveProgress
from sweep.trial.lockstep import agreed
from sweep.trial.parts import (
    check_course,
    ends_unvalidated,
    named_within,
    new_recipe,
    new_trainer,
    quiet_lightning,
)
from sweep.trial.provenance import package_versions
from sweep.trial.run import Share
from sweep.trial.settings import CACHE_FOLDER
from sweep.trial.task import Task

log = logging.getLogger(__name__)

# Of a healed encoder, in its trial's directory.
MODEL_FOLDER = "model"
_MONITOR = "valid_damage"


def fit(task: Task, active: ActiveTrial) -> Share:
    """Heals one plan, or one rank's share of it, to whatever end.

    Args:
        task: Its configuration names the `plan`.
        active: The trial in its study.
    """
    return attempt(task, active, _heal)


def _heal(trial: Attempt) -> tuple[float, ...]:
    """Assembles, trains, measures, and fills in the record; returns the objective's values."""
    quiet_lightning()
    settings, record, directory = (
        CompressSettings.of(trial.task.config),
        trial.record,
        trial.task.directory,
    )
    bench = open_workbench(settings)
    going_on = agreed(lambda: usable_checkpoint(directory) is not None)
    encoder = put_together(bench, trial.task.config.plan, _library(directory))
    # The fit draws the same, whether its first weights were read or solved for.
    lightning.seed_everything(settings.seed, verbose=False)
    original, data = bench.original, TextBatchDataModule(bench.data, settings.heal.groups)
    del bench
    # A fit needs the memory more.
    close_workbench()
    sizes = [sum(map(count_parameters, one.block_list)) for one in (original, encoder)]
    record.take_sizes(str(settings.teacher.get("pretrained") or data.texts.whole.files), *sizes)
    log.info("Trial %d, in %s", record.number, trial.task.place)
    log.info("%s of the original's %s parameters", f"{sizes[1]:,}", f"{sizes[0]:,}")

    encoder.train()
    final = FinalValidation(_MONITOR)
    callbacks: list[Callback] = [final, ObeyStudy(trial.active, True, _MONITOR)]
    if trial.active.in_study:
        callbacks.append(LiveProgress(directory))
    callbacks += [build(f"callbacks.{k}", node) for k, node in settings.callbacks.items()]
    optimizer, scheduler = new_recipe(settings, encoder.blocks)
    loggers = trial.trackers.open(settings.logger)
    trainer = new_trainer(settings, callbacks, loggers, directory)
    trial.trackers.begin(settings)
    record.hardware, record.precision = hardware_of(trainer), str(trainer.precision)
    healer = _healer(original, encoder, optimizer, scheduler, settings, trainer, data, trial)
    try:
        if settings.heal.steps:
            check_course(settings, trainer, data.texts)
            path = directory / CHECKPOINT if going_on else None
            trainer.fit(healer, datamodule=data, ckpt_path=path, weights_only=True)
            if ends_unvalidated(trainer):
                final.step = -1
        if final.step != trainer.global_step:
            trainer.validate(healer, datamodule=data, verbose=False)
    finally:
        record.steps = trainer.global_step
        record.take_metrics(final.metrics)
    record.damage = final.metrics[_MONITOR]
    if trainer.is_global_zero:
        device = trainer.strategy.root_device
        record.text_cosine = cosine(original.to(device), encoder.to(device), default_texts())
        record.seconds = trial.seconds
        record.values = [float(getattr(record, name)) for name in settings.objective.metrics]
        trial.active.check_possession()
        save_model(encoder.cpu(), directory / MODEL_FOLDER)
        log.info("Cosine to the original's embeddings, on held-out text: %.4f", record.text_cosine)
    return tuple(record.values or ())


def put_together(bench: Workbench, plan: str, library: Path | None) -> SlicedEncoder:
    """The encoder of a plan, as the library has its candidates.

    Args:
        bench: Of the same settings.
        plan: A candidate for each slice.
        library: As `sweep.compress.measure.block_of` takes it.
    """
    return assemble(bench.original, [block_of(bench, p, library) for p in bench.plan(plan)])


def _library(directory: Path) -> Path | None:
    """The folder of the library's trials."""
    # A repetition lies in its trial's folder.
    above = (parent / LIBRARY for parent in directory.absolute().parents)
    return next((folder for folder in above if folder.is_dir()), None)


def _healer(
    original: SlicedEncoder,
    encoder: SlicedEncoder,
    optimizer: Any,
    scheduler: Any,
    settings: CompressSettings,
    trainer: lightning.Trainer,
    data: TextBatchDataModule,
    trial: Attempt,
) -> Healer:
    borders = [layer for layer in targets_of(encoder.block_list) if layer is not None]
    store = _store(original, borders, settings, trainer, data.texts, trial)
    with named_within("heal"):
        return Healer(
            original,
            encoder,
            optimizer,
            scheduler,
            settings.heal.hidden_weight,
            settings.heal.cosine_weight,
            OriginalSide(original, borders, store),
        )


def _store(
    original: SlicedEncoder,
    borders: list[int],
    settings: CompressSettings,
    trainer: lightning.Trainer,
    data: HiddenStatesDataModule,
    trial: Attempt,
) -> TargetStore | None:
    """Where the original's side is kept: for other plans of the same borders, where there are any.

    Of one plan nothing is read twice, and a step's states are megabytes.
    """
    mode = settings.data.cache.mode
    shared = mode == "disk" or (mode == "auto" and settings.choose.plans > 1)
    if not shared:
        return None
    name = fingerprint(
        original,
        borders=borders,
        data=settings.data.content(),
        digest=data.digest() if hasattr(data, "digest") else None,
        groups=settings.heal.groups,
        precision=str(trainer.precision),
        threads=torch.get_num_threads(),
        versions=package_versions(),
    )
    root = trial.task.directory.absolute().parent.parent.parent / CACHE_FOLDER
    return TargetStore(root, name, settings.data.cache.limit_off_gpu)
