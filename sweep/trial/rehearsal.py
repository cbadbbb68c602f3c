"""What can be wrong with a trial before a step is taken: its parts are built, and thrown away."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from slicewise.errors import ArgumentError
from sweep.loading import load_libraries, wants_gpu
from sweep.trial.settings import FitSettings, TrialSettings
from sweep.trust import check_trusted, trusted_targets

if TYPE_CHECKING:
    import pytorch_lightning as lightning
    from torch import nn

    from slicewise.data.hidden_states import HiddenStatesDataModule

# What loggers need besides Lightning, which finds out when they are made: with a first run, a file.
_PACKAGES = {"TensorBoardLogger": "tensorboard", "MLFlowLogger": "mlflow", "WandbLogger": "wandb"}


def rehearse(config: DictConfig) -> None:
    """Builds all that a trial is made of; trains nothing and leaves nothing behind.

    Teacher and texts stay loaded for the trials of this process.

    Args:
        config: A trial's configuration.

    Raises:
        SlicewiseError: The trial could not be run.
    """
    settings = check_settings(config)
    load_libraries(wants_gpu(settings.trainer))
    from slicewise.steps import settled_steps
    from sweep.trial import parts

    teacher = parts.load_teacher(settings.teacher)
    data = parts.new_data(settings.data, teacher)
    student, _ = parts.new_student(settings.student, teacher, settings.objective.max_parameters)
    parts.new_loss(settings.loss)
    trainer = rehearse_fit(settings, student, data)
    with parts.named_within("steps"):
        settled_steps(trainer, data, **asdict(settings.steps))


def rehearse_fit(
    settings: FitSettings, learning: nn.Module, data: HiddenStatesDataModule
) -> lightning.Trainer:
    """The part of a rehearsal that is the same whatever is fitted.

    Args:
        settings: Of the trial.
        learning: What would learn.
        data: Of the trial.

    Returns:
        The Trainer, which has nowhere to write to.

    Raises:
        SlicewiseError: The trial could not be run.
    """
    load_libraries(wants_gpu(settings.trainer))
    from sweep.trial import parts
    from sweep.trial.build import build

    parts.quiet_lightning()
    parts.new_recipe(settings, learning)
    callbacks = [build(f"callbacks.{name}", node) for name, node in settings.callbacks.items()]
    with tempfile.TemporaryDirectory() as folder:
        trainer = parts.new_trainer(settings, callbacks, [], Path(folder))
    parts.check_course(settings, trainer, data)
    parts.best_weights(trainer)
    return trainer


def check_settings(config: DictConfig) -> TrialSettings:
    """The part of a rehearsal that needs no torch.

    Raises:
        SlicewiseError: The trial could not be run.
    """
    settings = TrialSettings.of(config)
    check_loggers(settings)
    return settings


def check_loggers(settings: FitSettings) -> None:
    """Refuses loggers that are not installed, not trusted, or none.

    Raises:
        SlicewiseError: One is.
    """
    for name, node in settings.logger.items():
        if not (isinstance(node, DictConfig) and "_target_" in node):
            raise ArgumentError(f"logger.{name}", node, "a map that says by _target_ what it is")
        check_trusted(f"logger.{name}", str(node["_target_"]), trusted_targets())
        package = _PACKAGES.get(str(node.get("_target_")).rpartition(".")[2])
        if package is not None and importlib.util.find_spec(package) is None:
            raise ArgumentError(
                "logger",
                name,
                "a logger that is installed; csv always is",
                f"pip install 'slicewise[{name}]'",
            )
