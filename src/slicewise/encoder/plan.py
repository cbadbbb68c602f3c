"""Which candidate for which slice: the least damage under a budget.

The damages of the slices are taken to add up, as Puzzle does (Bercovich et al. 2024,
https://arxiv.org/abs/2411.19146): then the best choice is a multiple-choice knapsack, which an
integer programme solves to the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from slicewise.encoder.sliced import Span
from slicewise.errors import ArgumentError, SlicewiseError

# How the solver says that no choice keeps to the constraints.
_INFEASIBLE = 2


@dataclass(frozen=True)
class Candidate:
    """A student for one slice, and what it is known to cost.

    Attributes:
        span: The slice.
        name: Of its own among the candidates of the slice.
        damage: One minus the cosine of the embeddings of the model with only this slice replaced
            to those of the original.
        costs: What it takes of each resource that a budget may bound, such as `parameters`.
        neurons: Of each of its layers, where a plain model of the family can hold it: whole heads,
            and the same number of neurons in all layers. 0 where it has no layers at all; None
            where a plain model cannot hold it.
    """

    span: Span
    name: str
    damage: float
    costs: Mapping[str, float] = field(hash=False)
    neurons: int | None = None


@dataclass(frozen=True)
class Plan:
    """One candidate for every slice.

    Attributes:
        candidates: First slice to last.
    """

    candidates: tuple[Candidate, ...]

    @property
    def damage(self) -> float:
        """What is predicted: the sum over the slices."""
        return math.fsum(candidate.damage for candidate in self.candidates)

    def cost(self, resource: str) -> float:
        """What all slices take of a resource."""
        return math.fsum(candidate.costs[resource] for candidate in self.candidates)

    @property
    def is_homogeneous(self) -> bool:
        """Whether a plain model of the family can hold it."""
        neurons = {candidate.neurons for candidate in self.candidates} - {0}
        return None not in neurons and len(neurons) <= 1


def choose(
    library: Sequence[Sequence[Candidate]],
    budget: Mapping[str, float],
    plans: int = 1,
    homogeneous: bool = False,
) -> list[Plan]:
    """The plans of least damage under a budget, the best first.

    Args:
        library: The candidates of each slice.
        budget: The most that all slices may take of each resource; see `absolute_budget`. Empty:
            no bound.
        plans: How many different plans; fewer are returned where there are no more.
        homogeneous: Only plans that a plain model of the family can hold: some of the layers, all
            of one width.

    At least one slice of a plan is computed: embeddings alone are no encoder.

    Raises:
        ArgumentError: No plan keeps to the budget: says the least that one could take.
        SlicewiseError: A slice has no candidates, or the solver gave up.

    Example:
        >>> spans = [Span(0, 1), Span(1, 1)]
        >>> library = [
        ...     [
        ...         Candidate(span, "kept", 0.0, {"parameters": 10}),
        ...         Candidate(span, "half", 0.1 + span.first_layer, {"parameters": 5}),
        ...         Candidate(span, "nothing", 0.9, {"parameters": 0}),
        ...     ]
        ...     for span in spans
        ... ]
        >>> for plan in choose(library, {"parameters": 15}, plans=2):
        ...     print([candidate.name for candidate in plan.candidates], plan.damage)
        ['half', 'kept'] 0.1
        ['nothing', 'kept'] 0.9
    """
    for candidates in library:
        if not candidates:
            raise SlicewiseError("a slice has no candidates: there is nothing to choose from")
    if not homogeneous:
        found = _best(library, budget, plans)
    else:
        # One programme for each width: what a width has, or no layers.
        widths = sorted({c.neurons for slice_ in library for c in slice_ if c.neurons})
        found = []
        for width in widths:
            of_width = [[c for c in slice_ if c.neurons in (0, width)] for slice_ in library]
            if all(of_width):
                found += _best(of_width, budget, plans)
        found = sorted(found, key=lambda plan: plan.damage)[:plans]
    if not found:
        raise _impossible(library, budget, homogeneous)
    return found


def curve(
    library: Sequence[Sequence[Candidate]],
    resource: str,
    points: int = 33,
    homogeneous: bool = False,
) -> list[Plan]:
    """The least damage over all budgets: the best plans, the smallest first.

    Args:
        library: The candidates of each slice.
        resource: Which one the budget is of.
        points: Budgets that are tried, evenly from the least possible to what costs most.
        homogeneous: As in `choose`.

    Returns:
        Plans, each with less damage than all that take less.
    """
    least, most = (
        sum(extreme(c.costs[resource] for c in slice_) for slice_ in library)
        for extreme in (min, max)
    )
    found: list[Plan] = []
    for bound in np.linspace(least, most, points):
        try:
            (plan,) = choose(library, {resource: float(bound)}, 1, homogeneous)
        except ArgumentError:
            # The least of homogeneous plans is more than the least of all.
            continue
        if not found or plan.damage < found[-1].damage:
            found.append(plan)
    return found


def absolute_budget(budget: Mapping[str, float], original: Mapping[str, float]) -> dict[str, float]:
    """A budget in the resources' own units.

    Args:
        budget: Numbers, or shares below 1 of what the original takes.
        original: What the original takes of each resource.

    Raises:
        ArgumentError: A number is not positive, or there is no such resource.

    Example:
        >>> absolute_budget({"parameters": 0.33, "flops": 5e6}, {"parameters": 100, "flops": 8e6})
        {'parameters': 33.0, 'flops': 5000000.0}
    """
    for resource, bound in budget.items():
        if resource not in original:
            raise ArgumentError(f"budget.{resource}", bound, f"a budget of {', '.join(original)}")
        if not 0 < bound < math.inf:
            raise ArgumentError(
                f"budget.{resource}",
                bound,
                f"a positive number, or a share below 1 of the original's {original[resource]:,}",
            )
    return {
        resource: bound * original[resource] if bound < 1 else float(bound)
        for resource, bound in budget.items()
    }


def _best(
    library: Sequence[Sequence[Candidate]], budget: Mapping[str, float], plans: int
) -> list[Plan]:
    """Up to so many plans within a budget, the least damage first; none where there is none."""
    candidates = [candidate for slice_ in library for candidate in slice_]
    place = {id(candidate): number for number, candidate in enumerate(candidates)}
    slices = np.repeat(np.arange(len(library)), [len(slice_) for slice_ in library])
    one_each = (slices == np.arange(len(library))[:, None]).astype(float)
    constraints = [LinearConstraint(one_each, 1, 1)]
    computes = np.array([candidate.neurons != 0 for candidate in candidates], dtype=float)
    constraints.append(LinearConstraint(computes[None], 1, np.inf))
    for resource, bound in budget.items():
        costs = np.array([candidate.costs[resource] for candidate in candidates])
        # In shares of the bound: the solver's tolerances are absolute.
        scale = bound or 1.0
        constraints.append(LinearConstraint(costs[None] / scale, -np.inf, bound / scale))
    found: list[Plan] = []
    while len(found) < plans:
        solution = milp(
            np.array([candidate.damage for candidate in candidates]),
            integrality=np.ones(len(candidates)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0},
        )
        if solution.status == _INFEASIBLE:
            break
        if solution.x is None:
            raise SlicewiseError(f"no plan was found: the solver says: {solution.message}")
        plan = Plan(
            tuple(
                max(slice_, key=lambda candidate: solution.x[place[id(candidate)]])
                for slice_ in library
            )
        )
        # Within the solver's tolerance is not within the budget.
        if all(plan.cost(resource) <= bound for resource, bound in budget.items()):
            found.append(plan)
        # Not this one again: at least one slice has to differ.
        chosen = np.zeros(len(candidates))
        chosen[[place[id(candidate)] for candidate in plan.candidates]] = 1
        constraints.append(LinearConstraint(chosen[None], -np.inf, len(library) - 1))
    return found


def _impossible(
    library: Sequence[Sequence[Candidate]], budget: Mapping[str, float], homogeneous: bool
) -> ArgumentError:
    """Says the least that is possible, of the first resource where it is more than the budget."""
    for resource, bound in budget.items():
        others = {name: value for name, value in budget.items() if name != resource}
        cheapest = [
            [Candidate(c.span, c.name, c.costs[resource], c.costs, c.neurons) for c in slice_]
            for slice_ in library
        ]
        try:
            (plan,) = choose(cheapest, others, 1, homogeneous)
        except ArgumentError:
            # The others alone are impossible, and are named in their turn.
            continue
        besides = f" within {_listed(others)}" if others else ""
        kind = "homogeneous plan" if homogeneous else "plan"
        return ArgumentError(
            f"budget.{resource}",
            f"{bound:,.10g}",
            f"at least {plan.cost(resource):,.10g}, the least that any {kind} takes{besides}",
        )
    return ArgumentError("budget", _listed(budget), "budgets that one plan can meet together")


def _listed(budget: Mapping[str, float]) -> str:
    return ", ".join(f"budget.{name}={bound:,.10g}" for name, bound in budget.items())
