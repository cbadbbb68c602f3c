"""Work that takes turns: each finds the process as it would find it alone."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sweep.trial.active import ActiveTrial, activated, active_trial
from sweep.workers.process_state import ProcessState
from sweep.workers.turns import Seat, Turns


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    state = ProcessState.now()
    yield
    state.restore()


def draws(seed: int, number: int, between: Callable[[], None] = lambda: None) -> list[float]:
    """What a fit that seeds itself draws from all generators, with a pause before each draw."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    drawn = []
    for _ in range(number):
        between()
        drawn += [random.random(), numpy.random.random(), float(torch.rand(()))]
    return drawn


def finish(turns: Turns, seats: list[Seat]) -> None:
    while not all(seat.ended for seat in seats):
        turns.go_on()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=5))
def test_each_draws_what_it_would_draw_alone(fits: list[tuple[int, int]]) -> None:
    alone = [draws(seed, number) for seed, number in fits]
    turns, beside = Turns(), [[0.0]] * len(fits)

    def new_work(place: int) -> Callable[[Seat], None]:
        def work(seat: Seat) -> None:
            beside[place] = draws(*fits[place], seat.pass_turn)

        return work

    torch.manual_seed(7)
    finish(turns, [turns.start(new_work(place)) for place in range(len(fits))])
    own = float(torch.rand(()))
    assert beside == alone
    assert own == float(torch.rand((), generator=torch.Generator().manual_seed(7)))


def test_each_has_its_own_trial_configuration_and_log() -> None:
    turns, seen = Turns(), []
    root = logging.getLogger()

    def work(seat: Seat) -> None:
        trial, handler = ActiveTrial(threading.Event()), logging.NullHandler()
        config = OmegaConf.create({"hydra": {}})
        root.handlers[:] = [handler]
        HydraConfig.instance().cfg = config
        with activated(trial):
            for _ in range(3):
                seat.pass_turn()
                own = (active_trial() is trial, root.handlers == [handler])
                seen.append((*own, HydraConfig.instance().cfg is config))
        seen.append((active_trial() is None, True, True))

    before = (root.handlers[:], HydraConfig.instance().cfg)
    finish(turns, [turns.start(work) for _ in range(3)])
    assert seen == [(True, True, True)] * 12
    assert (root.handlers, HydraConfig.instance().cfg) == before


def test_they_go_on_in_their_order_one_at_a_time_and_whoever_ends_is_noticed() -> None:
    turns, order = Turns(), []

    def new_work(place: int) -> Callable[[Seat], None]:
        def work(seat: Seat) -> None:
            for _ in range(place + 1):
                seat.pass_turn()
                order.append((place, seat.others))

        return work

    seats = [turns.start(new_work(place)) for place in range(3)]
    assert order == []
    turns.go_on()
    assert [seat.ended for seat in seats] == [True, False, False]
    turns.go_on()
    turns.go_on()
    assert [place for place, _ in order] == [0, 1, 2, 1, 2, 2]
    assert all(seat.ended for seat in seats)


def test_after_some_time_the_one_who_started_them_has_a_turn() -> None:
    turns, taken = Turns(), []

    def work(seat: Seat) -> None:
        while not taken or len(taken) < 10_000:
            seat.pass_turn()
            taken.append(time.sleep(0.001))

    seats = [turns.start(work), turns.start(work)]
    began = time.monotonic()
    turns.go_on(0.05)
    assert 0.05 <= time.monotonic() - began < 5
    assert not any(seat.ended for seat in seats)
    turns.close()
    assert all(seat.ended for seat in seats)


def test_an_error_ends_its_work_and_close_that_of_the_others() -> None:
    turns, left = Turns(), []

    def fail(seat: Seat) -> None:
        raise KeyboardInterrupt

    def work(seat: Seat) -> None:
        try:
            while True:
                seat.pass_turn()
        except Exception:
            left.append("caught")
        finally:
            left.append("left")

    others = [turns.start(work), turns.start(work)]
    failed = turns.start(fail)
    assert failed.ended
    assert isinstance(failed.error, KeyboardInterrupt)
    assert left == []
    turns.close()
    assert left == ["left", "left"]
    assert all(other.ended and other.error is None for other in others)
    assert turns.count == 0


# What torch keeps for each thread.

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "nothing": contextlib.nullcontext,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "gradients in inference": lambda: torch.inference_mode(False),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast without a cache": lambda: torch.autocast("cpu", cache_enabled=False),
    # Torch itself takes what one dtype has cached for another's.
    "half": lambda: torch.autocast("cpu", torch.float16, cache_enabled=False),
    "no autocast": lambda: torch.autocast("cpu", enabled=False),
}


def modes() -> tuple[object, ...]:
    depth = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
        depth,
    )


def learned(course: list[str], between: Callable[[], None] = lambda: None) -> list[object]:
    """What a fit finds and learns that enters one mode after the other, and leaves them again."""
    torch.manual_seed(len(course))
    weight, x = torch.nn.Parameter(torch.randn(3, 3)), torch.randn(2, 3)
    found: list[object] = []

    def go(rest: list[str]) -> None:
        between()
        y = torch.nn.functional.linear(x, weight)
        found.extend([modes(), y.dtype, y.requires_grad, y.is_inference(), y.tolist()])
        if rest:
            with MODES[rest[0]]():
                go(rest[1:])
            between()
            found.append(modes())
        with torch.no_grad():
            weight.add_(1)

    go(course)
    return found


@given(st.lists(st.lists(st.sampled_from(sorted(MODES)), max_size=4), min_size=2, max_size=4))
def test_each_finds_torch_as_it_left_it(courses: list[list[str]]) -> None:
    alone = [learned(course) for course in courses]
    turns, beside = Turns(), {}

    def new_work(place: int) -> Callable[[Seat], None]:
        def work(seat: Seat) -> None:
            beside[place] = learned(courses[place], seat.pass_turn)

        return work

    before = modes()
    finish(turns, [turns.start(new_work(place)) for place in range(len(courses))])
    assert [beside[place] for place in range(len(courses))] == alone
    assert modes() == before


def test_what_is_dismissed_in_a_mode_leaves_it() -> None:
    turns, before = Turns(), modes()

    def work(seat: Seat) -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            while True:
                seat.pass_turn()

    seats = [turns.start(work) for _ in range(3)]
    turns.go_on(0.0)
    assert modes() == before
    turns.close()
    assert all(seat.ended for seat in seats)
    assert modes() == before
