"""What the report of a compression is made of: the files in its folder, read once.

Whatever is not there yet is not reported: a library that nothing was chosen from has no report but
its own.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from slicewise.errors import SlicewiseError
from sweep.compress.application import HEALING, LIBRARY
from sweep.compress.codes import Kept, read_code
from sweep.compress.plans import ChosenPlan, Plans
from sweep.compress.result import Result
from sweep.trial.metrics import METRICS_NAME
from sweep.trial.record import TrialRecord, record_files
from sweep.trial.rows import read_rows

log = logging.getLogger(__name__)

# By step, in the order of the steps.
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Candidate:
    """A candidate of the library that was measured.

    Attributes:
        code: As plans name it.
        kept: What it stands for.
        record: Of its trial.
        directory: Of its trial.
    """

    code: str
    kept: Kept
    record: TrialRecord
    directory: Path


@dataclass(frozen=True)
class Healing:
    """A trial of a healing, ended or not.

    Attributes:
        directory: Its folder.
        plan: What it heals, as the configuration has it.
        record: None: it has not ended.
        curves: What was logged, by name.
    """

    directory: Path
    plan: str
    record: TrialRecord | None
    curves: dict[str, Curve]

    @property
    def name(self) -> str:
        """Its folder, from that of the compression."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def state(self) -> str:
        """How it ended."""
        return "not finished" if self.record is None else self.record.state.lower()

    @property
    def damage(self) -> float | None:
        """What it has come to; of a trial that was not finished the last validation."""
        if self.record is not None and self.record.damage is not None:
            return self.record.damage
        curve = self.curves.get("valid_damage")
        return curve[-1][1] if curve else None


@dataclass(frozen=True)
class Compression:
    """A compression, as far as it has come.

    Attributes:
        folder: Where it lies.
        place: The report's folder, to which links are relative.
        plans: What was chosen.
        result: What came out of these plans; None: nothing yet.
        candidates: Of the library, first slice to last.
        failed: Trials of the library that measured nothing.
        healings: Of these plans and of earlier ones.
        written: When it was read.
    """

    folder: Path
    place: Path
    plans: Plans
    result: Result | None
    candidates: list[Candidate]
    failed: list[TrialRecord]
    healings: list[Healing]
    written: datetime

    @property
    def name(self) -> str:
        """Of the whole."""
        if self.result is not None:
            return self.result.study
        studies = (candidate.record.study for candidate in self.candidates)
        return next(studies, f"{self.folder.name}/").rpartition("/")[0]

    @property
    def plan(self) -> ChosenPlan:
        """That of the result, or else the best that was chosen."""
        if self.result is None:
            return self.plans.chosen[0]
        text = " ".join(self.result.candidates)
        return next(plan for plan in self.plans.chosen if plan.text == text)

    @property
    def kept(self) -> list[Kept]:
        """What that plan has in the place of each slice."""
        spans = self.plans.spans
        return [read_code(c, [s]) for c, s in zip(self.plan.candidates, spans, strict=True)]

    @cached_property
    def by_code(self) -> dict[str, Candidate]:
        """The candidates of the library."""
        return {candidate.code: candidate for candidate in self.candidates}

    @cached_property
    def measured(self) -> list[ChosenPlan]:
        """Plans of which the damage of the whole is known, each once, the least predicted first."""
        known = {plan.text: plan for plan in (*self.plans.curve, *self.plans.chosen)}
        measured = [plan for plan in known.values() if plan.measured is not None]
        return sorted(measured, key=lambda plan: plan.predicted)

    def number(self, plan: str) -> int | None:
        """Of a chosen plan; None: it is none."""
        texts = [chosen.text for chosen in self.plans.chosen]
        return texts.index(plan) if plan in texts else None

    def healed(self, plan: ChosenPlan) -> Healing | None:
        """The healing of a plan: the result's, or else the one with the least damage."""
        found = [healing for healing in self.healings if healing.plan == plan.text]
        if self.result is not None:
            own = [healing for healing in found if healing.name == self.result.healed]
            if own:
                return own[0]
        return min(found, key=_damage_of, default=None)

    @property
    def records(self) -> list[dict[str, Any]]:
        """Of all trials that have ended."""
        ended = [h.record for h in self.healings if h.record is not None]
        return [asdict(record) for record in (*(c.record for c in self.candidates), *ended)]


def read_compression(folder: Path, place: Path | None = None) -> Compression:
    """Reads the folder of a compression.

    Args:
        folder: Which.
        place: Where the report goes; None: there.

    Raises:
        SlicewiseError: Nothing was chosen there, or plans.json is damaged.
    """
    plans = Plans.read(folder)
    if not plans.chosen:
        raise SlicewiseError(f"{folder}: no plan was chosen")
    candidates, failed = _read_library(folder / LIBRARY, plans)
    return Compression(
        folder=folder.absolute(),
        place=(place or folder).absolute(),
        plans=plans,
        result=_read_result(folder, plans),
        candidates=candidates,
        failed=failed,
        healings=[
            _read_healing(directory)
            for healing in sorted(folder.glob(f"{HEALING}-*"))
            for directory in sorted(healing.glob("[0-9]*"), key=lambda path: path.name.zfill(9))
            if directory.is_dir()
        ],
        written=datetime.now().astimezone(),
    )


def _read_result(folder: Path, plans: Plans) -> Result | None:
    try:
        result = Result.read(folder)
    except SlicewiseError:
        return None
    # Another choice, of another budget, has been made meanwhile.
    current = " ".join(result.candidates) in {plan.text for plan in plans.chosen}
    return result if current else None


def _read_library(folder: Path, plans: Plans) -> tuple[list[Candidate], list[TrialRecord]]:
    candidates, failed = [], []
    for path in record_files(folder):
        try:
            record = TrialRecord.read(path.parent)
            code = str(record.params["candidate"])
            kept = read_code(code, plans.spans)
        except (SlicewiseError, KeyError, ValueError) as error:
            # A damaged record, or one of other slices: the report is of the rest.
            log.warning("Left out: %s: %s", path.parent, error)
            continue
        if record.state == "COMPLETE":
            candidates.append(Candidate(code, kept, record, path.parent))
        else:
            failed.append(record)
    candidates.sort(key=lambda c: (c.kept.first, -(c.record.student_parameters or 0), c.code))
    return candidates, failed


def _read_healing(directory: Path) -> Healing:
    record, plan = None, ""
    try:
        record = TrialRecord.read(directory)
        plan = str(record.params.get("plan", ""))
    except SlicewiseError:
        try:
            config = OmegaConf.load(directory / ".hydra" / "config.yaml")
            plan = str(OmegaConf.select(config, "plan"))
        except (OSError, OmegaConfBaseException, ValueError):
            log.warning("Not known what is healed in %s", directory)
    return Healing(directory, plan, record, _read_curves(directory / METRICS_NAME))


def _read_curves(path: Path) -> dict[str, Curve]:
    """All columns of a metrics.csv, by optimizer steps done; of a step twice, the last counts."""
    found: dict[str, dict[int, float]] = {}
    try:
        for row in read_rows(path):
            step = int(row.pop("step")) + 1
            row.pop("epoch", None)
            for name, value in row.items():
                found.setdefault(name, {})[step] = float(value)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {name: sorted(points.items()) for name, points in found.items()}


def _damage_of(healing: Healing) -> float:
    return float("inf") if healing.damage is None else healing.damage
