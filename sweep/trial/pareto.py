"""Pruning with several objectives, of which all but the first are known before a student learns.

Optuna reports and prunes with one objective only, so what a trial reports is kept in one of its
user attributes, and the rule is our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from slicewise.errors import ArgumentError
from sweep.trial.metrics import METRICS

KEY = "hydra.sweeper.pruner"
# Of a trial: what was known of it before it trained, and what it reported, by step.
COURSE = "course"
# What a fit reports.
_REPORTED = "valid_l1"


@dataclass(frozen=True)
class Course:
    """A trial as the rule sees it. Of all numbers the smaller are better.

    Attributes:
        known: What was known before it trained: sizes, latency.
        reported: Its first objective, by step.
        value: The same at its end; None: it has not ended.
    """

    known: tuple[float, ...]
    reported: Mapping[int, float]
    value: float | None = None

    def best_by(self, step: int) -> float | None:
        """The best that it had reported by a step; None: nothing."""
        reached = [value for at, value in self.reported.items() if at <= step]
        return min(reached) if reached else None

    def is_no_larger(self, other: Course) -> bool:
        """Whether it is at least as good in all that is known before."""
        return all(own <= its for own, its in zip(self.known, other.known, strict=True))


def is_dominated(course: Course, others: Sequence[Course], margin: float) -> bool:
    """The rule: whether a trial has no place on the front, as far as one can say by now.

    Of the trials on the Pareto front it looks at those that are at least as good in everything
    known before the fit. The trial is ended where one of them was better at the same step by more
    than the margin: each compared at the best that it had reported by then. A trial that is smaller
    than all on the front, or near one of them, goes on.

    Args:
        course: Of a trial that runs.
        others: Of those that are complete.
        margin: As a share of the other's value.
    """
    if not course.reported:
        return False
    step = max(course.reported)
    own = course.best_by(step)
    assert own is not None
    rivals = [other for other in others if other.is_no_larger(course)]
    for rival in rivals:
        its = rival.best_by(step)
        if its is not None and own > its + margin * abs(its) and _is_on_front(rival, rivals):
            return True
    return False


def _is_on_front(course: Course, others: Sequence[Course]) -> bool:
    """Whether no other dominates it; who does is among the rivals of whomever it rivals."""
    assert course.value is not None
    return not any(
        other.value <= course.value
        and other.is_no_larger(course)
        and (other.value, other.known) != (course.value, course.known)
        for other in others
        if other.value is not None
    )


class ParetoPruner(BasePruner):
    """Ends trials that the front leaves no place for; see `is_dominated`.

    Args:
        n_startup_trials: So many complete trials come first.
        n_warmup_steps: No trial is ended before this step.
        margin: By how much it must be worse than another, as a share of that one's value.

    Raises:
        ArgumentError: One is out of range.
    """

    def __init__(
        self, n_startup_trials: int = 5, n_warmup_steps: int = 0, margin: float = 0.1
    ) -> None:
        for name, number in (
            ("n_startup_trials", n_startup_trials),
            ("n_warmup_steps", n_warmup_steps),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ArgumentError(f"{KEY}.{name}", number, "an integer of at least 0")
        if not 0 <= margin < float("inf"):
            raise ArgumentError(f"{KEY}.margin", margin, "a share of at least 0, such as 0.1")
        self.n_startup_trials = n_startup_trials
        self.n_warmup_steps = n_warmup_steps
        self.margin = margin

    def report(self, trial: Trial, value: float, step: int, known: Mapping[str, float]) -> None:
        """Keeps what a trial reports; a step once, as Optuna does.

        Args:
            trial: Of a study with several directions.
            value: Of the first objective.
            step: How far the fit is.
            known: By name, what was known before it.
        """
        # As stored: a worker that died may have reported more than this one knows.
        stored = trial.storage.get_trial(trial._trial_id).user_attrs.get(COURSE, {})
        reported = {**stored.get("reported", {})}
        if str(step) not in reported:
            reported[str(step)] = float(value)
            trial.set_user_attr(COURSE, {"known": dict(known), "reported": reported})

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < self.n_startup_trials:
            return False
        names, directions = study.metric_names or [], study.directions
        course = _course_of(trial, names, directions)
        if course is None or max(course.reported, default=-1) < self.n_warmup_steps:
            return False
        others = [_course_of(other, names, directions) for other in complete]
        return is_dominated(course, [one for one in others if one is not None], self.margin)

    def check(self, directions: Sequence[str], metrics: Sequence[str] | None) -> None:
        """Refuses a study that it cannot judge.

        Args:
            directions: The study's.
            metrics: What its values are called; None: unknown.

        Raises:
            ArgumentError: It has one objective; the first is not what fits report; or another is
                not known before.
        """
        if len(directions) == 1:
            raise _refused("median, hyperband, ... with one objective")
        known = [metric.name for metric in METRICS if metric.is_known_before]
        names = list(metrics or [])
        if not names or names[0] != _REPORTED or not set(names[1:]) <= set(known):
            raise _refused(
                f"none, unless the objectives are {_REPORTED} and, known before a fit, "
                f"{' or '.join(known)}"
            )


def _refused(allowed: str) -> ArgumentError:
    return ArgumentError(KEY.replace(".", "/"), "pareto", allowed)


def _course_of(
    trial: FrozenTrial, names: Sequence[str], directions: Sequence[StudyDirection]
) -> Course | None:
    """A trial with every number such that smaller is better; None where too little is known.

    Of one that is complete and has reported nothing, as under another pruner, there is no course.
    """
    kept: Mapping[str, Any] = trial.user_attrs.get(COURSE, {})
    known = kept.get("known", {})
    if not known.keys() >= set(names[1:]):
        return None
    signs = [-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in directions]
    return Course(
        tuple(sign * known[name] for sign, name in zip(signs[1:], names[1:], strict=True)),
        {int(step): signs[0] * value for step, value in kept.get("reported", {}).items()},
        signs[0] * trial.values[0] if trial.values else None,
    )
