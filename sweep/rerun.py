"""python -m sweep.rerun multirun/STUDY/NUMBER: repeat a trial from its saved configuration.

The configuration is composed again from the application's own and the saved overrides, and the
saved values are laid over it (hydra #3248): what the application no longer knows then shows as an
error, and defaults that have changed since do not change the trial.

A trial that was pruned ends where it did then, and one whose loss was no number fails again.

A trial of another application is run by that one's own command: `sweep.trial.repeat`.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import math
import os
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from optuna import TrialPruned

from slicewise.errors import SlicewiseError
from sweep import application
from sweep.compress import application as compress
from sweep.console import Interrupted, exit_code_of
from sweep.overrides import override_text
from sweep.passwords import leave_out_password
from sweep.resolvers import register_resolvers
from sweep.signals import stop_on_signals
from sweep.streams import settle_streams
from sweep.study.places import rerun_command
from sweep.trial.active import ActiveTrial, activated
from sweep.trial.application_record import ApplicationRecord, read_record
from sweep.trial.outcome import FitFailed, TrialStopped
from sweep.trial.record import RECORD_NAME, TrialRecord, record_files
from sweep.trial.repeat import repeat

Record = TrialRecord | ApplicationRecord

# What runs a trial, by the name of its configuration.
_PROGRAMS = {
    application.CONFIG_NAME: application.run,
    compress.CONFIG_NAME: compress.run,
}

IDENTICAL = 0
DIFFERENT = 3


@dataclass
class Comparison:
    """A trial and its repetition.

    Attributes:
        before: What the trial came to, by the names of what is compared.
        after: What the repetition came to.
        changes: What is not as it was, in words: versions, hardware, code.
        directory: Where the repetition lies.
    """

    before: dict[str, float]
    after: dict[str, float]
    changes: list[str]
    directory: Path

    @property
    def identical(self) -> bool:
        """To the bit."""
        return self.before.keys() == self.after.keys() and all(
            _same(before, self.after[name]) for name, before in self.before.items()
        )

    def within(self, tolerance: float) -> bool:
        """Whether no value differs by more than a share of the original's."""
        return all(
            name in self.after and _same(before, self.after[name], tolerance)
            for name, before in self.before.items()
        )


class Repetition(ActiveTrial):
    """A trial of no study, which ends where the study's pruner ended another.

    Args:
        original: The other.
    """

    def __init__(self, original: TrialRecord) -> None:
        super().__init__(threading.Event())
        self._is_pruned = original.state == "PRUNED"
        # Of fits that were all done, each has its values.
        self._seeds = len(original.seeds or {}) if all((original.seeds or {}).values()) else 0
        self._last = (self._seeds - 1) if self._seeds else (original.steps or 0)
        self._step = -1

    @property
    def is_pruned_between_seeds(self) -> bool:
        return self._is_pruned and self._seeds > 0

    def report(
        self, value: float, step: int, known: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        self._step = step

    def should_prune(self) -> bool:
        return self._is_pruned and self._step >= self._last


def rerun(directory: Path) -> Comparison:
    """Repeats the trial of a directory, or the best trial of a study's directory.

    Raises:
        SlicewiseError: It is neither, or its configuration no longer fits the application.
    """
    trial = find_trial(directory)
    original = read_record(trial)
    if isinstance(original, ApplicationRecord):
        return _rerun_by_its_command(trial, original)
    loss = _loss_of(original)
    if getattr(original, loss) is None:
        raise SlicewiseError(f"{trial}: trial {original.number} has no {loss}: {original.reason}")
    # Sums depend on how many threads make them, here or in ranks.
    os.environ["OMP_NUM_THREADS"] = str(original.threads)
    import torch

    torch.set_num_threads(original.threads)
    target = _new_directory(trial)
    repeated = _run(trial, target, original)
    before, after = _compared(original, loss), _compared(repeated, loss)
    return Comparison(before, after, _changes(original, repeated), target)


def _rerun_by_its_command(trial: Path, original: ApplicationRecord) -> Comparison:
    """Repeats a trial of another application."""
    if original.values is None:
        raise SlicewiseError(
            f"{trial}: trial {original.number} has no value to compare: {original.reason}"
        )
    target = _new_directory(trial)
    repeated = repeat(trial, original, target)
    assert repeated.values is not None
    before = dict(zip(original.metrics, original.values, strict=True))
    after = dict(zip(original.metrics, repeated.values, strict=True))
    return Comparison(before, after, _changes(original, repeated), target)


def find_trial(directory: Path) -> Path:
    """The trial's directory itself, or the best trial's of a study's directory.

    Raises:
        SlicewiseError: It is neither.
    """
    if (directory / RECORD_NAME).is_file():
        return directory
    records = [(read_record(path.parent), path.parent) for path in record_files(directory)]
    complete = [(record, place) for record, place in records if record.state == "COMPLETE"]
    if not complete and records:
        raise SlicewiseError(
            f"{directory}: none of its trials is complete, so none is the best\n"
            f"To repeat one of them: {rerun_command(records[-1][1])}"
        )
    if not complete:
        raise SlicewiseError(
            f"{directory} is neither a finished trial (it has no {RECORD_NAME}) nor a study with "
            "one\nA trial's directory is multirun/<study>/<number>"
        )
    sign = -1.0 if _is_maximized(complete[0][1]) else 1.0

    def rank(found: tuple[Record, Path]) -> tuple[float, int]:
        # Of equals the first, which a sweep calls the best too.
        record = found[0]
        return sign * (record.values or [math.inf])[0], record.number

    return min(complete, key=rank)[1]


def _is_maximized(trial: Path) -> bool:
    """Whether the study of a trial looks for the largest (first) value of its objective."""
    from omegaconf import OmegaConf

    _, config = _saved(trial)
    both = OmegaConf.merge(config, OmegaConf.load(trial / ".hydra" / "hydra.yaml"))
    direction = OmegaConf.select(both, "hydra.sweeper.direction")
    first = direction[0] if OmegaConf.is_list(direction) else direction
    return str(getattr(first, "name", first)) == "maximize"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.rerun",
        description="Repeat a trial from its saved configuration, and compare. "
        "Exit code 0: the same loss; 3: another; 1: it could not be repeated.",
    )
    parser.add_argument(
        "directory",
        type=Path,
        help="multirun/STUDY/NUMBER; multirun/STUDY means its best trial",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        help="share by which the losses may differ where versions or hardware do "
        "(default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        comparison = rerun(options.directory)
    except (Exception, KeyboardInterrupt) as error:
        return exit_code_of(error)
    return _verdict(comparison, options.tolerance)


def _verdict(comparison: Comparison, tolerance: float) -> int:
    for said, values, where in (
        ("original", comparison.before, ""),
        ("repeated", comparison.after, f"   {comparison.directory}"),
    ):
        shown = ", ".join(f"{name} {value!r}" for name, value in values.items())
        print(f"{said}  {shown}{where}")
    if comparison.identical:
        print("Identical to the bit.")
        return IDENTICAL
    if not comparison.changes:
        print("DIFFERENT, on the same machine and versions.")
        return DIFFERENT
    print("Not the same as then:", *comparison.changes, sep="\n  ")
    if comparison.within(tolerance):
        print(f"Different, but within --tolerance {tolerance}.")
        return IDENTICAL
    print(f"DIFFERENT, by more than --tolerance {tolerance}.")
    return DIFFERENT


def _run(trial: Path, target: Path, original: TrialRecord) -> TrialRecord:
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    register_resolvers()
    overrides, saved = _saved(trial)
    name = _config_name(trial)
    with initialize_config_dir(str(application.config_directory()), job_name="sweep"):
        config = compose(
            name,
            [
                *overrides,
                *_searched(trial),
                f"hydra.run.dir={override_text(str(target.absolute()))}",
            ],
            return_hydra_config=True,
        )
        with open_dict(config):
            config.hydra.runtime.output_dir = str(target.absolute())
            leave_out_password(config.hydra)
            hydra = config.pop("hydra")
        try:
            merged = OmegaConf.merge(config, saved)
            assert isinstance(merged, DictConfig)
            if original.precision is not None:
                merged.trainer.precision = original.precision
        except OmegaConfBaseException as error:
            raise SlicewiseError(f"{trial}: its configuration no longer fits: {error}") from error
        HydraConfig.instance().set_config(OmegaConf.create({"hydra": hydra}))
        metadata = target / ".hydra"
        metadata.mkdir(parents=True)
        OmegaConf.save(merged, metadata / "config.yaml")
        OmegaConf.save(OmegaConf.create({"hydra": hydra}), metadata / "hydra.yaml")
        OmegaConf.save(OmegaConf.create(overrides), metadata / "overrides.yaml")
        again = Repetition(original)
        try:
            with stop_on_signals(again.stop), activated(again):
                _PROGRAMS[name](merged)
        except TrialStopped:
            raise Interrupted(f"Stopped. To begin anew: {rerun_command(trial)}") from None
        except (TrialPruned, FitFailed):
            # What it had come to by then is in its record.
            pass
    return TrialRecord.read(target)


def _saved(trial: Path) -> tuple[list[str], Any]:
    """The overrides and the configuration that Hydra saved beside a trial."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    metadata = trial / ".hydra"
    try:
        overrides = list(OmegaConf.load(metadata / "overrides.yaml"))
        return [str(item) for item in overrides], OmegaConf.load(metadata / "config.yaml")
    except (OSError, YAMLError) as error:
        raise SlicewiseError(f"{trial} cannot be repeated: {error}") from error


def _config_name(trial: Path) -> str:
    """Which program's trial it is, by the name of its configuration."""
    from omegaconf import OmegaConf

    saved = trial / ".hydra" / "hydra.yaml"
    config = OmegaConf.load(saved) if saved.is_file() else OmegaConf.create()
    name = str(OmegaConf.select(config, "hydra.job.config_name"))
    # One of the user's own is a front door to the first program.
    return name if name in _PROGRAMS else application.CONFIG_NAME


def _is_compared(package: str, before: Record, after: Record) -> bool:
    """Whether it says something that a record has another version of a package, or none.

    Another application's process has imported what its sweep needs, or has not.
    """
    of_application = isinstance(before, ApplicationRecord)
    return not of_application or (package in before.versions and package in after.versions)


def _loss_of(record: TrialRecord) -> str:
    """What a trial is compared by."""
    return "valid_l1" if record.damage is None else "damage"


def _same(before: float, after: float, tolerance: float = 0.0) -> bool:
    """Whether two values are one, up to a share of the first; what is no number is itself."""
    if math.isnan(before) or math.isnan(after):
        return math.isnan(before) and math.isnan(after)
    return before == after or abs(after - before) <= tolerance * abs(before)


def _compared(record: TrialRecord, loss: str) -> dict[str, float]:
    """What a trial came to: its loss, and where that is a mean, what each seed came to."""
    seeds = {f"seed {seed}": values[0] for seed, values in (record.seeds or {}).items() if values}
    return {loss: getattr(record, loss), **seeds}


def _searched(trial: Path) -> list[str]:
    """The override by which files of the user's own are found again: `--config-dir`, search paths.

    Raises:
        SlicewiseError: Their folder is gone.
    """
    from omegaconf import OmegaConf

    saved = trial / ".hydra" / "hydra.yaml"
    if not saved.is_file():
        return []
    sources = OmegaConf.select(OmegaConf.load(saved), "hydra.runtime.config_sources") or []
    own = [
        str(source.path)
        for source in sources
        if source.schema == "file" and source.provider not in ("main", "hydra")
    ]
    gone = [path for path in own if not Path(path).is_dir()]
    if gone:
        raise SlicewiseError(
            f"{trial} cannot be repeated: its configuration was composed with files of {gone[0]}, "
            "which is not there"
        )
    paths = ",".join(override_text(f"file://{path}") for path in own)
    return [f"hydra.searchpath=[{paths}]"] if own else []


def _new_directory(trial: Path) -> Path:
    number = 1
    while (target := trial / f"rerun-{number}").exists():
        number += 1
    return target


def _changes(before: Record, after: Record) -> list[str]:
    changes = [
        f"{name}: was {before.versions.get(name, 'absent')}, "
        f"is {after.versions.get(name, 'absent')}"
        for name in sorted({*before.versions, *after.versions})
        if before.versions.get(name) != after.versions.get(name)
        and _is_compared(name, before, after)
    ]
    for name in ("hardware", "git_commit"):
        was, now = getattr(before, name, None), getattr(after, name, None)
        if was != now:
            changes.append(f"{name}: was {was}, is {now}")
    return changes


if __name__ == "__main__":
    settle_streams()
    # Python would look for garbage in all that is loaded before it ends: a second.
    atexit.register(gc.freeze)
    sys.exit(main())
