"""A trial that is the mean over several seeds: `objective.seeds`.

A fit of each seed, one after the other, in a folder of its own in the trial's directory. Whoever
fits one student fits these, in this process or on several ranks. A fit that has ended has left a
record, so that a trial whose worker died goes on with the seed that it was at.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from slicewise.errors import SlicewiseError
from sweep.trial.active import ActiveTrial
from sweep.trial.metrics import MEASURED
from sweep.trial.outcome import End, FitFailed, Outcome, TrialLost
from sweep.trial.record import FIT_RECORD_NAME, SEED_FOLDER, STUDENT_FOLDER, TrialRecord
from sweep.trial.run import Fit, Share
from sweep.trial.task import Part, Task

log = logging.getLogger(__name__)


class SeedTrial(ActiveTrial):
    """What one of its fits may know of a trial.

    Args:
        trial: The trial.
        is_prunable: Whether the fit's validations are reported. A step can be reported once, so
            they are of one of the fits alone: the first, whose steps all trials have.
    """

    def __init__(self, trial: ActiveTrial, is_prunable: bool) -> None:
        super().__init__(trial.stop)
        self.in_study = trial.in_study
        self.number = trial.number
        self.params = trial.params
        self.abandoned = trial.abandoned
        self._trial = trial
        self._is_prunable = is_prunable

    def check_possession(self) -> None:
        self._trial.check_possession()

    def is_lost(self) -> bool:
        return self._trial.is_lost()

    def report(
        self, value: float, step: int, known: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        if self._is_prunable:
            self._trial.report(value, step, known)

    def should_prune(self) -> bool:
        return self._is_prunable and self._trial.should_prune()


def averaged(fit: Fit, seeds: Sequence[int]) -> Fit:
    """What fits a student once for each seed, by what fits it once.

    Args:
        fit: Fits one student.
        seeds: Which; none: `fit` itself.
    """
    if not seeds:
        return fit
    return lambda task, active: _fit_all(fit, seeds, task, active)


def _fit_all(fit: Fit, seeds: Sequence[int], task: Task, active: ActiveTrial) -> Share:
    """A trial, to whatever end: of all its fits, or of the first that has another than its values.

    Pruned by Wilcoxon's test it is between two fits, of which each reports its value under the
    index of its seed; by any other pruner within the first fit.
    """
    between = active.is_pruned_between_seeds
    records: dict[int, TrialRecord] = {}
    for index, seed in enumerate(seeds):
        part = SeedTrial(active, is_prunable=index == 0 and not between)
        outcome, record = _fit_one(fit, seed, Part(index, len(seeds)), task, part)
        if outcome.end is not End.COMPLETE:
            return _ended(_of_seed(outcome, seed), records or {seed: record})
        records[seed] = record
        if between:
            active.report(outcome.values[0], index)
        if index + 1 < len(seeds):
            if active.stop.is_set():
                return Share(Outcome(End.STOPPED, f"stopped after seed {seed}"), record)
            if between and active.should_prune():
                return _ended(_pruned(task, records, len(seeds)), records)
    if active.is_lost():
        return Share(Outcome.of(TrialLost()), record)
    values = tuple(map(statistics.fmean, _by_objective(records)))
    share = _ended(Outcome(End.COMPLETE, values=values), records)
    share.record.best_seed = _keep_best(task, records)
    _say(task, share)
    return share


def _fit_one(fit: Fit, seed: int, part: Part, task: Task, active: SeedTrial) -> Share:
    """The fit of a seed; what came of it, where it has ended before."""
    directory = task.directory / SEED_FOLDER.format(seed)
    if (directory / FIT_RECORD_NAME).is_file():
        record = TrialRecord.read(directory, FIT_RECORD_NAME)
        _check_same(record, task, active, directory)
        log.info("Seed %d is finished already", seed)
        return Share(record.outcome(), record)
    directory.mkdir(parents=True, exist_ok=True)
    log.info("Seed %d, %d of %d", seed, part.index + 1, part.count)
    config = copy.deepcopy(task.config)
    with read_write(config), open_dict(config):
        config.seed = seed
    with _job_in(directory) as hydra:
        own = dataclasses.replace(task, config=config, hydra=hydra, part=part)
        share = fit(own, active)
    if share.outcome.end.is_final and not active.is_lost():
        share.record.conclude(directory, FIT_RECORD_NAME)
    return share


def _check_same(record: TrialRecord, task: Task, active: SeedTrial, directory: Path) -> None:
    """Refuses a fit of another trial than this one.

    Raises:
        SlicewiseError: It is one.
    """
    same = record.params == active.params
    if not active.in_study:
        same = record.overrides == list(task.hydra.overrides.task)
    if not same:
        raise SlicewiseError(
            f"{directory} holds a fit of another trial: choose another study=NAME, or remove it"
        )


@contextlib.contextmanager
def _job_in(directory: Path) -> Iterator[Any]:
    """Has this process's Hydra job put out its files elsewhere: loggers and callbacks ask Hydra.

    Yields:
        Hydra's part of the configuration.
    """
    instance: Any = HydraConfig.instance()
    before = instance.cfg
    config = copy.deepcopy(before)
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.runtime.output_dir = str(directory)
    instance.set_config(config)
    try:
        yield config.hydra
    finally:
        instance.cfg = before


def _ended(outcome: Outcome, records: Mapping[int, TrialRecord]) -> Share:
    """The trial's record: the means of its fits' numbers."""
    fits = list(records.values())
    record = dataclasses.replace(
        fits[0],
        **{name: _mean([getattr(one, name) for one in fits]) for name in MEASURED},
        baselines={
            name: _mean([one.baselines.get(name) for one in fits]) for name in fits[0].baselines
        },
        values=list(outcome.values) or None,
        seeds={str(seed): list(one.values or ()) for seed, one in records.items()},
    )
    if record.baselines:
        record.best_baseline = min(record.baselines, key=record.baselines.__getitem__)
    values = _by_objective(records)
    if len(records) > 1 and values:
        record.value_std = statistics.stdev(values[0])
    seconds = record.seconds or 0.0
    record.take_outcome(outcome, seconds)
    # As in the objective's value: a mean has more digits than a time that was measured.
    record.seconds = seconds
    return Share(outcome, record)


def _mean(numbers: Sequence[Any]) -> Any:
    """Of numbers that are one and the same that one, an integer where it is; None where any is."""
    if None in numbers or len(set(numbers)) == 1:
        return numbers[0] if len(set(numbers)) == 1 else None
    return statistics.fmean(numbers)


def _by_objective(records: Mapping[int, TrialRecord]) -> list[tuple[float, ...]]:
    """For each objective its value with each seed."""
    return list(zip(*(one.values or () for one in records.values()), strict=True))


def _of_seed(outcome: Outcome, seed: int) -> Outcome:
    """How a fit ended that has no value, as the end of its trial.

    What cannot be run, cannot with any seed.
    """
    if not outcome.end.is_failure or outcome.end is End.IMPOSSIBLE:
        return outcome
    reason = f"seed {seed}: {outcome.reason}"
    error = outcome.error
    if isinstance(error, FitFailed):
        error = FitFailed(reason, error.end)
    elif error is not None:
        error.add_note(f"with seed {seed}")
    return dataclasses.replace(outcome, reason=reason, error=error)


def _pruned(task: Task, records: Mapping[int, TrialRecord], count: int) -> Outcome:
    name = task.config.objective.metrics[0]
    reached = statistics.fmean(_by_objective(records)[0])
    return Outcome(
        End.PRUNED, f"pruned after {len(records)} of {count} seeds with {name} {reached:.4f}"
    )


def _keep_best(task: Task, records: Mapping[int, TrialRecord]) -> int:
    """Makes the best seed's student the trial's; which seed that is."""
    sign = -1.0 if _is_maximized(task.config) else 1.0
    values = dict(zip(records, _by_objective(records)[0], strict=True))
    best = min(values, key=lambda seed: sign * values[seed])
    source = task.directory / SEED_FOLDER.format(best) / STUDENT_FOLDER
    target, unfinished = task.directory / STUDENT_FOLDER, task.directory / f".{STUDENT_FOLDER}"
    for left in (target, unfinished):
        # Of a process that was killed before it could write the trial's record.
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(source, unfinished)
    unfinished.replace(target)
    return best


def _is_maximized(config: DictConfig) -> bool:
    """Whether large values of the (first) objective are better."""
    direction = OmegaConf.select(config, "objective.direction")
    first = direction[0] if OmegaConf.is_list(direction) else direction
    return str(first) == "maximize"


def _say(task: Task, share: Share) -> None:
    outcome, record = share
    log.info(
        "%d seeds: %s %.4f on average (standard deviation %.2g); the student is that of seed %d",
        len(record.seeds or {}),
        task.config.objective.metrics[0],
        outcome.values[0],
        record.value_std,
        record.best_seed,
    )
