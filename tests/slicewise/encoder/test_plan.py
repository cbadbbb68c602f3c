"""Plans: the best under a budget, by brute force; many slices in seconds; what is impossible."""

from __future__ import annotations

import itertools
import math
import random
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from slicewise.encoder.plan import Candidate, Plan, absolute_budget, choose, curve
from slicewise.encoder.sliced import Span
from slicewise.errors import ArgumentError, SlicewiseError

Library = list[list[Candidate]]

COSTS = st.integers(0, 20)
NEURONS = st.sampled_from([None, 0, 8, 16])


@st.composite
def libraries(draw: st.DrawFn) -> Library:
    return [
        [
            Candidate(
                Span(number, 1),
                str(name),
                draw(st.integers(0, 1000)) / 1000,
                {"parameters": draw(COSTS), "flops": draw(COSTS)},
                draw(NEURONS),
            )
            for name in range(draw(st.integers(1, 4)))
        ]
        for number in range(draw(st.integers(1, 4)))
    ]


def _all_within(library: Library, budget: dict[str, float], homogeneous: bool) -> list[Plan]:
    plans = [Plan(chosen) for chosen in itertools.product(*library)]
    return sorted(
        (
            plan
            for plan in plans
            if all(plan.cost(name) <= bound for name, bound in budget.items())
            and (plan.is_homogeneous or not homogeneous)
            and any(candidate.neurons != 0 for candidate in plan.candidates)
        ),
        key=lambda plan: plan.damage,
    )


@settings(max_examples=60, deadline=None)
@given(
    library=libraries(),
    parameters=st.integers(1, 60),
    flops=st.none() | st.integers(1, 60),
    number=st.integers(1, 5),
    homogeneous=st.booleans(),
)
def test_plans_are_the_best_there_are(
    library: Library, parameters: int, flops: int | None, number: int, homogeneous: bool
) -> None:
    budget: dict[str, float] = {"parameters": parameters}
    if flops is not None:
        budget["flops"] = flops
    expected = _all_within(library, budget, homogeneous)
    if not expected:
        with pytest.raises(ArgumentError, match=r"at least|together"):
            choose(library, budget, number, homogeneous)
        return
    plans = choose(library, budget, number, homogeneous)
    assert [plan.damage for plan in plans] == pytest.approx(
        [plan.damage for plan in expected[:number]], abs=1e-9
    )
    assert len(set(plans)) == len(plans)
    assert all(plan in expected for plan in plans)


@settings(max_examples=30, deadline=None)
@given(library=libraries(), homogeneous=st.booleans())
def test_the_least_that_is_said_is_possible_and_a_little_less_is_not(
    library: Library, homogeneous: bool
) -> None:
    feasible = _all_within(library, {}, homogeneous)
    assume(feasible)
    least = min(plan.cost("parameters") for plan in feasible)
    assume(least >= 1)
    choose(library, {"parameters": least}, homogeneous=homogeneous)
    with pytest.raises(ArgumentError, match=f"at least {least:g}, the least that any"):
        choose(library, {"parameters": least - 0.5}, homogeneous=homogeneous)


@settings(max_examples=20, deadline=None)
@given(library=libraries(), homogeneous=st.booleans())
def test_along_the_curve_more_costs_less_damage(library: Library, homogeneous: bool) -> None:
    plans = curve(library, "parameters", 9, homogeneous)
    for smaller, larger in itertools.pairwise(plans):
        assert smaller.damage > larger.damage
        assert smaller.cost("parameters") < larger.cost("parameters")
    possible = _all_within(library, {}, homogeneous)
    assert bool(plans) == bool(possible)
    if possible:
        assert plans[-1].damage == pytest.approx(possible[0].damage)


def test_budgets_that_exclude_each_other_are_named() -> None:
    span = Span(0, 1)
    library = [
        [
            Candidate(span, "small", 0.1, {"parameters": 1, "flops": 9}),
            Candidate(span, "fast", 0.1, {"parameters": 9, "flops": 1}),
        ]
    ]
    with pytest.raises(ArgumentError) as raised:
        choose(library, {"parameters": 5, "flops": 5})
    assert str(raised.value) == (
        "budget.parameters=5: allowed: at least 9, the least that any plan takes within "
        "budget.flops=5"
    )


def test_24_slices_of_40_candidates_take_seconds() -> None:
    """As many as a large encoder has: a layer a slice, and widths that wear it down."""
    generator = random.Random(0)
    library = []
    for number in range(24):
        hurt = generator.uniform(0.02, 0.3)
        library.append(
            [
                Candidate(
                    Span(number, 1),
                    str(k),
                    hurt * (1 - k / 39) ** generator.uniform(1, 3) * generator.uniform(0.9, 1.1),
                    {"parameters": 7_087_872 * k // 39, "flops": generator.uniform(0.9, 1.1) * k},
                    3072 * k // 39,
                )
                for k in range(40)
            ]
        )
    started = time.process_time()
    plans = choose(library, {"parameters": 0.33 * 24 * 7_087_872, "flops": 0.4 * 24 * 39}, 5)
    taken = time.process_time() - started
    assert len(plans) == 5
    assert taken < 5
    homogeneous = choose(library, {"parameters": 0.33 * 24 * 7_087_872}, 1, homogeneous=True)
    assert homogeneous[0].is_homogeneous
    assert homogeneous[0].damage >= plans[0].damage - 1e-9


def test_a_budget_is_a_number_or_a_share() -> None:
    original = {"parameters": 200.0, "megabytes": 50.0}
    assert absolute_budget({"parameters": 0.25, "megabytes": 1}, original) == {
        "parameters": 50.0,
        "megabytes": 1.0,
    }
    for bound in (0, -1, math.nan, math.inf):
        with pytest.raises(ArgumentError, match=r"below 1 of the original's 200"):
            absolute_budget({"parameters": bound}, original)
    with pytest.raises(ArgumentError, match=r"budget\.latency=1: allowed: a budget of parameters"):
        absolute_budget({"latency": 1}, original)


def test_a_slice_without_candidates_is_refused() -> None:
    with pytest.raises(SlicewiseError, match="no candidates"):
        choose([[]], {})
