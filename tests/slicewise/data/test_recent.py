"""The last few batches and targets: what is found is what was made."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from slicewise.data.recent import Recent

NAMES = st.integers(0, 4)
ACTS = st.tuples(st.sampled_from(["need", "write"]), NAMES)


@given(st.integers(0, 3), st.integers(0, 30), st.lists(ACTS, max_size=20))
def test_each_finds_what_it_would_have_made_however_others_write(
    most: int, limit: int, acts: list[tuple[str, int]]
) -> None:
    recent: Recent[Tensor] = Recent(most, limit)
    handed: dict[int, Tensor] = {}
    for act, name in acts:
        if act == "write" and name in handed:
            handed[name] += 1
            continue
        found = recent.find(name)
        if found is None:
            found = torch.full((2,), float(name))
            recent.keep(name, found, found)
        assert found.tolist() == [name, name]
        handed[name] = found


def test_what_nobody_writes_to_is_made_once() -> None:
    recent: Recent[Tensor] = Recent(2)
    x_BH = torch.ones(2, 3)
    recent.keep("x", x_BH, x_BH, None)
    with torch.inference_mode():
        y_BH = torch.ones(2, 3)
    recent.keep("y", y_BH, y_BH)
    assert recent.find("x") is x_BH
    assert recent.find("y") is y_BH


@given(st.integers(0, 3), st.integers(0, 30), st.lists(NAMES, unique=True))
def test_the_first_stay_as_far_as_there_is_room_and_the_last(
    most: int, limit: int, names: list[int]
) -> None:
    recent: Recent[Tensor] = Recent(most, limit)
    for name in names:
        x_H = torch.full((2,), float(name))
        recent.keep(name, x_H, x_H)
    # Eight bytes each.
    first = names[: limit // 8]
    last = names[len(first) :][-most:] if most else []
    assert [name for name in names if recent.find(name) is not None] == first + last


def test_what_was_written_to_leaves_its_room_to_another() -> None:
    recent: Recent[Tensor] = Recent(limit=8)
    for number in range(3):
        x_H = torch.full((2,), float(number))
        recent.keep(number, x_H, x_H)
        assert recent.find(number) is x_H
        x_H += 1
        assert recent.find(number) is None
