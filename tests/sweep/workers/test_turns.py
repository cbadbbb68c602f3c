"""Threads that take turns: each finds the process as it would find it alone."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator

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


def test_an_error_ends_its_thread_and_close_the_others_also_one_that_has_the_turn() -> None:
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
    # As Ctrl-C in the thread that waits would leave it: another has the turn.
    seat = turns._waiting.popleft()
    turns._main._state = ProcessState.now()
    turns._holder = seat
    seat._go.release()
    turns.close()
    assert left == ["left", "left"]
    assert all(other.ended and other.error is None for other in others)
