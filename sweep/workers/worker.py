"""A worker: asks the study for a trial, runs it, tells the result, and asks again.

Hydra's launchers run it like any job, in `multirun/<study>/workers/<k>`; it then runs each trial
as a Hydra job of its own. It stays warm from trial to trial: what a trial loads or compiles once,
the next one finds.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import logging
import os
import secrets
import time
from asyncio import CancelledError
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job
from hydra.errors import HydraException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial

from slicewise.errors import MissingResource, SlicewiseError
from slicewise.garbage import keep_what_is_there
from slicewise.waiting import waiting_for
from sweep.any_application import AnyApplication
from sweep.command_line import speak_for
from sweep.devices import broken_gpu, started_by_torchrun
from sweep.signals import stop_on_signals
from sweep.study.attributes import ATTEMPTS, DIRECTORY, name_beside
from sweep.study.compose import TrialComposer, output_directory
from sweep.study.presence import SWEEP_HEARTBEAT_SECONDS, Presence, own_heartbeat
from sweep.study.samplers import LearningStudy
from sweep.study.shared import Budget, Rest, SharedStudy, quiet_optuna
from sweep.study.space import SearchSpace
from sweep.study.stopping import new_rule
from sweep.study.storage import open_storage
from sweep.study.suggestions import TrialSampler
from sweep.trial.active import Place, StudyTrial, activated
from sweep.trial.application_record import ApplicationRecord, outcome_of, recorded_end
from sweep.trial.outcome import (
    Crowded,
    DiskFull,
    End,
    Outcome,
    ProcessBroken,
    RankDied,
    is_out_of_space,
    reason_of,
)
from sweep.trial.pulse import told_to_viewers
from sweep.view.summary import objective_names
from sweep.workers.lookout import Lookout
from sweep.workers.mistake_of_all import mistake_of_all
from sweep.workers.side_by_side import Claimed, SideBySide, on_gpu, why_alone
from sweep.workers.turns import Seat

log = logging.getLogger(__name__)

_WAIT_SECONDS = 0.5
# Where trials stop that are asked to: this package's own, and those of other applications.
_AT_A_BATCH = "at the next batch"
_AT_A_REPORT = "at the trial's next report, or its end; once more stops at once"


@dataclass
class Worker:
    """The task that a launcher runs, once per worker.

    Args:
        config: The sweep's configuration.
        hydra_context: How Hydra composes configurations and whom it calls back.
        task_function: What runs one trial.
        space: What is searched.
        budget: When there is enough.
        storage: URL of the study's.
        study_name: Which study.
        directory: The study's folder.
        sampler: Makes Optuna's sampler in the worker.
        pruner: Makes Optuna's pruner in the worker.
        stop: The configuration of what ends the study before its budget is met.
        sweep: The sweep's name in the study.
        heartbeat: Seconds between two signs of life.
        threads: CPU threads of each of its processes; None: as the environment says.
        application: Whose task it is, where it is not this package's own.
        side_by_side: How many trials each runs side by side, at most.
        composed: Configurations of trials that the sweep has composed, see `TrialComposer`.
    """

    config: DictConfig
    hydra_context: HydraContext
    task_function: TaskFunction
    space: SearchSpace
    budget: Budget
    storage: str
    study_name: str
    directory: Path
    sampler: Callable[[], TrialSampler]
    pruner: Callable[[], optuna.pruners.BasePruner]
    stop: dict[str, Any]
    sweep: str
    heartbeat: float
    threads: int | None
    application: AnyApplication | None
    side_by_side: int = 1
    composed: dict[tuple[str, ...], bytes] = field(default_factory=dict)

    def __call__(self, worker_config: DictConfig) -> dict[str, Any]:
        """Works until there is nothing left; returns how many trials it ran and why it ended."""
        quiet_optuna()
        speak_for(None if self.application is None else self.application.text)
        if self.threads is not None:
            # Read by torch when it is imported, which the first trial does.
            os.environ["OMP_NUM_THREADS"] = str(self.threads)
        if self.side_by_side > 1:
            # Read by CUDA when it starts: a queue for each of the streams, not eight for all.
            os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
        # A replacement must not pass for the worker that died in its place.
        own_folder = Path(HydraConfig.get().runtime.output_dir)
        place = own_folder.name
        name = f"{self.sweep}/{place}-{secrets.token_hex(2)}"
        storage = open_storage(self.storage)
        study = LearningStudy(self.study_name, storage, self.sampler(), self.pruner())
        shared = SharedStudy(
            study,
            storage,
            self.directory,
            self.space,
            self.budget,
            self.config,
            (new_rule(self.stop), self.stop),
        )
        watch = Lookout(study, storage, name, self.sweep, self.heartbeat)
        sign = own_heartbeat(self.sweep)
        presence = Presence(
            study, "worker", name, sign, self.heartbeat, watch.check, SWEEP_HEARTBEAT_SECONDS
        )
        where = _AT_A_BATCH if self.application is None else _AT_A_REPORT
        with stop_on_signals(watch.stop, where), presence, told_to_viewers(own_folder):
            try:
                return self._work(name, shared, watch)
            except DiskFull as full:
                return {"trials": 0, "end": "MISTAKE", "mistake": full.told()}

    def _work(self, name: str, shared: SharedStudy, watch: Lookout) -> dict[str, Any]:
        composer = TrialComposer(self.config, self.hydra_context, self.space, self.composed)
        rehearse = getattr(self.task_function, "rehearse", None)
        if rehearse is not None:
            mistake = mistake_of_all(rehearse, composer, self.space, self.config)
            if mistake is not None:
                return {"trials": 0, "end": "MISTAKE", "mistake": mistake}
        if self.application is None and on_gpu(self.config):
            # There each trial's garbage is looked for when it ends (`sweep.trial.attempt.let_go`).
            keep_what_is_there()
        if self.side_by_side > 1:
            if not shared.goes_one_by_one(self.sweep):
                return self._work_side_by_side(name, shared, watch, composer)
            log.warning("One trial at a time: a GPU failed while several ran side by side")
        ran = 0
        while not watch.stop.is_set():
            asked = time.monotonic()
            with waiting_for("Asking the study for a trial"):
                claim = shared.claim(name, watch.dead_workers())
            if claim is Rest.WAIT:
                # Others may yet die and leave us their trial.
                watch.stop.wait(_WAIT_SECONDS)
            elif isinstance(claim, Rest):
                return {"trials": ran, "end": claim.name}
            else:
                self._run(claim, asked, name, shared, watch, composer)
                ran += 1
        return {"trials": ran, "end": "STOPPED"}

    def _work_side_by_side(
        self, name: str, shared: SharedStudy, watch: Lookout, composer: TrialComposer
    ) -> dict[str, Any]:
        """As `_work`, with several trials at a time."""
        # By their numbers: those that ran out of memory beside others. Next time they run alone:
        # should one of them be what is too large, the others need not make room once more.
        crowded: set[int] = set()

        def claim(place: int) -> Claimed | Rest:
            asked, own = time.monotonic(), name_beside(name, place)
            with waiting_for("Asking the study for a trial"):
                trial = shared.claim(own, watch.dead_workers())
            if isinstance(trial, Rest):
                return trial
            config = None
            runs_alone = trial.number in crowded
            runs_alone |= trial.user_attrs.get(ATTEMPTS, 0) >= self.budget.max_retries
            with contextlib.suppress(HydraException, OmegaConfBaseException, SlicewiseError):
                config = composer.compose(trial.params)
                runs_alone |= why_alone(config) is not None
            return Claimed(trial, own, place, asked, config, runs_alone)

        def run(claimed: Claimed, seat: Seat) -> Outcome:
            trial, asked = claimed.trial, claimed.asked
            outcome = self._run(
                trial, asked, claimed.name, shared, watch, composer, seat, claimed.config
            )
            if isinstance(outcome.error, Crowded):
                crowded.add(trial.number)
            return outcome

        side_by_side = SideBySide(
            self.side_by_side,
            on_gpu(self.config),
            claim,
            run,
            lambda claimed: shared.put_back(claimed.trial, claimed.name),
            watch.stop.is_set,
        )
        while not watch.stop.is_set():
            rest = side_by_side.work()
            if rest is Rest.WAIT:
                watch.stop.wait(_WAIT_SECONDS)
            elif rest is not None:
                return {"trials": side_by_side.ran, "end": rest.name}
        return {"trials": side_by_side.ran, "end": "STOPPED"}

    def _run(
        self,
        trial: Trial,
        claimed: float,
        name: str,
        shared: SharedStudy,
        watch: Lookout,
        composer: TrialComposer,
        place: Place | None = None,
        config: DictConfig | None = None,
    ) -> Outcome:
        """Runs one trial, claimed at a moment, to whatever end, and tells the study.

        Its place among several, and its configuration, where that has been composed.
        """
        # Two rounds of the heartbeat's thread; it takes others six heartbeats to find us dead.
        trusted = 2 * min(self.heartbeat, SWEEP_HEARTBEAT_SECONDS)
        is_ours = functools.partial(shared._belongs, trial, name)
        active = StudyTrial(trial, watch.stop, is_ours, trusted)
        active.confirm(claimed)
        active.place = place
        try:
            with watch.over(active):
                outcome = self._outcome(active, composer, config)
        except KeyboardInterrupt:
            # It leaves at once, and is no dead worker: that would count against the trial.
            shared.put_back(trial, name)
            raise
        if isinstance(outcome.error, ProcessBroken):
            shared.put_back(trial, name, "the GPU failed under several trials")
            shared.go_on_one_by_one(self.sweep)
            raise outcome.error
        if outcome.end is End.LOST:
            shared.put_back(trial, name, outcome.reason)
            if started_by_torchrun():
                # It started the ranks, and starts them again.
                raise RankDied(outcome.reason)
            return outcome
        if outcome.end is End.NO_SPACE:
            shared.put_back(trial, name)
            raise DiskFull(outcome.reason)
        if outcome.end is End.STOPPED:
            shared.put_back(trial, name)
            log.info("Trial %d stopped; it waits to be continued", trial.number)
            return outcome
        with contextlib.suppress(UpdateFinishedTrialError):  # By another worker.
            for key, value in active.attributes.items():
                trial.set_user_attr(key, value)
        told = shared.tell(trial, name, outcome)
        if told and outcome.end.is_failure:
            log.warning("Trial %d failed: %s", trial.number, outcome.reason)
        elif told and outcome.end is End.PRUNED:
            log.info("Trial %d %s", trial.number, outcome.reason)
        if outcome.end is End.CRASHED and (said := broken_gpu()) is not None:
            raise ProcessBroken.by(said)
        return outcome

    def _outcome(
        self, active: StudyTrial, composer: TrialComposer, config: DictConfig | None
    ) -> Outcome:
        """Runs the trial as a Hydra job; how it ended."""
        trial = active.trial
        try:
            if config is None:
                config = composer.compose(trial.params)
            with open_dict(config):
                config.hydra.job.id = str(trial.number)
                config.hydra.job.num = trial.number
            directory = output_directory(config)
        except (HydraException, OmegaConfBaseException, SlicewiseError) as error:
            return Outcome(End.IMPOSSIBLE, reason_of(error))
        if str(directory) != trial.user_attrs.get(DIRECTORY):
            trial.set_user_attr(DIRECTORY, str(directory))
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if is_out_of_space(error):
                return Outcome.of(error)
            allowed = f"a folder that can be made: {error.strerror}"
            return Outcome.of(MissingResource("hydra.sweep.subdir", str(directory), allowed))
        if self.application is None:
            return self._job(active, config)
        return self._recorded(active, config, directory, self.application)

    def _recorded(
        self,
        active: StudyTrial,
        config: DictConfig,
        directory: Path,
        application: AnyApplication,
    ) -> Outcome:
        """Runs the trial of another application, and leaves the record that it does not write."""
        trial = active.trial
        outcome = recorded_end(directory, trial.params)
        if outcome is not None:
            return outcome
        overrides = list(config.hydra.overrides.task)
        began = time.monotonic()
        outcome = self._job(active, config)
        seconds = time.monotonic() - began
        if outcome.end is End.PRUNED:
            outcome = dataclasses.replace(outcome, reason=_pruned(trial, outcome.reason))
        if outcome.end.is_final and not active.is_lost():
            ApplicationRecord.of(
                outcome,
                application,
                self.study_name,
                trial.number,
                trial.params,
                overrides,
                objective_names(trial.study),
                seconds,
            ).write(directory)
        return outcome

    def _job(self, active: StudyTrial, config: DictConfig) -> Outcome:
        """Runs the trial's task as a Hydra job; how it ended."""
        trial, context = active.trial, self.hydra_context
        if active.place is not None:
            context = _with_own_callbacks(context)
        with activated(active), _own_logging_after(context):
            try:
                job: JobReturn = run_job(
                    hydra_context=context,
                    task_function=_returning_ends(self.task_function, trial.params),
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
            except (SystemExit, CancelledError) as error:
                # Lightning's answer to KeyboardInterrupt, unless the trial itself wants to exit.
                return Outcome(End.STOPPED) if active.stop.is_set() else Outcome.of(error)
            except OSError as error:
                # Hydra's own files of the job could not be written.
                if is_out_of_space(error):
                    return Outcome.of(error)
                raise
        result = job._return_value
        if isinstance(result, Outcome):
            return result
        if job.status is not JobStatus.COMPLETED:
            return Outcome.of(result, trial.params)
        return outcome_of(result, len(trial.study.directions))


@contextlib.contextmanager
def _own_logging_after(hydra_context: HydraContext) -> Iterator[None]:
    """A trial points logging at its own file; afterwards it is the worker's again."""
    try:
        yield
    finally:
        hydra: Any = HydraConfig.get()
        configure_log(hydra.job_logging, hydra.verbose, hydra_context.execution_whitelist)


def _with_own_callbacks(hydra_context: HydraContext) -> HydraContext:
    """What a callback of Hydra's notes of a job, others that begin before its end do not change."""
    callbacks = copy.copy(hydra_context.callbacks)
    callbacks.callbacks = [copy.copy(callback) for callback in callbacks.callbacks]
    return dataclasses.replace(hydra_context, callbacks=callbacks)


def _pruned(trial: Trial, said: str) -> str:
    """Why a trial was pruned: what the application says, and how far it was."""
    reports = trial.study._storage.get_trial(trial._trial_id).intermediate_values
    if said or not reports:
        return f"pruned: {said}" if said else "pruned"
    step = max(reports)
    return f"pruned at step {step} with {reports[step]:.4g}"


def _returning_ends(task: TaskFunction, swept: Collection[str]) -> TaskFunction:
    """The task, which returns how it ended where it would raise but has not failed.

    To Hydra any exception is a job that failed, and it fills the trial's log with it.
    """

    @functools.wraps(task)
    def run(config: DictConfig) -> Any:
        try:
            return task(config)
        except Exception as error:
            outcome = Outcome.of(error, swept)
            if outcome.end.is_failure:
                raise
            return outcome

    return run
