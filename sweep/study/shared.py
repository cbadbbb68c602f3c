"""A study that several processes work on: who runs which trial, and when there is enough.

Everything that must be decided once is decided while the study is locked. What decides is only
what the storage holds, so any process can die at any point:

- A trial is claimed by turning it RUNNING and writing the worker's name on it.
- A trial whose worker died, or stopped, is put back: it becomes WAITING again, with its number,
  its values and its directory, where its last checkpoint lies.
- A finished trial is told only by the worker whose name it still bears.
- A storage that goes away in the middle may have stored what it did not acknowledge: the decision
  is made once more, and finds what it has done already.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from slicewise.errors import SlicewiseError
from sweep.command_line import study_override
from sweep.study.attributes import (
    ATTEMPTS,
    DIRECTORY,
    DIVERGED,
    FAILED_TRIAL,
    FINISHED,
    IMPOSSIBLE,
    ONE_BY_ONE,
    REASON,
    STOPPED,
    WORKER,
    worker_of,
)
from sweep.study.failures import another_try, failures, may_end_otherwise
from sweep.study.space import Point, SearchSpace
from sweep.study.stopping import StoppingRule
from sweep.study.storage import decided, is_outage
from sweep.trial.outcome import End, Outcome

T = TypeVar("T")

log = logging.getLogger(__name__)

# Impossible points for each trial of the budget, after which the space is taken for empty.
_IMPOSSIBLE_PER_TRIAL = 10
# Impossible points in a row with one and the same reason, after which it is no matter of points.
_SAME_IMPOSSIBLE = 3


class Rest(Enum):
    """Why there is no trial to claim."""

    WAIT = "others are still running"
    BUDGET = "the budget is met"
    EXHAUSTED = "every point of the search space has been tried"
    TIMEOUT = "the time is up"
    FAILURES = "too many trials failed"
    RULE = "its stopping rule ends it"


@dataclass(frozen=True)
class Budget:
    """When there is enough.

    Attributes:
        n_trials: Finished trials (complete or pruned) of the whole study.
        max_failure_rate: Failed trials as a share of `n_trials`.
        max_retries: How often a trial is put back whose worker died.
        deadline: Seconds since the epoch after which no trial starts, or None.
    """

    n_trials: int
    max_failure_rate: float = 1.0
    max_retries: int = 3
    deadline: float | None = None

    @property
    def max_failures(self) -> int:
        return math.floor(self.max_failure_rate * self.n_trials)


class _Ledger:
    """What became of the trials so far; those that no longer change are counted once."""

    def __init__(self, space: SearchSpace) -> None:
        self.taken: set[Point] = set()
        self._space = space
        self._settled = 0
        self._settled_counts = dict.fromkeys(TrialState, 0)
        self._impossible: dict[int, str] = {}
        self._failed: set[int] = set()
        self._tried_again: set[int] = set()

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Reads all trials of the study, in the order of their numbers."""
        while self._settled < len(trials) and trials[self._settled].state.is_finished():
            self._count(trials[self._settled], self._settled_counts)
            self._settled += 1
        self.counts = dict(self._settled_counts)
        for trial in trials[self._settled :]:
            self._count(trial, self.counts)

    @property
    def finished(self) -> int:
        return sum(self.counts[state] for state in FINISHED)

    @property
    def failed(self) -> int:
        """Failures of what could have run, and waits for no other try."""
        return len(self._failed - self._tried_again)

    def hopeless(self, n_trials: int) -> bool:
        """Whether there may be no point at all that can be run."""
        if self.finished == 0 and len(self._impossible) >= _SAME_IMPOSSIBLE:
            # Were it the point's values, each would give its own reason.
            return len(set(self._impossible.values())) == 1
        return len(self._impossible) > max(100, _IMPOSSIBLE_PER_TRIAL * n_trials)

    def _count(self, trial: FrozenTrial, counts: dict[TrialState, int]) -> None:
        if not self._space.holds(trial):
            # Of an earlier space of the study.
            return
        counts[trial.state] += 1
        if trial.user_attrs.get(IMPOSSIBLE):
            self._impossible[trial.number] = str(trial.user_attrs.get(REASON))
        elif trial.state is TrialState.FAIL:
            self._failed.add(trial.number)
        if (other_try := trial.system_attrs.get(FAILED_TRIAL)) is not None:
            self._tried_again.add(other_try)
        # A trial keeps its point for good, also while it waits for another worker.
        point = self._space.point_of(trial)
        if point is not None:
            self.taken.add(point)


class SharedStudy:
    """Optuna's study, with claims.

    Args:
        study: The study; its sampler and pruner are this process's own.
        storage: Its storage.
        directory: The study's folder, `multirun/<study>`.
        space: What is searched.
        budget: When there is enough.
        config: For `custom_search_space`.
        rule: What ends it before the budget is met, and what that is called: a study that was ended
            by a rule goes on under another.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        directory: Path,
        space: SearchSpace,
        budget: Budget,
        config: Any = None,
        rule: tuple[StoppingRule, Any] | None = None,
    ) -> None:
        self._rule = rule
        # The finished trials that the rule has judged.
        self._judged = -1
        self.study = study
        self.storage = storage
        self.directory = directory
        self.space = space
        self.budget = budget
        self._config = config
        self._ledger = _Ledger(space)
        self._size = space.size()

    def claim(self, worker: str, dead: set[str]) -> Trial | Rest:
        """Takes the next trial, or says why there is none.

        Args:
            worker: Name of the claiming worker, which runs none under it.
            dead: Names of workers that no longer live; their trials are put back first.
        """
        self._judge()
        return self._decided(lambda: self._claim(worker, dead))

    def put_back_trials_of(self, dead: set[str]) -> None:
        """Puts back the running trials of dead workers, as far as they may be tried again."""
        self._decided(lambda: self._put_back_trials_of(dead, self._trials()))

    def release_trials_of(self, sweep: str) -> None:
        """Lets the running trials of a sweep wait again that the user has stopped, workers and all.

        It was no fault of theirs: it does not count among `max_retries`.
        """

        def decide() -> None:
            for trial in self._trials():
                worker = str(trial.user_attrs.get(WORKER))
                if trial.state is TrialState.RUNNING and worker.startswith(f"{sweep}/"):
                    self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

        self._decided(decide)

    def try_again(self) -> list[int]:
        """Has what failed, and may end otherwise, wait again, as other trials with the same values.

        Whoever starts a sweep once more has mended what made them fail.

        Returns:
            The numbers of those that failed.
        """

        def decide() -> list[int]:
            failed = [
                trial
                for trial in failures(self._trials())
                if may_end_otherwise(trial) and self.space.holds(trial)
            ]
            for trial in failed:
                self.storage.create_new_trial(self.study._study_id, another_try(trial))
            return [trial.number for trial in failed]

        return self._decided(decide)

    def put_back(self, trial: Trial, worker: str, death: str | None = None) -> None:
        """Puts back a trial that stopped before its end; someone goes on with it later.

        Args:
            trial: What `claim` gave.
            worker: Who was given it.
            death: What died under it; None: it was asked to stop.
        """

        def decide() -> None:
            if not self._belongs(trial, worker):
                return
            if death is None:
                self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            else:
                self._retry(self.storage.get_trial(trial._trial_id), death)

        self._decided(decide)

    def go_on_one_by_one(self, sweep: str) -> None:
        """Has those workers of a sweep that begin from here on run one trial at a time."""
        self.study.set_user_attr(ONE_BY_ONE, sweep)

    def goes_one_by_one(self, sweep: str) -> bool:
        """Whether they are to."""
        return self.study.user_attrs.get(ONE_BY_ONE) == sweep

    def tell(
        self,
        trial: Trial,
        worker: str,
        outcome: Outcome,
    ) -> bool:
        """Finishes a trial.

        Args:
            trial: What `claim` gave.
            worker: Who was given it.
            outcome: How it ended; a final one.

        Returns:
            False where the trial has meanwhile been given to someone else: then nothing is told.
        """
        tried = False

        def decide() -> bool:
            nonlocal tried
            stored = self.storage.get_trial(trial._trial_id)
            if tried and stored.state.is_finished() and stored.user_attrs.get(WORKER) == worker:
                # It was told, and only the acknowledgement was lost.
                return True
            if not self._belongs(trial, worker):
                log.warning("Trial %d belongs to another worker by now", trial.number)
                return False
            tried = True
            if outcome.end is End.IMPOSSIBLE:
                trial.set_user_attr(IMPOSSIBLE, True)
            if outcome.end is End.FAILED:
                trial.set_user_attr(DIVERGED, True)
            if outcome.reason:
                trial.set_user_attr(REASON, outcome.reason)
            try:
                self.study.tell(trial, outcome.values or None, outcome.end.state)
            except ValueError as error:
                trial.set_user_attr(DIVERGED, True)
                trial.set_user_attr(REASON, str(error))
                self.study.tell(trial, state=TrialState.FAIL)
            return True

        return self._decided(decide)

    def rest(self) -> Rest | None:
        """Why no trial would start now, or None where one would."""
        self._judge()
        return self._rest(self._trials())

    def is_exhausted(self) -> bool:
        """Whether every point has been tried, none waits or runs, and none would be tried again."""
        trials = self._trials()
        self._ledger.update(trials)
        idle = not self._ledger.counts[TrialState.RUNNING] and self._has_no_point()
        return idle and not any(map(may_end_otherwise, failures(trials)))

    def reason_to_stop(self) -> str | None:
        """What the stopping rule has said, once and for all."""
        if self._rule is None:
            return None
        stopped = self.study.user_attrs.get(STOPPED) or {}
        return stopped["reason"] if stopped.get("rule") == self._rule[1] else None

    def forget_other_rules(self) -> None:
        """Takes back that another rule has stopped the study, which goes on under this one."""
        if self.study.user_attrs.get(STOPPED) and self.reason_to_stop() is None:
            self.study.set_user_attr(STOPPED, None)

    def _judge(self) -> None:
        """Has the stopping rule look at what has ended since; it may take a second, so unlocked."""
        if self._rule is None or self.reason_to_stop() is not None:
            return
        finished = self.finished()
        if finished == self._judged:
            return
        self._judged = finished
        rule, name = self._rule
        if (reason := rule.reason(self.study)) is not None:
            self.study.set_user_attr(STOPPED, {"rule": name, "reason": reason})

    def finished(self) -> int:
        """How many trials count: complete and pruned."""
        self._ledger.update(self._trials())
        return self._ledger.finished

    def _trials(self) -> list[FrozenTrial]:
        """All of them, and as they are: samplers are shown others."""
        return self.storage.get_all_trials(self.study._study_id, deepcopy=False)

    def _decided(self, decision: Callable[[], T]) -> T:
        return decided(self.storage, self.study.study_name, self.directory, decision)

    def _claim(self, worker: str, dead: set[str]) -> Trial | Rest:
        trials = self._put_back_trials_of(dead, self._trials())
        claimed = self._claimed_by(worker, trials)
        if claimed is None:
            rest = self._rest(trials)
            if rest is not None:
                return rest
            claimed = self._take_waiting(worker, trials)
        if claimed is None:
            # The worker's name is on it from the beginning: should it not learn of its trial, it
            # finds it, and should it die, others do.
            named = create_trial(state=TrialState.RUNNING, user_attrs={WORKER: worker})
            claimed = self.storage.create_new_trial(self.study._study_id, named)
        # As `Study.ask`: samplers look at the trials once for each trial.
        self.study._thread_local.cached_all_trials = None
        trial = Trial(self.study, claimed)
        try:
            self.space.suggest(self._config, trial)
        except SlicewiseError as error:
            if not is_outage(error):
                # What the custom search space cannot suggest for, nobody can go on with.
                trial.set_user_attr(REASON, str(error))
                self.storage.set_trial_state_values(claimed, TrialState.FAIL)
            raise
        # Written last: the claim is complete.
        trial.set_user_attr(DIRECTORY, str(self.directory / str(trial.number)))
        return trial

    def _claimed_by(self, worker: str, trials: Sequence[FrozenTrial]) -> int | None:
        """The trial of a claim that was interrupted, as its worker runs none."""
        for trial in trials:
            if trial.state is TrialState.RUNNING and trial.user_attrs.get(WORKER) == worker:
                return trial._trial_id
        return None

    def _take_waiting(self, worker: str, trials: Sequence[FrozenTrial]) -> int | None:
        """The first trial that waits, turned RUNNING."""
        for trial in trials:
            if trial.state is not TrialState.WAITING or not self.space.holds(trial):
                continue
            # Before it runs, so that a trial of our name is found that runs without our knowing.
            with contextlib.suppress(UpdateFinishedTrialError):
                self.storage.set_trial_user_attr(trial._trial_id, WORKER, worker)
                if self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    return trial._trial_id
        return None

    def _put_back_trials_of(
        self, dead: set[str], trials: Sequence[FrozenTrial]
    ) -> Sequence[FrozenTrial]:
        """Puts back; returns the trials as they are then."""
        # The study is locked, so a trial without a name lost its worker while it was made.
        lost = [
            trial
            for trial in trials
            if trial.state is TrialState.RUNNING
            and ((name := trial.user_attrs.get(WORKER)) is None or worker_of(name) in dead)
        ]
        for trial in lost:
            self._retry(trial, f"worker {trial.user_attrs.get(WORKER)} died")
        return self._trials() if lost else trials

    def _rest(self, trials: Sequence[FrozenTrial]) -> Rest | None:
        ledger, budget = self._ledger, self.budget
        ledger.update(trials)
        if ledger.finished >= budget.n_trials:
            return Rest.BUDGET
        if self.reason_to_stop() is not None:
            return Rest.RULE
        if ledger.failed > budget.max_failures:
            return Rest.FAILURES
        if ledger.hopeless(budget.n_trials):
            return Rest.FAILURES
        if budget.deadline is not None and time.time() > budget.deadline:
            return Rest.TIMEOUT
        running = ledger.counts[TrialState.RUNNING]
        if ledger.finished + running >= budget.n_trials:
            return Rest.WAIT
        if self._has_no_point():
            return Rest.WAIT if running else Rest.EXHAUSTED
        return None

    def _has_no_point(self) -> bool:
        """Whether there is none to begin with: of the space, or one that waits."""
        waiting = self._ledger.counts[TrialState.WAITING]
        return not waiting and len(self._ledger.taken) >= self._size

    def _retry(self, trial: FrozenTrial, death: str) -> None:
        """Lets a trial wait again under which something died, unless it happened too often."""
        attempts = trial.user_attrs.get(ATTEMPTS, 0) + 1
        self.storage.set_trial_user_attr(trial._trial_id, ATTEMPTS, attempts)
        if attempts > self.budget.max_retries:
            limit = f"max_retries={self.budget.max_retries}"
            reason = f"it died {attempts} times ({limit}), the last time because {death}"
            self.storage.set_trial_user_attr(trial._trial_id, REASON, reason)
            self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            log.warning("Trial %d failed: %s", trial.number, reason)
            return
        self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
        log.warning("Trial %d waits again: %s", trial.number, death)

    def _belongs(self, trial: Trial, worker: str) -> bool:
        stored = self.storage.get_trial(trial._trial_id)
        return stored.state is TrialState.RUNNING and stored.user_attrs.get(WORKER) == worker


def quiet_optuna() -> None:
    """Without Optuna's lines on every study and trial, and its warnings on features we chose.

    Nor with SQLAlchemy's tracebacks of what it could not close tidily, after Ctrl-C or an outage:
    whoever made the call reports how it went.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    warnings.filterwarnings("ignore", message=".*`step.*is already reported.*")


def open_study(name: str, storage: BaseStorage, directions: Sequence[str]) -> optuna.Study:
    """Makes a study, or opens the one of that name; it has no sampler that may be asked.

    Raises:
        SlicewiseError: It exists with other directions.
    """
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=list(directions),  # type: ignore[arg-type]
        load_if_exists=True,
    )
    stored = [direction.name.lower() for direction in study.directions]
    if stored != list(directions):
        raise SlicewiseError(
            f"{study_override(name)} exists with hydra.sweeper.direction={stored}, not "
            f"{list(directions)}: choose another {study_override()}"
        )
    return study


def load_study(name: str, storage: BaseStorage) -> optuna.Study:
    """Opens an existing study for reading.

    Raises:
        SlicewiseError: There is none of that name.
    """
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except (KeyError, OptunaError):
        names = ", ".join(optuna.get_all_study_names(storage)) or "none yet"
        raise SlicewiseError(f"study={name}: there is no such study; there are: {names}") from None
