"""What fits that run side by side need one after the other: batches, targets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Made(NamedTuple):
    """When and where tensors were made on a GPU: whoever reads them on another stream waits.

    Attributes:
        tensors: All of them.
        stream: On which they were made.
        event: After which they are there.
    """

    tensors: tuple[Tensor, ...]
    stream: torch.cuda.Stream
    event: torch.cuda.Event

    @classmethod
    def now(cls, *tensors: Tensor | None) -> Made | None:
        """Of what has just been made; None on a CPU, where it is there already."""
        there = tuple(t for t in tensors if t is not None and t.is_cuda)
        if not there:
            return None
        stream = torch.cuda.current_stream(there[0].get_device())
        return cls(there, stream, stream.record_event())

    def is_there(self) -> bool:
        """Whether nobody need wait any more."""
        there: bool = self.event.query()  # type: ignore[no-untyped-call]
        return there

    def wait(self) -> None:
        """Has the current stream wait, and the memory stay until it has read."""
        stream = torch.cuda.current_stream(self.tensors[0].get_device())
        if stream == self.stream:
            return
        stream.wait_event(self.event)
        for tensor in self.tensors:
            tensor.record_stream(stream)


class _Kept(NamedTuple, Generic[T]):
    """What was made, and how often its tensors had been written to by then."""

    value: T
    made: Made | None
    tensors: tuple[Tensor, ...]
    writes: list[int]


class Recent(Generic[T]):
    """The last few of what was made, by name; and the first, where there is room for them.

    What a fit has written to meanwhile, by a student that adds in place, say, is no longer kept:
    each fit finds what it would have made.

    Args:
        most: How many of the last; 0, as long as no fit runs beside another.
        limit: Bytes of the first, which stay. Fits that go through all of them in one order, each
            at a place of its own, need those least that came last.

    Example:
        >>> recent = Recent(most=2)
        >>> for number in range(3):
        ...     recent.keep(number, str(number))
        >>> recent.find(0), recent.find(1), recent.find(2)
        (None, '1', '2')
    """

    def __init__(self, most: int = 0, limit: int = 0) -> None:
        self.most = most
        self.limit = limit
        self._first: dict[Hashable, _Kept[T]] = {}
        self._last: OrderedDict[Hashable, _Kept[T]] = OrderedDict()
        self._bytes = 0

    def keep(self, name: Hashable, value: T, *tensors: Tensor | None) -> None:
        """Keeps a value, whose tensors have just been made; lets the oldest go."""
        there = tuple(t for t in tensors if t is not None)
        size = sum(t.nbytes for t in there)
        if 0 < size <= self.limit - self._bytes:
            self._bytes += size
            self._first[name] = _Kept(value, Made.now(*there), there, _writes(there))
            return
        if self.most > 0:
            self._last[name] = _Kept(value, Made.now(*there), there, _writes(there))
        while len(self._last) > self.most:
            self._last.popitem(last=False)

    def give_up(self) -> None:
        """Lets all of the first go, and keeps no other: there is no room for them."""
        self.limit = self._bytes = 0
        self._first.clear()

    def find(self, name: Hashable) -> T | None:
        """The value of that name, ready for the current stream; None where it is not kept."""
        kept = self._first if name in self._first else self._last
        found = kept.get(name)
        if found is None:
            return None
        if _writes(found.tensors) != found.writes:
            del kept[name]
            if kept is self._first:
                self._bytes -= sum(t.nbytes for t in found.tensors)
            return None
        if found.made is not None:
            found.made.wait()
            if kept is self._first and found.made.is_there():
                # It is there for whoever comes, and stays longer than anybody reads it.
                kept[name] = found._replace(made=None)
        return found.value


def _writes(tensors: tuple[Tensor, ...]) -> list[int]:
    """How often each has been written to, as autograd counts it; in inference it does not."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]
