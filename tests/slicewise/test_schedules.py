"""Learning rates: where they rise, where they are highest, where they end."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from slicewise import schedules
from slicewise.errors import ArgumentError


def _rates(make: object, total_steps: int, **arguments: float) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make(optimizer, total_steps=total_steps, **arguments)  # type: ignore[operator]
    assert isinstance(scheduler, LambdaLR)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@given(
    total_steps=st.integers(1, 200),
    warmup=st.floats(0, 1),
    final=st.floats(0, 1),
)
def test_cosine_rises_to_the_top_and_falls_to_the_end(
    total_steps: int, warmup: float, final: float
) -> None:
    rates = _rates(schedules.cosine, total_steps, warmup=warmup, final=final)
    rising = round(warmup * total_steps)
    assert max(rates) <= 0.5 + 1e-12
    assert rates[:rising] == sorted(rates[:rising])
    assert rates[rising:] == sorted(rates[rising:], reverse=True)
    if rising < total_steps:
        assert rates[rising] == pytest.approx(0.5)
        assert min(rates[rising:]) >= 0.5 * final - 1e-12


def test_cosine_ends_near_its_last_rate() -> None:
    rates = _rates(schedules.cosine, 1000, warmup=0.0, final=0.1)
    assert rates[500] == pytest.approx(0.5 * 0.55, abs=1e-3)
    assert rates[-1] == pytest.approx(0.05, abs=1e-4)


def test_constant_rises_and_stays() -> None:
    rates = _rates(schedules.constant, 20, warmup=0.2)
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[4:] == [0.5] * 16


@pytest.mark.parametrize(
    ("make", "arguments", "name"),
    [
        (schedules.cosine, {"warmup": 1.5}, "warmup"),
        (schedules.cosine, {"final": -0.1}, "final"),
        (schedules.constant, {"warmup": -1.0}, "warmup"),
    ],
)
def test_shares_are_checked(make: object, arguments: dict[str, float], name: str) -> None:
    with pytest.raises(ArgumentError) as raised:
        _rates(make, 10, **arguments)
    assert raised.value.name == name
