"""Work that a GPU does again and again, handed to it once: CUDA graphs.

Launching a training step kernel by kernel takes longer than the kernels of a small model run. A
graph launches all of them at once, with the same results.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

# Calls that run as they are: kernels are chosen, and an optimizer makes its state.
_WARM_UP = 3
# Graphs hold the memory of all that lies between their inputs and outputs.
_MAX_GRAPHS = 4
# Streams that torch hands out in turn, of each priority, before it begins again.
_STREAMS_OF_TORCH = 32
_PRIORITIES = (0, -1)
# By their handles: those that are somebody's own.
_owned: set[int] = set()
# Of each GPU, by number: where whatever is recorded later runs before.
_warm_up_streams: dict[int, torch.cuda.Stream] = {}
# Recordings that failed, by the stream for which they were made: each fit has one, and a generator.
_failures: Counter[int] = Counter()
# Of whoever records: for which errors there is no going on without a graph.
_raises: ContextVar[Callable[[Exception], bool]] = ContextVar(
    "_raises", default=lambda error: False
)


Tensors = tuple[Tensor, ...]


class _Graph(NamedTuple):
    """A recorded call: what it reads, what it does, where it leaves the results.

    Attributes:
        inputs, graph, outputs: These.
        place: By number, the stream for which it was recorded.
        failures: Recordings that had failed there.
    """

    inputs: tuple[Tensor | None, ...]
    graph: torch.cuda.CUDAGraph
    outputs: Tensors
    place: int
    failures: int

    def has_its_generator(self) -> bool:
        """Whether it still draws what the generator would: a recording that fails leaves behind the
        state that those before it are bound to."""
        return self.failures == _failures[self.place]


class Captured:
    """A function of tensors that runs as a CUDA graph from its fourth call on.

    Each shape of its arguments has a graph of its own. What cannot be recorded, because it waits
    for the device or for memory, goes on as it is, and the log says so once (but see `raising`). On
    a CPU, which has no graphs, every call is the function's.

    A graph draws random numbers from the seed that is set when it runs, as the function would.

    What matrix products have as their workspace on a stream is torch's until somebody has it freed,
    as Lightning does before and after each run, and a graph would go on writing there. So torch
    knows of none when a recording begins, nor after it of the one that was made there: that lies in
    memory which is the graph's, and which nobody else is given (`_undisturbed`).

    Args:
        function: Takes tensors on one device, or None in their place, and returns tensors;
            whatever else it reads or changes on a GPU must stay where it is in memory.
        name: What the log calls it.
        warm_up: Calls before the recording; 3 unless given, after which an optimizer has made its
            state. For what keeps none 1 will do.

    Example:
        >>> double = Captured(lambda x: (2 * x,), "doubling")
        >>> double(torch.ones(2))
        (tensor([2., 2.]),)
    """

    def __init__(
        self, function: Callable[..., Tensors], name: str, warm_up: int = _WARM_UP
    ) -> None:
        self.function = function
        self.name = name
        self.warm_up = warm_up
        self._calls: dict[Any, int] = {}
        self._graphs: dict[Any, _Graph] = {}
        self._refused = False
        # Where it was called last.
        self._callers: torch.cuda.Stream | None = None

    def __call__(self, *arguments: Tensor | None) -> Tensors:
        """What the function returns for the arguments; the next call may write over it."""
        gpu = next((a.get_device() for a in arguments if a is not None and a.is_cuda), None)
        if self._refused or gpu is None:
            return self.function(*arguments)
        self._wait_for_last_call(gpu)
        key = (_mode(), *(None if a is None else (a.shape, a.dtype) for a in arguments))
        recorded = self._graphs.get(key)
        if recorded is not None and not recorded.has_its_generator():
            # What it has been launched for reads memory that goes with it, here or further back.
            torch.cuda.current_stream(gpu).synchronize()
            del self._graphs[key]
            recorded = None
        if recorded is None:
            calls = self._calls[key] = self._calls.get(key, 0) + 1
            if calls <= self.warm_up or len(self._graphs) == _MAX_GRAPHS:
                # As PyTorch asks of whatever is recorded later.
                return on_side_stream(_warm_up_stream(), self.function, *arguments)()
            recorded = self._record(*arguments)
            if recorded is None:
                return self.function(*arguments)
            self._graphs[key] = recorded
        for place, argument in zip(recorded.inputs, arguments, strict=True):
            if place is not None and argument is not None:
                place.copy_(argument)
        recorded.graph.replay()
        return recorded.outputs

    def _wait_for_last_call(self, gpu: int) -> None:
        """Behind a call on another stream, and what was done with its results: they lie in the
        same place."""
        # By its number: torch takes ten times as long to find out which GPU is meant.
        current, last = torch.cuda.current_stream(gpu), self._callers
        if last is not None and last != current:
            current.wait_stream(last)
        self._callers = current

    def _record(self, *arguments: Tensor | None) -> _Graph | None:
        """The call's graph; None where there can be none."""
        device, current = torch.cuda.current_device(), torch.cuda.current_stream()
        place, stream = current.cuda_stream, _free_stream()
        recording = _recording_beside if _goes_on_meanwhile(current) else torch.cuda.graph
        generator = torch.cuda.default_generators[device]
        before = generator.clone_state()
        # A name for the graph's own memory, by which a recording that fails can be ended.
        pool = torch.cuda.graph_pool_handle()
        # What is made in inference mode, as in a validation, could not be written to outside it.
        with torch.inference_mode(False), _undisturbed():
            inputs = tuple(None if a is None else a.detach().clone() for a in arguments)
            graph = torch.cuda.CUDAGraph()
            failed: BaseException | None = None
            try:
                # The outer one, as torch goes on with the recording's stream where that fails.
                with torch.cuda.stream(current), recording(graph, pool=pool, stream=stream):
                    try:
                        outputs = self.function(*inputs)
                    except BaseException as error:
                        failed = error
                        raise
            except RuntimeError as error:
                # PyTorch leaves the generator waiting for the rest of the recording, and 2.11 the
                # allocator (https://github.com/pytorch/pytorch/pull/180395), which would hold back
                # whatever several streams have used, and might serve the next graph from this pool.
                generator.graphsafe_set_state(before)
                _failures[place] += 1
                with contextlib.suppress(RuntimeError):
                    torch._C._cuda_endAllocateToPool(device, pool)
                # Where the function failed; what ends the recording only says that it did.
                cause = failed or error
                if not isinstance(cause, Exception) or _raises.get()(cause):
                    raise cause from None
                self._refused = True
                log.warning("No CUDA graph of %s: %s", self.name, str(cause).partition("\n")[0])
                return None
        # There torch has just set the seed that each replay sets again here.
        current.wait_stream(stream)
        results = tuple(output.detach() for output in outputs)
        return _Graph(inputs, graph, results, place, _failures[place])


@contextlib.contextmanager
def raising(errors: Callable[[Exception], bool]) -> Iterator[None]:
    """Has some of the errors that recordings fail with raised, by whoever records in this context.

    Else it goes on without a graph: slowly, which is no help where memory is lacking that others
    have who would give it back. What has raised is recorded anew by the next who calls it. Of
    trials that take turns in one thread each has a context of its own.

    Args:
        errors: Whether an error is one of them.
    """
    token = _raises.set(errors)
    try:
        yield
    finally:
        _raises.reset(token)


def _goes_on_meanwhile(current: torch.cuda.Stream) -> bool:
    """Whether a graph is recorded while the GPU works, for those whose work that is.

    Whoever works on the GPU's default stream has it to himself. And where little is free, a graph
    may need the memory that torch keeps, which its own way of recording gives back.
    """
    if current == torch.cuda.default_stream():
        return False
    free, total = torch.cuda.mem_get_info()
    return free > total // 4


@contextlib.contextmanager
def _recording_beside(
    graph: torch.cuda.CUDAGraph, pool: Any, stream: torch.cuda.Stream
) -> Iterator[None]:
    """As `torch.cuda.graph`, which waits for all that the GPU has been handed and then gives back
    what memory torch keeps: of several fits none would have anything to do meanwhile."""
    # Torch sets a seed there, which must come after whatever has been launched with the one before.
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph.capture_begin(pool=pool)
        try:
            yield
        finally:
            graph.capture_end()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """For a recording: what others have is no part of it, and what it has is no part of others.

    Of each stream torch keeps one workspace for matrix products. Were it there before, a graph
    would write to memory that is not its own, and what another graph had left there is freed with
    that one (https://github.com/pytorch/pytorch/issues/193402). Torch's own graphs of compiled code
    have them freed likewise (`torch._inductor.cudagraph_trees.clear_cublas_manager`).

    Nor may Python look for garbage: a graph that is no longer needed, as of a fit that was pruned,
    must not end while another is recorded (https://github.com/pytorch/pytorch/pull/161037).
    """
    collected = gc.isenabled()
    gc.disable()
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()
        if collected:
            gc.enable()


def own_stream(owner: object) -> torch.cuda.Stream:
    """A CUDA stream that nobody else has as long as its owner lives.

    Torch itself hands out the same ones again and again, and what shares a stream waits for each
    other. So do those who come when all streams are somebody's: they share.
    """
    stream = _free_stream()
    if stream.cuda_stream not in _owned:
        _owned.add(stream.cuda_stream)
        weakref.finalize(owner, _owned.discard, stream.cuda_stream)
    return stream


def _warm_up_stream() -> torch.cuda.Stream:
    """One of each GPU, for all: what runs there is soon over."""
    device = torch.cuda.current_device()
    if device not in _warm_up_streams:
        _warm_up_streams[device] = own_stream(Captured)
    return _warm_up_streams[device]


def _free_stream() -> torch.cuda.Stream:
    """One that nobody has as his own, or, where all are taken, any."""
    for priority in _PRIORITIES:
        for _ in range(_STREAMS_OF_TORCH):
            stream = torch.cuda.Stream(priority=priority)  # type: ignore[no-untyped-call]
            if stream.cuda_stream not in _owned:
                return stream
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def on_side_stream(
    stream: torch.cuda.Stream, function: Callable[..., Tensors], *arguments: Tensor | None
) -> Callable[[], Tensors]:
    """Starts a function on another CUDA stream, while the current one goes on.

    Returns:
        Makes the current stream wait for the function, and returns its results.
    """
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        outputs = function(*arguments)

    def join() -> Tensors:
        current.wait_stream(stream)
        for output in outputs:
            output.record_stream(current)
        return outputs

    return join


def addresses_of(*modules: nn.Module) -> tuple[int, ...]:
    """Where the weights lie in memory: elsewhere after a move to another device and back.

    A graph reads them where they were when it was recorded.
    """
    return tuple(parameter.data_ptr() for m in modules for parameter in m.parameters())


def _mode() -> tuple[bool, torch.dtype]:
    """What decides, besides the arguments, which kernels run."""
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
