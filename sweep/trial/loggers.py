"""Experiment trackers: Lightning's own loggers, told what their users look for, where they look.

The curves come from Lightning. What it does not know is a trial: the configuration it was made of
belongs into the tracker's table of hyperparameters, and what became of it beside that.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from slicewise.errors import ArgumentError
from sweep.trial.build import build
from sweep.trial.metrics import METRICS, Metrics
from sweep.trial.outcome import Outcome
from sweep.trial.record import TrialRecord
from sweep.trial.settings import FitSettings

log = logging.getLogger(__name__)


class Trackers:
    """The loggers of one trial, from its hyperparameters to its result."""

    def __init__(self) -> None:
        self.loggers: list[Logger] = []
        self._hyperparameters: dict[str, Any] = {}

    def open(self, nodes: Mapping[str, DictConfig]) -> Sequence[Logger]:
        """The loggers, for Lightning.

        Args:
            nodes: What builds each, by name.

        Raises:
            SlicewiseError: One of them is not installed, or not configured right.
        """
        for name, node in nodes.items():
            self.loggers.append(_build(name, node))
        return self.loggers

    def begin(self, settings: FitSettings) -> None:
        """Tells them the hyperparameters."""
        self._hyperparameters = settings.hyperparameters
        for logger in self._trackers():
            if not isinstance(logger, TensorBoardLogger):
                with _alone_with(getattr(logger, "_tracking_uri", None)):
                    logger.log_hyperparams(self._hyperparameters)

    def conclude(self, record: TrialRecord, outcome: Outcome) -> None:
        """Tells them what became of the trial, and lets them go.

        A tracker that fails now, its server away, takes nothing from a trial that has ended.
        """
        for logger in self._trackers():
            try:
                self._conclude(logger, record, outcome)
            except Exception:
                log.warning("%s failed", type(logger).__name__, exc_info=True)

    def _conclude(self, logger: Logger, record: TrialRecord, outcome: Outcome) -> None:
        final = {f"final/{name}": value for name, value in results(record).items()}
        failed = outcome.end.is_failure
        if not outcome.end.is_final:
            # It goes on later.
            final = {}
        if isinstance(logger, TensorBoardLogger):
            # Its table takes both at once.
            logger.log_hyperparams(self._hyperparameters, final)
        elif final:
            logger.log_metrics(final, step=record.steps)
        logger.finalize("failed" if failed else "success")
        if isinstance(logger, WandbLogger):
            # A run is of the process: the worker's next trial would go on with it.
            logger.experiment.finish(exit_code=int(failed))

    def _trackers(self) -> list[Logger]:
        """Those besides metrics.csv, beside which lie .hydra and trial.json."""
        return [logger for logger in self.loggers if not isinstance(logger, CSVLogger)]


def results(metrics: Metrics) -> dict[str, float]:
    """The numbers that say what became of a trial."""
    known = {metric.name: metrics.get(metric) for metric in METRICS}
    return {name: float(value) for name, value in known.items() if value is not None}


def _alone_with(tracking_uri: str | None) -> contextlib.AbstractContextManager[object]:
    """Workers that come to a new SQLite file of MLflow's together would all make its tables."""
    path = (tracking_uri or "").removeprefix("sqlite:///")
    return contextlib.nullcontext() if path == (tracking_uri or "") else FileLock(f"{path}.lock")


def _build(name: str, node: DictConfig) -> Logger:
    try:
        with _alone_with(node.get("tracking_uri")):
            logger: Logger = build(f"logger.{name}", node)
    except ModuleNotFoundError as error:
        raise ArgumentError(
            "logger",
            name,
            "a logger that is installed; csv always is",
            f"pip install 'slicewise[{name}]'",
        ) from error
    return logger
