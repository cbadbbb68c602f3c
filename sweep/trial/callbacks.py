"""What a fit does at each batch and validation besides training."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

import pytorch_lightning as lightning
from optuna import TrialPruned
from pytorch_lightning.callbacks import Callback

from slicewise.waiting import Wait
from sweep.trial.active import ActiveTrial
from sweep.trial.lockstep import agreed
from sweep.trial.metrics_file import save_rows
from sweep.trial.outcome import FitFailed, TrialLost, TrialStopped
from sweep.trial.resume import BetweenSteps, ResumePoint

# The loss that a fit is judged by, as it is logged.
LOSS = "valid_l1"


class FinalValidation(Callback):
    """Remembers the metrics of the last validation, and at which step it was.

    Part of the checkpoint: a fit that goes on from its last step has been validated.

    Args:
        monitor: What has to be a number for the fit to go on.
    """

    def __init__(self, monitor: str = LOSS) -> None:
        self.monitor = monitor
        self.step = -1
        self.metrics: dict[str, float] = {}

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.step = trainer.global_step
        # The training loss stays that of the fit, whatever is validated after it.
        self.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        # Before whatever ends the fit here.
        save_rows(trainer.loggers)
        loss = self.metrics[self.monitor]
        if not math.isfinite(loss):
            raise FitFailed(f"{self.monitor} is {loss} after {trainer.global_step} steps")

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "metrics": self.metrics}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.step = state_dict["step"]
        self.metrics = state_dict["metrics"]


class FirstStep(Callback):
    """Says that the first step takes long: memory is taken, code compiled, a graph captured.

    Args:
        what: What is said.
    """

    once_for_several_steps = True

    def __init__(self, what: str) -> None:
        self._wait = Wait(what)
        self._is_first = True

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._wait.begin()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: object,
        batch_idx: int,
    ) -> None:
        if self._is_first:
            self._is_first = False
            self._wait.end()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        self._wait.end()


class _Verdict(IntEnum):
    """What becomes of the trial; rank 0 says so."""

    GO_ON = 0
    STOP = 1
    PRUNE = 2
    LOST = 3


class ObeyStudy(BetweenSteps):
    """Reports each validation to the study, and stops where it says so.

    Args:
        active: The trial.
        prunable: Whether the loss is what the study looks at; what it cannot compare is not
            reported.
        monitor: What is reported.
        known: What of the objectives was known before the fit, by name.
    """

    def __init__(
        self,
        active: ActiveTrial,
        prunable: bool = True,
        monitor: str = LOSS,
        known: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self.active = active
        self.prunable = prunable
        self.monitor = monitor
        self.known = known
        self._verdict = _Verdict.GO_ON
        self._reported = -1
        self._on_sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._keep_sigterm()

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._keep_sigterm()

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        if trainer.global_step == self._reported:
            # The best weights, after the last ones.
            return
        self._reported = trainer.global_step
        loss = float(trainer.callback_metrics[self.monitor])

        def judge() -> _Verdict:
            if self.active.is_lost():
                return _Verdict.LOST
            if not self.prunable:
                return _Verdict.GO_ON
            self.active.report(loss, trainer.global_step, self.known())
            return _Verdict.PRUNE if self.active.should_prune() else _Verdict.GO_ON

        verdict = _Verdict(agreed(judge, may_wait=True))
        if verdict is _Verdict.LOST:
            raise TrialLost
        if verdict is _Verdict.PRUNE:
            raise TrialPruned(
                f"pruned at step {trainer.global_step} with {self.monitor} {loss:.4f}"
            )
        super().on_validation_end(trainer, pl_module)

    def between_steps(self, trainer: lightning.Trainer) -> None:
        if self._verdict is not _Verdict.GO_ON:
            return
        self._verdict = _Verdict(agreed(self._flags))
        if self._verdict is _Verdict.STOP:
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, ResumePoint):
                    callback.save(trainer)

    def once_logged(self, trainer: lightning.Trainer) -> None:
        # Not as soon as it is saved.
        if self._verdict is _Verdict.STOP:
            raise TrialStopped(f"stopped at step {trainer.global_step}")
        if self._verdict is _Verdict.LOST:
            raise TrialLost

    def _flags(self) -> _Verdict:
        if self.active.abandoned.is_set():
            return _Verdict.LOST
        return _Verdict.STOP if self.active.stop.is_set() else _Verdict.GO_ON

    def _keep_sigterm(self) -> None:
        """Lightning would leave in the middle of a validation, without a checkpoint."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._on_sigterm)
