"""CUDA graphs of functions; all of it needs a GPU."""

from __future__ import annotations

import functools
import gc
import logging
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from slicewise.cuda_graph import Captured, own_stream, raising
from slicewise.teacher import TeacherSlice

pytestmark = pytest.mark.gpu


def _double(x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
    return (x * 2 if mask is None else x * 2 + mask,)


def test_each_call_has_its_own_result() -> None:
    captured = Captured(_double, "doubling")
    inputs = [torch.randn(3, 4, device="cuda") for _ in range(8)]
    outputs = [captured(x)[0].clone() for x in inputs]
    assert len(captured._graphs) == 1
    for x, y in zip(inputs, outputs, strict=True):
        torch.testing.assert_close(y, x * 2, rtol=0, atol=0)


def test_shapes_masks_and_autocast_have_graphs_of_their_own() -> None:
    def product(x: Tensor, mask: Tensor | None) -> tuple[Tensor, ...]:
        return (F.linear(_double(x, mask)[0], torch.ones_like(x)),)

    captured = Captured(product, "a product")
    for _ in range(6):
        for size in (2, 3):
            x, mask = torch.randn(size, size, device="cuda"), torch.ones(size, size, device="cuda")
            expected = F.linear(x * 2 + mask, torch.ones_like(x))
            torch.testing.assert_close(captured(x, mask)[0], expected)
    x = torch.randn(2, 2, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        for _ in range(6):
            assert captured(x, None)[0].dtype is torch.bfloat16
    assert len(captured._graphs) == 3


def test_random_numbers_come_from_the_seed_of_the_call() -> None:
    captured = Captured(lambda x: (F.dropout(x, 0.5),), "dropout")
    x = torch.ones(64, 64, device="cuda")
    for seed in range(8):
        torch.manual_seed(seed)
        expected = F.dropout(x, 0.5)
        torch.manual_seed(seed)
        assert torch.equal(captured(x)[0], expected)


def test_what_waits_for_the_device_goes_on_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    captured = Captured(lambda x: (x * x.sum().item(),), "a sum")
    with caplog.at_level(logging.WARNING):
        for factor in range(1, 8):
            x = torch.full((2,), float(factor), device="cuda")
            assert captured(x)[0].tolist() == [2.0 * factor**2] * 2
    assert caplog.text.count("No CUDA graph of a sum") == 1
    # The device is as it was.
    assert torch.randn(3, device="cuda").add(1).isfinite().all()


def _waits(x: Tensor) -> tuple[Tensor, ...]:
    return (x * x.sum().item(),)


def _asks_for_too_much(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    if torch.cuda.is_current_stream_capturing():
        torch.empty(2**45, device="cuda")
    return (y,)


@pytest.mark.parametrize("function", [_waits, _asks_for_too_much])
def test_a_recording_that_fails_leaves_everything_as_it_was(
    function: Callable[..., tuple[Tensor, ...]],
) -> None:
    earlier = Captured(_drop_half, "what was recorded before", warm_up=1)
    assert _draws_as_the_function(earlier)
    (before,) = earlier._graphs.values()
    stream, fails = torch.cuda.current_stream(), Captured(function, "what fails", warm_up=1)
    x = torch.ones(2, device="cuda")
    for _ in range(3):
        assert fails(x)[0].tolist() == [2.0, 2.0]
        assert torch.cuda.current_stream() == stream
    assert not fails._graphs
    # What several streams have used is used again.
    torch.cuda.empty_cache()
    used = torch.empty(2**22, device="cuda")
    place = used.data_ptr()
    used.record_stream(torch.cuda.Stream())
    del used
    torch.cuda.synchronize()
    assert torch.empty(2**22, device="cuda").data_ptr() == place
    # What is recorded next has the numbers of its seed, and so has what was recorded before: anew.
    later = Captured(_drop_half, "what is recorded next", warm_up=1)
    assert _draws_as_the_function(later)
    assert len(later._graphs) == 1
    assert _draws_as_the_function(earlier)
    (after,) = earlier._graphs.values()
    assert after is not before


def test_an_error_of_a_recording_may_be_raised_and_the_next_call_records() -> None:
    lacks = [True]

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return _asks_for_too_much(x) if lacks[0] else (x * 2,)

    captured, x = Captured(function, "what lacks memory", warm_up=1), torch.ones(2, device="cuda")
    with raising(lambda error: isinstance(error, torch.OutOfMemoryError)):
        assert captured(x)[0].tolist() == [2.0, 2.0]
        with pytest.raises(torch.OutOfMemoryError):
            captured(x)
        # Other errors are not.
        waits = Captured(_waits, "what waits", warm_up=1)
        assert [waits(x)[0].tolist() for _ in range(3)] == [[2.0, 2.0]] * 3
    lacks[0] = False
    assert captured(x)[0].tolist() == [2.0, 2.0]
    assert len(captured._graphs) == 1


def _drop_half(x: Tensor) -> tuple[Tensor, ...]:
    return (F.dropout(x, 0.5),)


def _draws_as_the_function(captured: Captured) -> bool:
    """Whether it has the numbers of each seed, recorded or not."""
    x = torch.ones(64, 64, device="cuda")
    same = []
    for seed in range(4):
        torch.manual_seed(seed)
        (expected,) = _drop_half(x)
        torch.manual_seed(seed)
        same.append(torch.equal(captured(x)[0], expected))
    return all(same)


@pytest.mark.parametrize(
    ("own_place", "free", "waits"), [(1, 9, False), (1, 2, True), (0, 9, True)]
)
def test_a_recording_leaves_others_their_work_unless_memory_is_short(
    own_place: bool, free: int, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 10))
    x = torch.ones(64, 64, device="cuda")
    first, captured = (Captured(_drop_half, "dropout", warm_up=1) for _ in range(2))
    place = torch.cuda.Stream() if own_place else torch.cuda.default_stream()
    with torch.cuda.stream(place):
        # What the first recording of a process loads may wait for all as well.
        for one in (first, first, captured):
            one(x)
        torch.cuda.synchronize()
        torch.manual_seed(1)
        done = torch.cuda.Event()
        with torch.cuda.stream(torch.cuda.Stream()):
            # Some two seconds.
            torch.cuda._sleep(2**32)
            done.record()
        result = captured(x)[0].clone()
        assert len(captured._graphs) == 1
        assert done.query() is waits
        done.synchronize()
        torch.manual_seed(1)
        assert torch.equal(result, F.dropout(x, 0.5))


def test_python_looks_for_no_garbage_in_a_recording() -> None:
    """What it found might be a graph, which must not end there."""
    x = torch.ones(2, device="cuda")

    def tangled() -> weakref.ref[Captured]:
        captured = Captured(_double, "what goes", warm_up=1)
        for _ in range(2):
            captured(x)
        assert len(captured._graphs) == 1
        captured.function = functools.partial(_double, captured)
        return weakref.ref(captured)

    def littering(x: Tensor) -> tuple[Tensor, ...]:
        if torch.cuda.is_current_stream_capturing():
            gc.set_threshold(1, 1, 1)
            assert len([[n] for n in range(100)]) == 100
            gc.set_threshold(10**9)
        return (x * 2,)

    before = gc.get_threshold()
    gc.collect()
    gc.set_threshold(10**9)
    try:
        goes = tangled()
        captured = Captured(littering, "what stays", warm_up=1)
        for _ in range(3):
            assert captured(x)[0].tolist() == [2.0, 2.0]
        assert len(captured._graphs) == 1
        assert goes() is not None
        assert gc.isenabled()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert goes() is None
    assert captured(x)[0].tolist() == [2.0, 2.0]


def test_a_graph_made_in_inference_mode_serves_outside_it() -> None:
    captured = Captured(_double, "doubling")
    with torch.inference_mode():
        for _ in range(5):
            captured(torch.ones(2, device="cuda"))
    assert captured(torch.full((2,), 3.0, device="cuda"))[0].tolist() == [6.0, 6.0]


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_a_captured_teacher_gives_the_same(
    tiny_teacher: TeacherSlice, precision: torch.dtype | None
) -> None:
    teacher = tiny_teacher.cuda()
    with torch.autocast("cuda", precision or torch.bfloat16, enabled=precision is not None):
        for seed in range(6):
            x_BTH = torch.randn(3, 6, 24, device="cuda", generator=None) + seed
            assert torch.equal(teacher.captured(x_BTH, None)[0], teacher(x_BTH, None))
    assert len(teacher.captured._graphs) == 1


def test_a_teacher_that_moves_is_captured_anew(tiny_teacher: TeacherSlice) -> None:
    before = tiny_teacher.cuda().captured
    x_BTH = torch.randn(3, 6, 24, device="cuda")
    for _ in range(5):
        before(x_BTH, None)
    tiny_teacher.cpu()
    taken = [torch.ones_like(p, device="cuda") for p in tiny_teacher.parameters()]
    tiny_teacher.cuda()
    after = tiny_teacher.captured
    assert after is not before
    assert after is tiny_teacher.captured
    assert torch.equal(after(x_BTH, None)[0], tiny_teacher(x_BTH, None))
    assert len(taken) > 0


def test_a_graph_outlives_others() -> None:
    """Products of matrices have a workspace on each stream, which the end of a graph frees."""
    weight = torch.randn(512, 512, device="cuda", dtype=torch.bfloat16)
    stays = Captured(lambda x: (x @ weight,), "what stays")
    x = torch.randn(256, 512, device="cuda", dtype=torch.bfloat16)
    expected = x @ weight
    for _ in range(5):
        stays(x)
    for _ in range(70):  # More than there are streams.
        goes = Captured(lambda x: (F.linear(x, weight, weight[0]),), "what goes", warm_up=1)
        for _ in range(3):
            goes(x)
        del goes
        torch.cuda.empty_cache()
        torch.testing.assert_close(stays(x)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("one_stream", [False, True])
def test_a_graph_keeps_the_workspace_that_it_was_recorded_with(
    one_stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning has all workspaces freed before and after each run, of this fit or another.

    Products of few rows and columns over many tokens, as weights' gradients are, are split among
    multiprocessors, whose sums meet in the workspace.
    """

    def learn(x_NH: Tensor) -> tuple[Tensor, ...]:
        weight_HH.grad = None
        (x_NH @ weight_HH).square().mean().backward()
        assert weight_HH.grad is not None
        return weight_HH.grad, x_NH.T @ x_NH

    weight_HH = torch.randn(384, 384, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    x_NH = torch.randn(4096, 384, device="cuda", dtype=torch.bfloat16)
    expected = [result.clone() for result in learn(x_NH)]
    captured = [Captured(learn, f"gradients {number}") for number in range(4)]
    if one_stream:
        stream = torch.cuda.Stream()
        monkeypatch.setattr("slicewise.cuda_graph._free_stream", lambda: stream)
    for learn_captured in captured:
        for _ in range(5):
            learn_captured(x_NH)
        assert len(learn_captured._graphs) == 1
    # What it leaves on its stream is nobody's.
    del captured[0], learn_captured
    for _ in range(3):
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        # Whatever has been freed is somebody else's now.
        taken = torch.full((2**28,), torch.nan, device="cuda")
        for learn_captured in captured:
            for result, right in zip(learn_captured(x_NH), expected, strict=True):
                torch.testing.assert_close(result, right, rtol=0, atol=0)
        assert taken.isnan().all()
        del taken


def test_a_graph_may_end_while_it_runs() -> None:
    """As where a fit is over, whose last steps are still under way."""

    def products(x: Tensor) -> tuple[Tensor, ...]:
        for _ in range(200):
            x = F.dropout(x @ weight, 0.1)
        return (x,)

    weight = torch.randn(2048, 2048, device="cuda", dtype=torch.bfloat16) / 2048**0.5
    x = torch.randn(2048, 2048, device="cuda", dtype=torch.bfloat16)
    torch.manual_seed(1)
    expected = products(x)[0]
    for _ in range(3):
        goes = Captured(products, "what goes", warm_up=1)
        goes(x)
        torch.manual_seed(1)
        result = goes(x)[0].clone()
        assert len(goes._graphs) == 1
        del goes
        taken = torch.full((2**28,), torch.nan, device="cuda")
        assert torch.equal(result, expected)
        assert taken.isnan().all()
        del taken


def test_streams_are_their_owners_own() -> None:
    class Owner:
        pass

    owners = [Owner() for _ in range(20)]
    streams = [own_stream(owner) for owner in owners]
    assert len({stream.cuda_stream for stream in streams}) == 20
    del owners
    gc.collect()
    more = [Owner() for _ in range(40)]
    assert len({own_stream(owner).cuda_stream for owner in more}) == 40


def test_more_graphs_than_streams_share_them() -> None:
    """As those of eight trials with teachers of their own, each compared on eight batches."""
    captured = [Captured(_double, "doubling", warm_up=1) for _ in range(80)]
    for number in range(3):
        for one in captured:
            x = torch.full((2,), float(number), device="cuda")
            assert one(x)[0].tolist() == [2.0 * number] * 2
    assert all(len(one._graphs) == 1 for one in captured)
