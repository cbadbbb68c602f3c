"""What `hydra/launcher=local` does: one process for each job, some of them at a time.

A process is started with its share of the machine in its environment and sends back a `JobReturn`.
One that has died without is replaced. The thread that launches supervises all of them, and sleeps
until one sends something or ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.spawn import get_preparation_data, prepare
from pathlib import Path
from typing import Any, Protocol

import cloudpickle  # type: ignore[import-untyped]
from hydra.core.singleton import Singleton
from hydra.core.utils import (
    JobReturn,
    JobStatus,
    _take_job_return_handoff,
    configure_log,
    filter_overrides,
    run_job,
    setup_globals,
)
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.child import ChildProcess, let_interrupts_through
from sweep.devices import cpu_count, visible_gpus
from sweep.signals import Interrupts
from sweep.study.compose import output_directory
from sweep.trial.outcome import ProcessBroken

log = logging.getLogger(__name__)

OUTPUT_NAME = "output.log"
# The first message of a job's process; the other one is its result.
_BEGUN = b""


class LaunchSettings(Protocol):
    """The launcher's settings, and what Hydra has given it; the plugin has them.

    Attributes:
        n_jobs: Processes at a time; None: one for each job, at most one for each CPU core.
        max_restarts: How often a job is started again whose process died.
        grace: Seconds that jobs get to end after Ctrl-C, before they are killed.
        gpus_per_job: GPUs that each process sees; None: an equal share.
        hydra_context: Composes the configuration of each job.
        task_function: The application's.
        config: The configuration of the sweep.
    """

    n_jobs: int | None
    max_restarts: int
    grace: float
    gpus_per_job: int | None
    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig


def launch(
    launcher: LaunchSettings, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> list[JobReturn]:
    """Runs jobs in processes of their own, and waits for all of them.

    Args:
        launcher: Its settings, and what Hydra has given it.
        job_overrides: The overrides of each job.
        initial_job_idx: The number of the first job.

    Returns:
        What each job returned, in the order of `job_overrides`. A job that raised, or whose
        process died once too often, has failed, with the exception as its value.

    Raises:
        ArgumentError: A setting of the launcher is not allowed.
        KeyboardInterrupt: Ctrl-C or, in the main thread, SIGTERM; all processes have ended.
        BaseException: What a job raised that is not its failure but the end of all, as in
            Hydra's own launcher: its configuration cannot be composed, a callback raised, it
            called `sys.exit`. The others have been stopped.
    """
    setup_globals()
    slots = _number_of_slots(launcher, len(job_overrides))
    environments = slot_environments(slots, launcher.gpus_per_job)
    configure_log(
        launcher.config.hydra.hydra_logging,
        launcher.config.hydra.verbose,
        execution_whitelist=launcher.hydra_context.execution_whitelist,
    )
    Path(str(launcher.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    log.info(
        "Launching %s locally in %s%s",
        _counted(len(job_overrides), "job"),
        _counted(slots, "process", "processes"),
        "" if slots == 1 else f", which print to {OUTPUT_NAME} in each job's directory",
    )
    numbered = list(enumerate(job_overrides, start=initial_job_idx))
    with Interrupts() as interrupts:
        jobs = _Jobs(launcher, environments, interrupts)
        try:
            returns = jobs.run(numbered)
        finally:
            jobs.stop()
    return [returns[number] for number, _ in numbered]


def slot_environments(slots: int, gpus_per_job: int | None) -> list[dict[str, str]]:
    """The environment variables by which processes share this machine.

    Args:
        slots: How many processes there are at a time.
        gpus_per_job: How many GPUs each of them sees; None: an equal share, at least one.

    Returns:
        What to set for each; nothing for CPU threads that the user has set.

    Raises:
        ArgumentError: `gpus_per_job` is more than there are.
    """
    gpus = visible_gpus()
    share = max(1, len(gpus) // slots) if gpus_per_job is None else gpus_per_job
    if gpus_per_job is not None and not 0 <= share <= len(gpus):
        allowed = f"0 to {len(gpus)}, the number of visible GPUs; null shares them"
        raise ArgumentError("hydra.launcher.gpus_per_job", gpus_per_job, allowed)
    environments: list[dict[str, str]] = []
    for slot in range(slots):
        environment = {}
        if gpus:
            # Slots take turns: disjoint while there are enough, shared evenly where not.
            own = [gpus[(slot * share + i) % len(gpus)] for i in range(share)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
        if slots > 1 and "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, cpu_count() // slots))
        environments.append(environment)
    return environments


def _number_of_slots(launcher: LaunchSettings, jobs: int) -> int:
    """How many processes there are at a time; also checks the launcher's other numbers."""
    if launcher.n_jobs is not None and launcher.n_jobs < 1:
        raise ArgumentError("hydra.launcher.n_jobs", launcher.n_jobs, "at least 1, or null")
    if launcher.max_restarts < 0:
        raise ArgumentError("hydra.launcher.max_restarts", launcher.max_restarts, "at least 0")
    if launcher.grace < 0:
        raise ArgumentError("hydra.launcher.grace", launcher.grace, "at least 0 seconds")
    return max(1, min(jobs, launcher.n_jobs or cpu_count()))


# The side that launches.


@dataclass
class _Job:
    """A job, from its first process to its last.

    Attributes:
        number: Hydra's `job.num`.
        overrides: Those that make it different.
        directory: Where Hydra puts what it writes.
        payload: What its process needs, pickled.
        sets_variables: Whether it sets environment variables, which libraries read when they are
            loaded.
        deaths: How many of its processes have died.
    """

    number: int
    overrides: list[str]
    directory: Path
    payload: bytes
    sets_variables: bool
    deaths: int = 0


@dataclass(eq=False)
class _JobProcess:
    """A process that runs a job.

    Attributes:
        job: What it runs.
        slot: Its share of the machine.
        process: The process.
        result: The pickled result, once there is one.
    """

    job: _Job
    slot: int
    process: ChildProcess
    result: bytes | None = None
    _begun: bool = False

    def receive(self) -> bool:
        """Takes what has arrived; whether the process has ended."""
        messages, ended = self.process.receive()
        for message in messages:
            if message == _BEGUN:
                self._begun = True
            else:
                self.result = message
        if ended:
            if self.result is None:
                # Ranks and data workers that it has left behind would keep memory, and its GPU.
                self.process.kill()
            self.process.wait()
        return ended

    def could_not_begin(self) -> bool:
        """Whether Python gave up, by itself, before it came to the job."""
        code = self.process.exit_code
        return not self._begun and code is not None and code >= 0


class _Jobs:
    """Has jobs run, in slots that each have a share of the machine.

    Args:
        launcher: Its settings, and what Hydra has given it.
        environments: What to set in the environment of each slot.
        interrupts: Tells of Ctrl-C.
    """

    def __init__(
        self,
        launcher: LaunchSettings,
        environments: list[dict[str, str]],
        interrupts: Interrupts,
    ) -> None:
        self._launcher = launcher
        self._environments = environments
        self._interrupts = interrupts
        self._free = list(range(len(environments)))
        self._preparation = get_preparation_data("job")
        # Refuses to be pickled, and a job has no use for it.
        del self._preparation["authkey"]
        self._running: list[_JobProcess] = []
        self._returns: dict[int, JobReturn] = {}

    def run(self, jobs: Sequence[tuple[int, Sequence[str]]]) -> dict[int, JobReturn]:
        """Runs jobs, given by number and overrides; returns what they returned, by number."""
        waiting = deque(jobs)
        while waiting or self._running:
            while waiting and self._free and not self._interrupts.count:
                number, overrides = waiting.popleft()
                log.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
                self._start(self._prepare(number, list(overrides)), self._free.pop(0))
            ended = self._wait(None)
            if self._interrupts.count:
                raise KeyboardInterrupt
            for running in ended:
                self._conclude(running)
        return self._returns

    def stop(self) -> None:
        """Ends the processes that still run: politely, and by force after the grace period."""
        if not self._running:
            return
        grace = self._launcher.grace
        jobs = _counted(len(self._running), "job")
        log.warning("Stopping %s within %g s; Ctrl-C kills at once", jobs, grace)
        # The Ctrl-C that brought us here, if one did, asked for this; only another one kills.
        asked = min(self._interrupts.count, 1)
        deadline = time.monotonic() + grace
        try:
            for running in self._running:
                running.process.interrupt()
            while self._running and self._interrupts.count <= asked:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._wait(left)
        finally:
            for running in self._running:
                running.process.kill()
            for running in self._running:
                running.process.wait()
            self._running = []

    def _prepare(self, number: int, overrides: list[str]) -> _Job:
        """Composes a job's configuration and pickles what its process needs."""
        context = self._launcher.hydra_context
        config = context.config_loader.load_sweep_config(self._launcher.config, overrides)
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        directory = output_directory(config)
        content = _Payload(Singleton.get_state(), context, self._launcher.task_function, config)
        try:
            payload = cloudpickle.dumps(content)
        except Exception as error:
            raise SlicewiseError(
                f"job #{number} cannot be sent to another process: {error}; "
                "hydra/launcher=basic runs it in this one"
            ) from error
        return _Job(number, overrides, directory, payload, bool(config.hydra.job.env_set))

    def _start(self, job: _Job, slot: int) -> None:
        # With one process the terminal is its own; several would write over each other.
        output = job.directory / OUTPUT_NAME if len(self._environments) > 1 else None
        arguments = (self._preparation, job.payload, output)
        process = ChildProcess(
            _run_in_process, arguments, self._environments[slot], from_scratch=job.sets_variables
        )
        self._running.append(_JobProcess(job, slot, process))

    def _wait(self, seconds: float | None) -> list[_JobProcess]:
        """Waits until one sends something or ends; returns the processes that have ended."""
        handles = [handle for running in self._running for handle in running.process.handles()]
        if self._interrupts.handle in wait([self._interrupts.handle, *handles], seconds):
            self._interrupts.clear()
        ended = [running for running in self._running if running.receive()]
        self._running = [running for running in self._running if running not in ended]
        return ended

    def _conclude(self, ended: _JobProcess) -> None:
        """Takes the result of a process that has ended, or replaces it."""
        job = ended.job
        limit = self._launcher.max_restarts
        death = ended.process.death()
        if ended.could_not_begin():
            # Python has said why on the terminal, and would say it again.
            raise SlicewiseError(
                f"the process of job #{job.number} could not be set up ({death}), for the "
                "reason printed above; it imports the script, which must start its work only "
                "if __name__ == '__main__'"
            )
        if ended.result is None and job.deaths < limit:
            job.deaths += 1
            times = f"{job.deaths} of {limit} times"
            log.warning("Job #%d died (%s), is started again, %s", job.number, death, times)
            self._start(job, ended.slot)
            return
        self._free.append(ended.slot)
        if ended.result is None:
            self._returns[job.number] = _failed(job.overrides, _gave_up(job, death))
            return
        result = cloudpickle.loads(ended.result)
        if isinstance(result, _Escaped):
            raise result.job._return_value
        self._returns[job.number] = result


def _gave_up(job: _Job, death: str) -> SlicewiseError:
    """The failure of a job whose processes die."""
    times = "" if job.deaths == 0 else f" {job.deaths + 1} times"
    of = f"of {death}" if job.deaths == 0 else f"the last time of {death}"
    hint = " (a machine short of memory kills like that)" if death == "SIGKILL" else ""
    return SlicewiseError(
        f"job #{job.number} ({' '.join(filter_overrides(job.overrides))}) died{times} without a "
        f"result, {of}{hint}; its directory: {job.directory}"
    )


def _counted(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def _failed(overrides: Sequence[str], error: BaseException) -> JobReturn:
    result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
    result.return_value = error
    return result


# The side of the job.


@dataclass
class _Payload:
    """What the process of a job needs from the one that launches."""

    singletons: Any
    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig


@dataclass
class _Escaped:
    """An exception that `run_job` did not take for the failure of its job.

    As a `JobReturn`, which knows how to pickle exceptions.
    """

    job: JobReturn


def _run_in_process(
    pipe: Connection, preparation: dict[str, Any], payload: bytes, output: Path | None
) -> None:
    """What the process of a job does: runs it, and sends what it returned."""
    _import_application(preparation)
    _tell(pipe, _BEGUN)
    result: JobReturn | _Escaped
    try:
        let_interrupts_through()
        if output is not None:
            _redirect_output(output)
        # Shows where a job was that dies of a segmentation fault.
        faulthandler.enable()
        result = _run(cloudpickle.loads(payload))
        if isinstance(result._return_value, ProcessBroken):
            log.error("%s", result._return_value)
            logging.shutdown()
            # Without a result, it is replaced.
            os._exit(1)
    except BaseException as error:
        # Hydra has attached the job to it, which has it as its value: that pickles forever.
        _take_job_return_handoff(error)
        result = _Escaped(_failed([], error))
        if isinstance(error, Exception):
            # Its traceback does not travel.
            error.add_note("".join(traceback.format_exception(error)))
    # The job is over; an interrupt now could only cut its result in half.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _tell(pipe, _dumped(result))
    # Python would look for garbage in all that torch has loaded before it ends: a second.
    gc.freeze()


def _tell(pipe: Connection, message: bytes) -> None:
    # Where whoever launched has been killed, this process is told to end by other means.
    with contextlib.suppress(OSError):
        pipe.send(message)


def _import_application(preparation: dict[str, Any]) -> None:
    """Has this process find what the application defines, as in one of `multiprocessing`.

    A script without a guard would launch its jobs here once more: `get_preparation_data` refuses.
    """
    process = multiprocessing.current_process()
    process._inheriting = True  # type: ignore[attr-defined]
    try:
        prepare(preparation)
    finally:
        del process._inheriting  # type: ignore[attr-defined]


def _run(payload: _Payload) -> JobReturn:
    setup_globals()
    Singleton.set_state(payload.singletons)
    return run_job(
        hydra_context=payload.hydra_context,
        task_function=payload.task_function,
        config=payload.config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _dumped(result: JobReturn | _Escaped) -> bytes:
    try:
        return bytes(cloudpickle.dumps(result))
    except Exception as error:
        if isinstance(result, _Escaped):
            raise
        value = type(result._return_value).__name__
        result.status = JobStatus.FAILED
        result.return_value = SlicewiseError(
            f"the job returned a {value}, which cannot be sent to another process: {error}"
        )
        return bytes(cloudpickle.dumps(result))


def _redirect_output(file: Path) -> None:
    """Sends all that this process prints, from C as well, to the end of a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with file.open("ab", buffering=0) as log_file:
        os.dup2(log_file.fileno(), 1)
        os.dup2(log_file.fileno(), 2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Lines of the two keep their order, and a killed job its last words.
        sys.stdout.reconfigure(line_buffering=True)
