"""The trial that this process is running, for the code that runs inside it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from optuna.pruners import WilcoxonPruner
from optuna.trial import Trial

from sweep.trial.outcome import TrialLost
from sweep.trial.pareto import ParetoPruner


class Place(Protocol):
    """A trial's place among those that run in one process by turns."""

    @property
    def others(self) -> int:
        """How many run beside it now."""

    def pass_turn(self) -> None:
        """Lets the others go on; returns when it is this one's turn again."""

    def make_way(self) -> None:
        """As `pass_turn`, also where a fit has not taken its first step."""


class ActiveTrial:
    """What a fit may know of the trial that it belongs to; by itself, a single fit in no study.

    Args:
        stop: Set when the trial should stop at the next batch.

    Attributes:
        in_study: Whether it is a trial of a study.
        number: Of the trial in its study; 0 of a single fit.
        params: The swept values.
        abandoned: Set when the trial has been given to another worker: it must stop and leave
            everything as it is.
        attributes: For the study's user attributes, told with the result.
        place: Where it runs side by side with others, else None.
    """

    in_study = False
    place: Place | None = None

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.number = 0
        self.params: dict[str, Any] = {}
        self.abandoned = threading.Event()
        self.attributes: dict[str, Any] = {}

    @property
    def is_pruned_between_seeds(self) -> bool:
        """Whether the study's pruner compares the fits of different seeds, not steps of a fit."""
        return False

    def check_possession(self) -> None:
        """For before anything is written that another worker may also write.

        A worker that was taken for dead, and was not, learns it here at the latest.

        Raises:
            TrialLost: The trial has been given to another worker.
        """
        if self.is_lost():
            raise TrialLost

    def is_lost(self) -> bool:
        """Whether the trial has been given to another worker, as far as is known.

        It costs nothing while the heartbeat's thread goes on asking the storage.
        """
        return self.abandoned.is_set()

    def has_company(self) -> bool:
        """Whether others run beside it now, in this process and its memory."""
        return self.place is not None and self.place.others > 0

    def report(
        self, value: float, step: int, known: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        """Reports an intermediate value to the study.

        Args:
            value: Of the first objective.
            step: How far the fit is.
            known: What of the other objectives was known before the fit, by name.
        """

    def should_prune(self) -> bool:
        """Whether the study's pruner ends the trial here."""
        return False


class StudyTrial(ActiveTrial):
    """A trial of a study.

    Args:
        trial: Optuna's.
        stop: Set when the trial should stop at the next batch.
        is_ours: Asks the storage whether the trial is still this worker's.
        trusted_seconds: How long after the heartbeat's thread has seen that it is, it need not be
            asked again: less than the others wait before they take a worker for dead. A process
            that was suspended comes back after them, and asks.
    """

    in_study = True

    def __init__(
        self,
        trial: Trial,
        stop: threading.Event,
        is_ours: Callable[[], bool] = lambda: True,
        trusted_seconds: float = 0.0,
    ) -> None:
        super().__init__(stop)
        self.trial = trial
        self.number = trial.number
        self.params = trial.params
        self._is_ours = is_ours
        self._trusted_seconds = trusted_seconds
        self._confirmed = -math.inf

    def confirm(self, moment: float) -> None:
        """Notes that the storage was asked at that moment, and named this worker.

        Args:
            moment: By `time.monotonic`, before it was asked.
        """
        self._confirmed = moment

    @property
    def is_pruned_between_seeds(self) -> bool:
        return isinstance(self.trial.study.pruner, WilcoxonPruner)

    def check_possession(self) -> None:
        self._ask()
        super().check_possession()

    def is_lost(self) -> bool:
        if time.monotonic() - self._confirmed > self._trusted_seconds:
            self._ask()
        return self.abandoned.is_set()

    def _ask(self) -> None:
        if not self.abandoned.is_set() and not self._is_ours():
            self.abandoned.set()

    def report(
        self, value: float, step: int, known: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        pruner = self.trial.study.pruner
        if len(self.trial.study.directions) == 1:
            self.trial.report(value, step)
        elif isinstance(pruner, ParetoPruner):
            # To Optuna, which refuses reports with several directions, they are attributes.
            pruner.report(self.trial, value, step, known)

    def should_prune(self) -> bool:
        study = self.trial.study
        if len(study.directions) == 1:
            return self.trial.should_prune()
        return isinstance(study.pruner, ParetoPruner) and study.pruner.prune(
            study, study._storage.get_trial(self.trial._trial_id)
        )


_stack: list[ActiveTrial] = []


def active_trial() -> ActiveTrial | None:
    """The trial that this process is running; None between trials."""
    return _stack[-1] if _stack else None


def active_trials() -> list[ActiveTrial]:
    """All that are active, innermost last."""
    return _stack[:]


def set_active(trials: list[ActiveTrial]) -> None:
    """Makes others the active ones, where several run in this process by turns.

    They are no variable of each thread: a trial may report from any of its own.
    """
    _stack[:] = trials


@contextlib.contextmanager
def activated(trial: ActiveTrial) -> Iterator[None]:
    """Makes a trial the active one."""
    _stack.append(trial)
    try:
        yield
    finally:
        _stack.pop()
