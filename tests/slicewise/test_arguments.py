from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicewise.arguments import (
    check_integers,
    check_multiple,
    check_numbers,
    check_probabilities,
)
from slicewise.errors import ArgumentError


def _refused(check: Callable[..., None], *arguments: Any, **named: Any) -> str | None:
    """The name of the argument that is refused; None where all are allowed."""
    try:
        check(*arguments, **named)
    except ArgumentError as error:
        return error.name
    return None


@given(st.integers(0, 3), st.integers(), st.integers())
def test_integers(smallest: int, first: int, second: int) -> None:
    too_small = [n for n, v in (("first", first), ("second", second)) if v < smallest]
    expected = too_small[0] if too_small else None
    assert _refused(check_integers, smallest, first=first, second=second) == expected


@given(st.floats())
def test_numbers_and_probabilities(value: float) -> None:
    assert (_refused(check_numbers, 0, x=value) is None) == (value >= 0)
    assert (_refused(check_probabilities, x=value) is None) == (0 <= value < 1)


@pytest.mark.parametrize("value", [None, "1", "", True, [1], {}, 1j])
def test_what_is_no_number_is_none_of_them(value: object) -> None:
    assert _refused(check_integers, 0, x=value) == "x"
    assert _refused(check_numbers, 0, x=value) == "x"
    assert _refused(check_probabilities, x=value) == "x"


@pytest.mark.parametrize("value", [2.0, 2.5, math.inf, math.nan])
def test_a_float_is_no_integer(value: float) -> None:
    assert _refused(check_integers, 0, x=value) == "x"


@given(st.integers(1, 1000), st.integers(1, 50))
def test_the_multiple_that_is_proposed_is_one_and_near(value: int, number: int) -> None:
    if value % number == 0:
        check_multiple("x", value, "y", number)
        return
    with pytest.raises(ArgumentError) as caught:
        check_multiple("x", value, "y", number)
    proposed = int(str(caught.value).rpartition(" ")[2])
    check_multiple("x", proposed, "y", number)
    assert proposed > 0
    assert abs(proposed - value) < number
