"""What is to be fitted, as it is handed to whoever fits it, in this process or in another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from sweep.trial.active import ActiveTrial


@dataclass
class Task:
    """What is to be fitted.

    Attributes:
        config: The trial's configuration.
        hydra: Hydra's own part of it.
        params: The swept values; None for a single fit.
        number: Of the trial.
        fit: Dotted path of the function that fits, for processes that are sent the task.
    """

    config: DictConfig
    hydra: Any
    params: dict[str, Any] | None
    number: int
    fit: str

    @property
    def directory(self) -> Path:
        """The trial's."""
        return Path(self.hydra.runtime.output_dir)

    @classmethod
    def current(cls, config: DictConfig, active: ActiveTrial, fit: str) -> Task:
        """Of the Hydra job that runs in this process now."""
        params = dict(active.params) if active.in_study else None
        return cls(config, HydraConfig.get(), params, active.number, fit)
