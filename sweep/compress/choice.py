"""The second stage: from a measured library to the plans that a budget allows."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.progress import track
from scipy.stats import spearmanr

from slicewise.encoder.candidates import num_flops, num_parameters, plain_neurons
from slicewise.encoder.plan import Candidate, Plan, absolute_budget, choose, curve
from slicewise.encoder.sliced import Block, assemble, teacher_slice
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.layers import Geometry
from sweep.compress.application import LIBRARY
from sweep.compress.measure import block_of, save_students
from sweep.compress.plans import ChosenPlan, Plans
from sweep.compress.settings import CompressSettings
from sweep.compress.workbench import Workbench, open_workbench
from sweep.trial.record import TrialRecord, record_files

log = logging.getLogger(__name__)

_MEGABYTES = "megabytes"
# Fewer say nothing about a correlation.
_FEWEST_MEASURED = 3


def choose_plans(settings: CompressSettings, folder: Path, embeddings: float) -> Plans:
    """Chooses, and writes `plans.json`; what it says already is not found out again.

    Args:
        settings: Of the compression.
        folder: Its folder, with the library's in it.
        embeddings: Megabytes of the result that no slice holds.

    Raises:
        ArgumentError: Nothing meets the budget.
        SlicewiseError: A slice has no candidate that could be measured.
    """
    bench = open_workbench(settings)
    records = read_library(folder / LIBRARY)
    library = [
        [candidate(bench, code, records[code]) for code in slice_ if code in records]
        for slice_ in bench.slices
    ]
    for span, candidates in zip(bench.spans, library, strict=True):
        if not candidates:
            raise SlicewiseError(f"{span}: none of its candidates could be measured")
    made_of = _name(settings, library, embeddings)
    try:
        known = Plans.read(folder)
        if known.made_of == made_of:
            log.info("Chosen already")
            return known
    except SlicewiseError:
        pass
    chooser = _Chooser(bench, settings, folder, embeddings)
    plans = chooser.plans(library, made_of)
    chooser.keep(plans.chosen)
    plans.write(folder)
    return plans


def check_least(settings: CompressSettings, bench: Workbench, embeddings: float) -> None:
    """Refuses a budget that no plan can meet, before any is measured; latency is not known then.

    Raises:
        ArgumentError: Says the least that is possible.
    """
    library = []
    for slice_ in bench.slices:
        candidates = []
        for proposal in slice_.values():
            parameters = num_parameters(bench.original, proposal)
            costs = {"parameters": float(parameters), _MEGABYTES: parameters * 4 / 1e6}
            if "flops" in settings.budget:
                length = settings.data.seq_length
                costs["flops"] = float(num_flops(bench.original, proposal, length))
            neurons = plain_neurons(bench.original, proposal)
            candidates.append(Candidate(proposal.span, proposal.code, 0.0, costs, neurons))
        library.append(candidates)
    original = _total([slice_[0].costs for slice_ in library])
    known = {key: bound for key, bound in settings.budget.items() if key in original}
    bounds = _bounds(known, original, bench.embedding_megabytes, embeddings)
    choose(library, bounds, 1, settings.choose.homogeneous)


def read_library(folder: Path) -> dict[str, TrialRecord]:
    """The records of the candidates that were measured, by their codes."""
    records = (TrialRecord.read(path.parent) for path in record_files(folder))
    return {
        str(record.params["candidate"]): record
        for record in records
        if record.state == "COMPLETE" and "candidate" in record.params
    }


def candidate(bench: Workbench, code: str, record: TrialRecord) -> Candidate:
    """What a plan needs to know of a candidate that was measured."""
    assert record.damage is not None
    assert record.student_parameters is not None
    proposal = bench.proposal(code)
    costs = {
        "parameters": float(record.student_parameters),
        "flops": float(record.student_flops or 0),
        "latency_ms": float(record.student_latency_ms or 0),
        _MEGABYTES: record.student_parameters * 4 / 1e6,
    }
    neurons = plain_neurons(bench.original, proposal)
    return Candidate(proposal.span, code, record.damage, costs, neurons)


class _Chooser:
    """Chooses among measured candidates, and puts plans together to see what they come to."""

    def __init__(
        self,
        bench: Workbench,
        settings: CompressSettings,
        folder: Path,
        embeddings: float,
    ) -> None:
        self.bench = bench
        self.settings = settings
        self.library_folder = folder / LIBRARY
        self.embeddings = embeddings
        self._blocks: dict[str, Block] = {}

    def plans(self, library: Sequence[Sequence[Candidate]], made_of: str) -> Plans:
        """What to heal, and what else there is to be known."""
        original = _total([slice_[0].costs for slice_ in library])
        full = self.bench.embedding_megabytes
        bounds = _bounds(self.settings.budget, original, full, self.embeddings)
        homogeneous = self.settings.choose.homogeneous
        chosen = choose(library, bounds, self.settings.choose.plans, homogeneous)
        try:
            (plain,) = choose(library, bounds, 1, homogeneous=True)
        except ArgumentError:
            plain = None
        resource = next(iter(self.settings.budget))
        over = curve(library, resource, homogeneous=homogeneous)
        told = [self._told(plan) for plan in over]
        some = self._some(told)
        put_together = [
            self._measured(plan)
            for plan in track(
                [*(self._told(plan) for plan in chosen), *(told[n] for n in some)],
                "Putting plans together",
                show_speed=False,
            )
        ]
        measured = put_together[: len(chosen)]
        for number, plan in zip(some, put_together[len(chosen) :], strict=True):
            told[number] = plan
        pairs = [
            (plan.predicted, plan.measured)
            for plan in {plan.text: plan for plan in (*measured, *told)}.values()
            if plan.measured is not None
        ]
        correlation = float(spearmanr(pairs).statistic) if len(pairs) >= _FEWEST_MEASURED else None
        return Plans(
            made_of=made_of,
            budget=_with_embeddings(bounds, self.embeddings),
            original=_with_embeddings(original, full),
            spans=[[span.first_layer, span.end - 1] for span in self.bench.spans],
            shapes=self._shapes(),
            chosen=measured,
            homogeneous=None if plain is None else self._told(plain),
            resource=resource,
            curve=told,
            rank_correlation=correlation,
            layer_reduction=[self._told(plan) for plan in self._layer_reduction(library, resource)],
        )

    def keep(self, plans: Sequence[ChosenPlan]) -> None:
        """Saves what was put together for some plans, where their healing looks for it."""
        codes = {code for plan in plans for code in plan.candidates}
        save_students(self.library_folder, {code: self._blocks[code] for code in codes})

    def _layer_reduction(self, library: Sequence[Sequence[Candidate]], resource: str) -> list[Plan]:
        """The best plans over all budgets whose layers stay whole or go; none where none is."""
        shapes = self._shapes()
        whole = [
            [c for c in slice_ if c.neurons in (0, shapes[c.span.first_layer]["neurons"])]
            for slice_ in library
        ]
        return curve(whole, resource) if all(whole) else []

    def _told(self, plan: Plan) -> ChosenPlan:
        codes = [candidate.name for candidate in plan.candidates]
        costs = {name: plan.cost(name) for name in plan.candidates[0].costs}
        costs = _with_embeddings(costs, self.embeddings)
        names = [self.bench.proposal(code).name for code in codes]
        return ChosenPlan(codes, names, costs, plan.damage, homogeneous=plan.is_homogeneous)

    def _measured(self, plan: ChosenPlan) -> ChosenPlan:
        """With the damage of the whole, put together."""
        for code in plan.candidates:
            if code not in self._blocks:
                proposal = self.bench.proposal(code)
                self._blocks[code] = block_of(self.bench, proposal, self.library_folder)
        encoder = assemble(self.bench.original, [self._blocks[code] for code in plan.candidates])
        return replace(plan, measured=self.bench.scales.observed.damage_of(encoder).damage)

    def _some(self, plans: Sequence[ChosenPlan]) -> list[int]:
        """Places of the curve's plans to measure, evenly from first to last."""
        count = min(self.settings.choose.measured, len(plans))
        return sorted({int(place) for place in np.linspace(0, len(plans) - 1, count).round()})

    def _shapes(self) -> list[dict[str, int]]:
        shapes = []
        for block in self.bench.original.block_list:
            geometry = Geometry.of(teacher_slice(self.bench.original, block.span))
            shapes.append(
                {"heads": geometry.num_attention_heads, "neurons": geometry.intermediate_size}
            )
        return shapes


def _total(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(cost[name] for cost in costs) for name in costs[0]}


def _with_embeddings(costs: Mapping[str, float], embeddings: float) -> dict[str, float]:
    """Costs of layers, and of the embeddings where they count."""
    return {key: cost + embeddings * (key == _MEGABYTES) for key, cost in costs.items()}


def _bounds(
    budget: Mapping[str, float], original: Mapping[str, float], full: float, embeddings: float
) -> dict[str, float]:
    """What is left for the layers, in the resources' own units.

    Args:
        budget: As it was given; a share of the megabytes is a share of the whole model.
        original: What the original's layers take.
        full: Megabytes of the original's embeddings.
        embeddings: Of the result's.
    """
    bounds = absolute_budget(budget, _with_embeddings(original, full))
    if _MEGABYTES in bounds:
        bounds[_MEGABYTES] -= embeddings
        if bounds[_MEGABYTES] <= 0:
            raise ArgumentError(
                f"budget.{_MEGABYTES}",
                budget[_MEGABYTES],
                f"more than {embeddings:,.1f}, which the embeddings alone take",
                "Fewer pieces of the vocabulary take less: embeddings.vocabulary=auto",
            )
    return bounds


def _name(
    settings: CompressSettings,
    library: Sequence[Sequence[Candidate]],
    embeddings: float,
) -> str:
    named = {
        "budget": settings.budget,
        "choose": asdict(settings.choose),
        "embeddings": embeddings,
        "library": [
            [[one.name, one.damage, dict(one.costs)] for one in slice_] for slice_ in library
        ],
    }
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
