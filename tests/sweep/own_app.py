"""An application that is not this package's: it learns something in steps, and reports them.

Its configuration has keys of the names that this package's own has, with other meanings.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import hydra
import optuna
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from sweep import trial

ConfigStore.instance().store(
    "own_app",
    {
        "defaults": ["_self_", {"override hydra/sweeper": "optuna_workers"}],
        "rate": 0.1,
        "steps": 3,
        "do": "learn",
        "study": {"subject": "botany"},
        "trainer": "adam",
        "objective": {"metrics": ["accuracy", "f1"]},
        "callbacks": None,
        "budget": 5,
        "hydra": {"sweeper": {"metric_names": ["error"], "study_name": "mine"}},
    },
)


def unknown(config: DictConfig, running: optuna.Trial) -> None:
    """A search space of a key that the configuration does not have."""
    running.suggest_float("no.such", 0.0, 1.0)


@hydra.main(config_path=None, config_name="own_app")
def main(config: DictConfig) -> Any:
    if config.do == "fail":
        raise RuntimeError("a mistake of the application")
    if config.do == "exit":
        sys.exit(3)
    if config.do == "cancel":
        raise asyncio.CancelledError
    if config.do == "words":
        return "good"
    if config.do == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    error = 1.0
    for step in range(config.steps):
        error = error * (1.0 - config.rate)
        trial.report(step, error)
        if trial.should_prune():
            raise optuna.TrialPruned
    return (error, 1.0 / config.rate) if config.do == "two" else error


if __name__ == "__main__":
    main()
