"""Rules by which a study ends before its budget is met; `hydra/sweeper/stop`."""

from __future__ import annotations

import abc
import warnings
from typing import Any

import optuna
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from optuna.terminator import (
    BaseErrorEvaluator,
    MedianErrorEvaluator,
    RegretBoundEvaluator,
    StaticErrorEvaluator,
    Terminator,
)
from optuna.trial import FrozenTrial, TrialState

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.study.attributes import FINISHED
from sweep.study.space import SearchSpace
from sweep.trust import check_trusted, trusted_targets

KEY = "hydra.sweeper.stop"
# Of a trial that is a mean; see `sweep.trial.metrics`.
_DEVIATION = "value_std"
_STEPS = "steps"


class StoppingRule(abc.ABC):
    """Says when a study has had enough."""

    @abc.abstractmethod
    def reason(self, study: optuna.Study) -> str | None:
        """Why no further trial should start; None: one should."""

    def check(self, space: SearchSpace, directions: int) -> None:  # noqa: B027
        """Refuses a study that it cannot judge; this one judges any.

        Raises:
            ArgumentError: It is one.
        """


class Never(StoppingRule):
    """The budget alone ends the study."""

    def reason(self, study: optuna.Study) -> str | None:
        return None


class NoBetter(StoppingRule):
    """Enough is when so many trials have ended since the last that was better than all before.

    Pruned ones count; of several objectives, one is better that has come onto the front. Optuna's
    `BestValueStagnationEvaluator` knows complete trials of one objective, by their numbers.

    Args:
        trials: How many.

    Raises:
        ArgumentError: It is no integer of at least 1.
    """

    def __init__(self, trials: int = 20) -> None:
        if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
            raise ArgumentError(f"{KEY}.trials", trials, "an integer of at least 1")
        self.trials = trials

    def reason(self, study: optuna.Study) -> str | None:
        finished = study.get_trials(deepcopy=False, states=FINISHED)
        if len(finished) <= self.trials or all(t.state is TrialState.PRUNED for t in finished):
            return None
        # One with a small number may have ended last.
        finished.sort(key=lambda trial: (trial.datetime_complete, trial.number))
        best = {trial.number for trial in _best(study, finished)}
        since = next(i for i, trial in enumerate(reversed(finished)) if trial.number in best)
        return f"no better for {since} trials" if since >= self.trials else None


class Steps(StoppingRule):
    """Enough is when the trials of a study have taken so many steps together.

    What is compared where trials are pruned: of them there are many for the steps of a few. Counted
    are the steps that a trial has taken, however it ended, or the last that it reported: so those
    of the trials that still run, and those of applications that only report, as they say them.

    Args:
        steps: How many.

    Raises:
        ArgumentError: It is no integer of at least 1.
    """

    def __init__(self, steps: int | None = None) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ArgumentError(f"{KEY}.steps", steps, "an integer of at least 1")
        self.steps = steps

    def reason(self, study: optuna.Study) -> str | None:
        spent = sum(map(_steps_of, study.get_trials(deepcopy=False)))
        return f"{spent:,} steps of {self.steps:,} are taken" if spent >= self.steps else None


class RegretBound(StoppingRule):
    """Enough is when what the best could still gain is below the error of measuring it.

    Optuna's terminator: the gain is bounded by a Gaussian process over the better half of the
    trials. A. Makarova et al., Automatic Termination for Hyperparameter Optimization, 2022.

    Args:
        error: Of a value. None: the best trial's deviation over `objective.seeds`, where it has
            one; else a hundredth of the bound after the first 30 trials.
        min_trials: Complete trials before it judges.

    Raises:
        ArgumentError: One is out of range.
    """

    def __init__(self, error: float | None = None, min_trials: int = 20) -> None:
        if error is not None and not 0 < error < float("inf"):
            raise ArgumentError(f"{KEY}.error", error, "a number above 0, or null")
        if isinstance(min_trials, bool) or not isinstance(min_trials, int) or min_trials < 2:
            raise ArgumentError(f"{KEY}.min_trials", min_trials, "an integer of at least 2")
        self.error = error
        self.min_trials = min_trials

    def check(self, space: SearchSpace, directions: int) -> None:
        if directions > 1:
            raise ArgumentError(
                "hydra/sweeper/stop", "regret_bound", "no_better with several objectives"
            )
        if space.custom is not None:
            raise ArgumentError(
                "hydra/sweeper/stop", "regret_bound", "no_better with custom_search_space"
            )

    def reason(self, study: optuna.Study) -> str | None:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < self.min_trials:
            return None
        bound = RegretBoundEvaluator(min_n_trials=self.min_trials, seed=0)
        with warnings.catch_warnings():
            # The module leaves with Optuna 6, which is not installed (pyproject.toml).
            warnings.simplefilter("ignore", FutureWarning)
            error = self._error(bound, study.best_trial)
            terminator = Terminator(bound, error, self.min_trials)
            if not terminator.should_terminate(study):
                return None
        gain = bound.evaluate(complete, study.direction)
        return f"the best could gain {gain:.3g} at most, less than the error of a value"

    def _error(self, bound: RegretBoundEvaluator, best: FrozenTrial) -> BaseErrorEvaluator:
        error = best.user_attrs.get(_DEVIATION) if self.error is None else self.error
        if error:
            return StaticErrorEvaluator(error)
        return MedianErrorEvaluator(bound)


def new_rule(node: dict[str, Any]) -> StoppingRule:
    """The rule of a configuration.

    Raises:
        SlicewiseError: It names code that is not trusted, or not there, or does not take these
            arguments.
    """
    target = str(node.get("_target_"))
    check_trusted(KEY, target, trusted_targets())
    try:
        get_object(target)
        rule = instantiate(node, _execution_whitelist_=trusted_targets())
    except (ImportError, AttributeError, InstantiationException, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, SlicewiseError):
            raise cause from None
        raise SlicewiseError(f"{KEY}: {cause}") from error
    if not isinstance(rule, StoppingRule):
        raise ArgumentError(f"{KEY}._target_", target, "a subclass of sweep.study.stopping's")
    return rule


def _steps_of(trial: FrozenTrial) -> int:
    """How many a trial has taken, as far as the study knows."""
    taken: int | None = trial.user_attrs.get(_STEPS, trial.last_step)
    return taken or 0


def _best(study: optuna.Study, finished: list[FrozenTrial]) -> list[FrozenTrial]:
    """The best of these, of equals the first that ended; of several objectives, the front."""
    complete = [trial for trial in finished if trial.state is TrialState.COMPLETE]
    if len(study.directions) > 1:
        shown = optuna.create_study(directions=study.directions)
        numbers = dict(enumerate(complete))
        shown.add_trials(complete)
        return [numbers[trial.number] for trial in shown.best_trials]
    sign = -1 if study.direction is optuna.study.StudyDirection.MAXIMIZE else 1
    return [min(complete, key=lambda trial: sign * (trial.value or 0.0))]
