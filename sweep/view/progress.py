"""A line for each trial that ends, where no live view can be: in a log, or beside other output."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial

from sweep.study.attributes import FINISHED, REASON
from sweep.view.summary import objective_names
from sweep.view.words import metric_shown

log = logging.getLogger(__name__)


class Progress:
    """Says what has ended since it was last asked.

    Args:
        study: Which study; trials that have ended already are not news.
        n_trials: How many there will be; None: unknown.
    """

    def __init__(self, study: optuna.Study, n_trials: int | None) -> None:
        self._study = study
        self._n_trials = n_trials
        trials = study.get_trials(deepcopy=False)
        self._said = {trial.number for trial in trials if trial.state.is_finished()}

    def say(self) -> None:
        """Logs the news."""
        for line in self.news():
            log.info("%s", line)

    def news(self) -> list[str]:
        """A line for each trial that has ended."""
        trials = self._study.get_trials(deepcopy=False)
        finished = sum(trial.state in FINISHED for trial in trials)
        ended = [t for t in trials if t.state.is_finished() and t.number not in self._said]
        self._said.update(trial.number for trial in ended)
        of = "" if self._n_trials is None else f"/{self._n_trials}"
        names = objective_names(self._study)
        return [f"{_line(trial, names)}  [{finished}{of}]" for trial in ended]


def _line(trial: FrozenTrial, names: Sequence[str]) -> str:
    values = ", ".join(map(metric_shown, names, trial.values or []))
    reason = str(trial.user_attrs.get(REASON, "")).partition("\n")[0]
    point = ", ".join(f"{key}={value}" for key, value in trial.params.items())
    return f"Trial {trial.number} {trial.state.name.lower()}: {values or reason}  {point}"
