"""Work that takes turns: each finds the process as it would find it alone."""

from __future__ import annotations

import contextlib
import io
import logging
import logging.config
import os
import random
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sweep.trial.active import ActiveTrial, activated, active_trial
from sweep.workers.process_state import ProcessState
from sweep.workers.turns import Seat, Turns


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
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
    assert time.monotonic() - began >= 0.05
    # Ten seconds of work are left, at the least.
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


# What anybody's code may set for the whole process.

WHERE = [tempfile.gettempdir(), os.sep]
STREAMS = [io.StringIO(), io.StringIO()]


def named_precision() -> str | None:
    """Of products, by the name for all kinds of device; torch has none for what differs."""
    with contextlib.suppress(RuntimeError):
        return torch.get_float32_matmul_precision()
    return None


SETTINGS: dict[str, tuple[Callable[[int], object], Callable[[], object]]] = {
    "dtype": (
        lambda n: torch.set_default_dtype([torch.float32, torch.float64][n]),
        torch.get_default_dtype,
    ),
    "threads": (lambda n: torch.set_num_threads(n + 1), torch.get_num_threads),
    "products": (
        lambda n: torch.set_float32_matmul_precision(["highest", "medium"][n]),
        named_precision,
    ),
    "products of a kind": (
        lambda n: setattr(torch.backends.mkldnn.matmul, "fp32_precision", ["ieee", "bf16"][n]),
        lambda: torch.backends.mkldnn.matmul.fp32_precision,
    ),
    "deterministic": (
        lambda n: torch.use_deterministic_algorithms(True, warn_only=n == 1),
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
    ),
    "anomalies": (
        lambda n: torch.set_anomaly_enabled(True, n == 1),
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
    ),
    "cudnn": (
        lambda n: setattr(torch.backends.cudnn, "benchmark", n == 1),
        lambda: torch.backends.cudnn.benchmark,
    ),
    "attention": (
        lambda n: torch.backends.cuda.enable_flash_sdp(n == 1),
        torch.backends.cuda.flash_sdp_enabled,
    ),
    "convolutions": (
        lambda n: setattr(torch.backends.cudnn, "allow_tf32", n == 1),
        lambda: torch.backends.cudnn.conv.fp32_precision,
    ),
    "convolutions of a kind": (
        lambda n: setattr(torch.backends.cudnn.conv, "fp32_precision", ["ieee", "tf32"][n]),
        lambda: torch.backends.cudnn.conv.fp32_precision,
    ),
    "device": (
        lambda n: torch.set_default_device(["cpu", "meta"][n]),
        lambda: torch.empty(0).device.type,
    ),
    "empty memory": (
        lambda n: setattr(torch.utils.deterministic, "fill_uninitialized_memory", n == 1),
        lambda: torch.utils.deterministic.fill_uninitialized_memory,
    ),
    "folder": (lambda n: os.chdir(WHERE[n]), os.getcwd),
    "environment": (
        lambda n: os.environ.update(PL_GLOBAL_SEED=str(n)),
        lambda: os.environ.get("PL_GLOBAL_SEED"),
    ),
    "output": (lambda n: setattr(sys, "stdout", STREAMS[n]), lambda: sys.stdout),
    "errors": (lambda n: setattr(sys, "stderr", STREAMS[n]), lambda: sys.stderr),
    "level": (
        lambda n: logging.getLogger().setLevel([logging.INFO, logging.ERROR][n]),
        lambda: logging.getLogger("a.b").isEnabledFor(logging.INFO),
    ),
    "silence": (
        lambda n: logging.disable([logging.NOTSET, logging.ERROR][n]),
        lambda: logging.getLogger("a.b").isEnabledFor(logging.ERROR),
    ),
}

Course = list[tuple[str, int]]


def found(course: Course, between: Callable[[], None]) -> list[object]:
    """What a fit finds that sets one after the other, of those that it has set."""
    there: list[object] = []
    for number, (name, value) in enumerate(course, 1):
        SETTINGS[name][0](value)
        between()
        there += [SETTINGS[done][1]() for done, _ in course[:number]]
    return there


courses = st.lists(
    st.tuples(st.sampled_from(sorted(SETTINGS)), st.integers(0, 1)), min_size=1, max_size=5
)


@settings(deadline=None, max_examples=40)
@given(st.lists(courses, min_size=2, max_size=3))
@example([[("anomalies", 0)], [("products", 0), ("products of a kind", 1)]])
def test_each_finds_what_it_has_set_and_nobody_else_does(fits: list[Course]) -> None:
    before = [read() for _, read in SETTINGS.values()]

    def run(*several: Course) -> list[list[object]]:
        turns = Turns()
        there: dict[int, list[object]] = {}

        def new_work(place: int) -> Callable[[Seat], None]:
            def work(seat: Seat) -> None:
                there[place] = found(several[place], seat.pass_turn)

            return work

        finish(turns, [turns.start(new_work(place)) for place in range(len(several))])
        return [there[place] for place in range(len(several))]

    assert run(*fits) == [run(fit)[0] for fit in fits]
    assert [read() for _, read in SETTINGS.values()] == before


def flags_of_kernels() -> Iterator[tuple[str, Callable[[Any], object], Callable[[], Any]]]:
    """All that torch has: by which kernels products, convolutions and attention are computed."""
    for module in (torch.backends.cudnn, torch.backends.mkldnn):
        for name, kind in vars(type(module)).items():
            is_flag = isinstance(kind, torch.backends.ContextProp)
            if is_flag and isinstance(getattr(module, name), bool):
                yield name, partial(setattr, module, name), partial(getattr, module, name)
    for name in dir(torch.backends.cuda):
        if name.endswith("_sdp_enabled"):
            enable = f"enable_{name.removesuffix('_enabled')}"
            yield name, getattr(torch.backends.cuda, enable), getattr(torch.backends.cuda, name)


def test_every_flag_of_torchs_kernels_is_ones_own() -> None:
    flags = list(flags_of_kernels())
    assert len(flags) > 6
    before = [read() for _, _, read in flags]
    turns = Turns()

    def set_others(seat: Seat) -> None:
        for (_, write, _), value in zip(flags, before, strict=True):
            write(not value)
        seat.pass_turn()
        assert [read() for _, _, read in flags] == [not value for value in before]

    def find(seat: Seat) -> None:
        seat.pass_turn()
        there = {
            name: read() == value for (name, _, read), value in zip(flags, before, strict=True)
        }
        assert there == dict.fromkeys(there, True)

    seats = [turns.start(set_others), turns.start(find)]
    finish(turns, seats)
    assert [seat.error for seat in seats] == [None, None]
    assert [read() for _, _, read in flags] == before


def test_what_is_caught_and_filtered_of_warnings_is_ones_own() -> None:
    turns, caught = Turns(), {}

    def new_work(place: int, action: Any) -> Callable[[Seat], None]:
        def work(seat: Seat) -> None:
            with warnings.catch_warnings(record=True) as own:
                warnings.simplefilter(action)
                for number in range(3):
                    seat.pass_turn()
                    warnings.warn(f"{place} in turn {number}", stacklevel=1)
            caught[place] = [str(warning.message) for warning in own]

        return work

    filters = warnings.filters
    shown = warnings.showwarning
    actions = ["always", "ignore", "always"]
    finish(turns, [turns.start(new_work(place, action)) for place, action in enumerate(actions)])
    assert caught == {
        place: [] if action == "ignore" else [f"{place} in turn {n}" for n in range(3)]
        for place, action in enumerate(actions)
    }
    assert warnings.filters is filters
    assert warnings.showwarning is shown


def test_the_log_of_one_is_not_closed_nor_written_by_another(tmp_path: Path) -> None:
    """Files that begin anew, and a logger with handlers of its own, as Hydra lets a job have."""
    turns, names = Turns(), ("", "my_package")
    own = logging.getLogger("my_package")

    def new_work(place: int) -> Callable[[Seat], None]:
        def work(seat: Seat) -> None:
            configure_log(tmp_path / f"{place}.log")
            for number in range(3):
                seat.pass_turn()
                for name in names:
                    logging.getLogger(name).warning("%d in turn %d", place, number)

        return work

    finish(turns, [turns.start(new_work(place)) for place in range(3)])
    for place in range(3):
        written = (tmp_path / f"{place}.log").read_text().splitlines()
        assert written == [f"{place} in turn {n}" for n in range(3) for _ in names]
    assert not own.handlers


def configure_log(path: Path) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"file": {"class": "logging.FileHandler", "filename": path, "mode": "w"}},
            "root": {"handlers": ["file"]},
            "loggers": {"my_package": {"handlers": ["file"], "propagate": False}},
        }
    )


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


def test_whoever_makes_way_in_a_preparation_has_not_begun_for_the_one_that_waits() -> None:
    """Not even where one of those that it has made way for ends meanwhile."""
    turns, said = Turns(), []

    def running(seat: Seat) -> None:
        for number in range(4):
            seat.pass_turn()
            said.append(f"step {number}")

    def prepared(seat: Seat) -> None:
        for number in range(6):
            said.append(f"part {number}")
            seat.make_way()
        said.append("ready")
        seat.pass_turn()
        said.append("first step")

    one = turns.start(running)
    # Over long ago: whoever is prepared next is waited for nevertheless.
    turns.go_on(0.0)
    other = turns.start(prepared)
    said.append("begun")
    parts_and_steps = said[: said.index("ready")]
    assert [s for s in parts_and_steps if s.startswith("part")] == [f"part {n}" for n in range(6)]
    # Turn and turn about, from the first part on.
    assert [s for s in said if s.startswith("step")] == [f"step {n}" for n in range(4)]
    assert said.index("step 3") < said.index("part 4")
    assert said[-2:] == ["ready", "begun"]
    assert one.ended
    assert not other.ended
    finish(turns, [one, other])
    assert said[-1] == "first step"


def test_with_nobody_beside_it_whoever_makes_way_goes_on_at_once() -> None:
    turns, said = Turns(), []

    def work(seat: Seat) -> None:
        seat.make_way()
        said.append("prepared")
        seat.pass_turn()
        said.append("done")

    seat = turns.start(work)
    assert said == ["prepared"]
    finish(turns, [seat])
    assert said == ["prepared", "done"]


def test_one_that_fails_in_its_preparation_after_making_way_is_there_to_be_told() -> None:
    turns = Turns()

    def failing(seat: Seat) -> None:
        seat.make_way()
        raise ValueError("no room")

    def running(seat: Seat) -> None:
        for _ in range(3):
            seat.pass_turn()

    one = turns.start(running)
    other = turns.start(failing)
    assert other.ended
    assert isinstance(other.error, ValueError)
    finish(turns, [one])
