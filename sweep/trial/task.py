"""What is to be fitted, as it is handed to whoever fits it, in this process or in another."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from sweep.trial.active import ActiveTrial


@dataclass(frozen=True)
class Part:
    """One of the fits of a trial.

    Attributes:
        index: Which, from 0.
        count: How many there are.
    """

    index: int
    count: int


@dataclass
class Task:
    """What is to be fitted.

    Attributes:
        config: The trial's configuration.
        hydra: Hydra's own part of it.
        params: The swept values; None for a single fit.
        number: Of the trial.
        fit: Dotted path of the function that fits, for processes that are sent the task.
        part: Which of the trial's fits it is, where the trial is the mean over several.
    """

    config: DictConfig
    hydra: Any
    params: dict[str, Any] | None
    number: int
    fit: str
    part: Part | None = None

    @property
    def directory(self) -> Path:
        """Where the fit leaves its files: the trial's directory, or a folder in it."""
        return Path(self.hydra.runtime.output_dir)

    @property
    def place(self) -> str:
        """The directory as seen from where the command was typed, whatever `hydra.job.chdir` is."""
        # A configuration that was composed, and is no job of a command, has none.
        typed = OmegaConf.select(self.hydra, "runtime.cwd", throw_on_missing=False)
        return os.path.relpath(self.directory, typed)

    @property
    def trial_directory(self) -> Path:
        """The trial's."""
        return self.directory if self.part is None else self.directory.parent

    @classmethod
    def current(cls, config: DictConfig, active: ActiveTrial, fit: str) -> Task:
        """Of the Hydra job that runs in this process now."""
        params = dict(active.params) if active.in_study else None
        return cls(config, HydraConfig.get(), params, active.number, fit)
