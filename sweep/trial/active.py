"""The trial that this process is running, for the code that runs inside it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from optuna.trial import Trial

from sweep.trial.outcome import TrialLost


class ActiveTrial:
    """What a fit may know of the study that it belongs to.

    Args:
        trial: Optuna's.
        stop: Set when the trial should stop at the next batch.
        is_ours: Asks the storage whether the trial is still this worker's.

    Attributes:
        abandoned: Set when the trial has been given to another worker: it must stop and leave
            everything as it is.
        attributes: For the study's user attributes, told with the result.
    """

    def __init__(
        self,
        trial: Trial,
        stop: threading.Event,
        is_ours: Callable[[], bool] = lambda: True,
    ) -> None:
        self.trial = trial
        self.stop = stop
        self._is_ours = is_ours
        self.abandoned = threading.Event()
        self.attributes: dict[str, Any] = {}

    @property
    def number(self) -> int:
        """Of the trial in its study."""
        return self.trial.number

    @property
    def params(self) -> dict[str, Any]:
        """The swept values."""
        return self.trial.params

    def check_possession(self) -> None:
        """For before anything is written that another worker may also write.

        A worker that was taken for dead, and was not, learns it here at the latest.

        Raises:
            TrialLost: The trial has been given to another worker.
        """
        if self.is_lost():
            raise TrialLost

    def is_lost(self) -> bool:
        """Whether the trial has been given to another worker, as the storage knows now."""
        if not self.abandoned.is_set() and not self._is_ours():
            self.abandoned.set()
        return self.abandoned.is_set()

    def report(self, value: float, step: int) -> None:
        """Reports an intermediate value; of no use, and left out, with several directions."""
        if len(self.trial.study.directions) == 1:
            self.trial.report(value, step)

    def should_prune(self) -> bool:
        return len(self.trial.study.directions) == 1 and self.trial.should_prune()


_stack: list[ActiveTrial] = []


def active_trial() -> ActiveTrial | None:
    """The trial of the study that this process is running, None for a single fit."""
    return _stack[-1] if _stack else None


@contextlib.contextmanager
def activated(trial: ActiveTrial) -> Iterator[None]:
    """Makes a trial the active one."""
    _stack.append(trial)
    try:
        yield
    finally:
        _stack.pop()
