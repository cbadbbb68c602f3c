"""trial.json of a trial of any application: what it was asked, what it returned, how to repeat it.

Its task function writes nothing of this: the worker does, before it tells the study.
"""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from slicewise.atomic import write_atomically
from sweep.any_application import AnyApplication
from sweep.trial.outcome import End, Outcome
from sweep.trial.provenance import commit_of, imported_versions
from sweep.trial.record import RECORD_NAME, TrialRecord

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ApplicationRecord:
    """The result of a trial of any application.

    Attributes:
        study: Name of the study.
        number: Of the trial in its study.
        state: Optuna's words: COMPLETE, PRUNED or FAIL.
        end: How it ended, by `sweep.trial.outcome.End`: of a failure, whose fault it was.
        params: The swept values.
        overrides: The command-line overrides that made this trial's configuration.
        metrics: What the values are called.
        values: What the task function returned, a number for each direction.
        seconds: Wall time of the task function.
        program, places, folder: How the application is run, and where; see `AnyApplication`.
        versions: Of Python, and of all that its process had imported.
        git_commit: Of its code, with "-dirty" where it had been changed; None outside git.
        reason: Why the trial failed or was pruned.
        traceback: Of a task function that raised.
    """

    study: str
    number: int
    state: str
    end: str
    params: dict[str, Any]
    overrides: list[str]
    metrics: list[str]
    values: list[float] | None
    seconds: float
    program: list[str]
    places: list[str]
    folder: str
    versions: dict[str, str] = field(default_factory=imported_versions)
    git_commit: str | None = None
    reason: str | None = None
    traceback: str | None = None

    @classmethod
    def of(
        cls,
        outcome: Outcome,
        application: AnyApplication,
        study: str,
        number: int,
        params: Mapping[str, Any],
        overrides: Sequence[str],
        metrics: Sequence[str],
        seconds: float,
    ) -> ApplicationRecord:
        """The record of a trial that has ended."""
        error = outcome.error if outcome.end.is_failure else None
        return cls(
            study=study,
            number=number,
            state=outcome.end.state.name,
            end=outcome.end.value,
            params=dict(params),
            overrides=list(overrides),
            metrics=list(metrics),
            values=list(outcome.values) or None,
            seconds=round(seconds, 3),
            program=list(application.program),
            places=list(application.places),
            folder=application.folder,
            git_commit=commit_of(Path(application.source)),
            reason=outcome.reason or None,
            traceback=None if error is None else "".join(traceback.format_exception(error)),
        )

    @property
    def application(self) -> AnyApplication:
        """What repeats it."""
        return AnyApplication(tuple(self.program), tuple(self.places), self.folder, self.folder)

    def outcome(self) -> Outcome:
        """How the trial ended that wrote this record."""
        return Outcome(End(self.end), self.reason or "", tuple(self.values or ()))

    def write(self, directory: Path) -> None:
        """Writes `trial.json` into a trial's directory, unless its task has one of its own."""
        path = directory / RECORD_NAME
        if path.exists() and _content(directory) is None:
            log.warning("%s is the application's own; there will be no record of the trial", path)
            return
        text = json.dumps(asdict(self), indent=2, default=str)
        write_atomically(path, f"{text}\n")


def read_record(directory: Path) -> TrialRecord | ApplicationRecord:
    """The record of a trial, whosever it is.

    Raises:
        SlicewiseError: There is no `trial.json`, or it is not one.
    """
    content = _content(directory)
    return TrialRecord.read(directory) if content is None else ApplicationRecord(**content)


def recorded_end(directory: Path, params: Mapping[str, Any]) -> Outcome | None:
    """How a trial ended here whose worker died before it could tell; None where none has ended."""
    content = _content(directory)
    if content is None or content["params"] != json.loads(json.dumps(params, default=str)):
        return None
    log.info("Finished already: %s", directory)
    return ApplicationRecord(**content).outcome()


def outcome_of(result: Any, directions: int) -> Outcome:
    """The outcome of a task function that returned.

    Args:
        result: What it returned: a number, or several.
        directions: How many the study wants.
    """
    several = directions > 1 or (isinstance(result, Sequence) and not isinstance(result, str))
    try:
        if several and (isinstance(result, str) or not isinstance(result, Iterable)):
            raise TypeError
        values = tuple(float(value) for value in (result if several else [result]))
    except (TypeError, ValueError):
        values = ()
    if len(values) != directions:
        wanted = "a number" if directions == 1 else f"{directions} numbers, one for each direction"
        return Outcome(End.CRASHED, f"it returned {_short(result)}, not {wanted}")
    if any(math.isnan(value) for value in values):
        return Outcome(End.FAILED, f"it returned {_short(result)}")
    return Outcome(End.COMPLETE, values=values)


def _short(result: Any) -> str:
    text = " ".join(repr(result).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _content(directory: Path) -> dict[str, Any] | None:
    """What a record of this kind holds; None where there is none."""
    try:
        content = json.loads((directory / RECORD_NAME).read_text())
        ApplicationRecord(**content)
    except (OSError, ValueError, TypeError):
        return None
    return dict(content)
