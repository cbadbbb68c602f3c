"""One attempt at a trial: it ends in an outcome and a record, never in an error."""

from __future__ import annotations

import contextlib
import gc
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from slicewise import cuda_graph
from sweep.devices import broken_gpu
from sweep.trial.active import ActiveTrial
from sweep.trial.loggers import Trackers
from sweep.trial.outcome import (
    Crowded,
    End,
    Outcome,
    ProcessBroken,
    TrialLost,
    is_out_of_memory,
)
from sweep.trial.record import TrialRecord
from sweep.trial.run import Share
from sweep.trial.task import Task

# Of a GPU's memory, that torch may keep without use while trials run that would have to wait.
_UNUSED = 0.1
# Bytes that it kept after it had been asked for all: of graphs that are in use.
_in_use = 0


@dataclass
class Attempt:
    """What a fit works on, and fills in.

    Attributes:
        task: What is to be fitted.
        active: The trial in its study.
        record: Of the trial.
        trackers: Loggers that it opens.
    """

    task: Task
    active: ActiveTrial
    record: TrialRecord
    trackers: Trackers = field(default_factory=Trackers)
    _started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return round(time.perf_counter() - self._started, 3)


def attempt(task: Task, active: ActiveTrial, fit: Callable[[Attempt], tuple[float, ...]]) -> Share:
    """Fits, to whatever end.

    Args:
        task: What is to be fitted.
        active: The trial in its study.
        fit: Returns the objective's values.

    Returns:
        How it ended, and the record of it.
    """
    trial = Attempt(task, active, TrialRecord.begin(task, torch.get_num_threads()))
    try:
        with cuda_graph.raising(lambda error: _is_crowded(error, active)):
            outcome = Outcome(End.COMPLETE, values=fit(trial))
    except (Exception, SystemExit) as error:
        if (ending := _interrupted_by(error)) is not None:
            raise ending from None
        outcome = _outcome_of(error, active)
    # What the objective was told, where it was: the result has been saved since.
    trial.record.take_outcome(outcome, trial.record.seconds or trial.seconds)
    trial.trackers.conclude(trial.record, outcome)
    let_go(outcome, active.has_company())
    return Share(outcome, trial.record)


def let_go(outcome: Outcome, has_company: bool) -> None:
    """Has a GPU's memory free for others where a fit has ended.

    What torch keeps of it, its graphs' above all, no other process could have. To give that back
    waits for the whole GPU, and so for all that those beside it have launched: there it is put off
    until it is a tenth of the GPU's memory.

    Lightning's objects hold each other, and an error all that was at work when it was raised: the
    student, its optimizer, the batches of the validations. Until Python looks for garbage, which
    no want of a GPU's memory has it do, they would pile up from trial to trial.
    """
    global _in_use
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        error = outcome.error
        while error is not None:
            traceback.clear_frames(error.__traceback__)
            error = error.__context__
        # What is on its way on this one's stream reads memory that may be another's from here on.
        with contextlib.suppress(RuntimeError):
            torch.cuda.current_stream().synchronize()
        gc.collect()
        with contextlib.suppress(RuntimeError):
            if not has_company or _kept() > _in_use + _UNUSED * torch.cuda.mem_get_info()[1]:
                torch.cuda.empty_cache()
                _in_use = _kept()


def _kept() -> int:
    """Bytes of a GPU's memory that torch has, and no tensor."""
    return torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def _interrupted_by(error: BaseException) -> BaseException | None:
    """What was on its way through the trial, where clearing up for it failed with an error.

    Lightning takes a compression's weights off the GPU whatever ends it, which fails on a GPU that
    refuses all work. A trial that ends with its process has not failed.
    """
    context = error.__context__ if isinstance(error, Exception) else None
    while isinstance(context, Exception):
        context = context.__context__
    # What Python ends generators with, and what asks to exit, is no end of the trial from outside.
    return None if isinstance(context, (GeneratorExit, SystemExit)) else context


def _is_crowded(error: BaseException, active: ActiveTrial) -> bool:
    return is_out_of_memory(error) and active.has_company()


def _outcome_of(error: BaseException, active: ActiveTrial) -> Outcome:
    outcome = Outcome.of(error, active.params)
    if isinstance(error, SystemExit) and active.stop.is_set():
        # Lightning's answer to Ctrl-C.
        return Outcome(End.STOPPED, "stopped", error=error)
    if outcome.end.is_failure and active.is_lost():
        # What fails because another worker removes its files is no failure of the trial.
        return Outcome.of(TrialLost())
    if _is_crowded(error, active):
        return Outcome.of(Crowded())
    if outcome.end is End.CRASHED and active.has_company() and (said := broken_gpu()) is not None:
        # Any of those that run in this process may have done it.
        return Outcome.of(ProcessBroken.by(said))
    return outcome
