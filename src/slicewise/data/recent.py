"""What fits that run side by side need one after the other: the last batches, the last targets."""

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
    """The last few of what was made, by name.

    What a fit has written to meanwhile, by a student that adds in place, say, is no longer kept:
    each fit finds what it would have made.

    Args:
        most: How many; 0, as long as no fit runs beside another.

    Example:
        >>> recent = Recent(most=2)
        >>> for number in range(3):
        ...     recent.keep(number, str(number))
        >>> recent.find(0), recent.find(1), recent.find(2)
        (None, '1', '2')
    """

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self._kept: OrderedDict[Hashable, _Kept[T]] = OrderedDict()

    def keep(self, name: Hashable, value: T, *tensors: Tensor | None) -> None:
        """Keeps a value, whose tensors have just been made; lets the oldest go."""
        if self.most > 0:
            there = tuple(t for t in tensors if t is not None)
            self._kept[name] = _Kept(value, Made.now(*there), there, _writes(there))
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)

    def find(self, name: Hashable) -> T | None:
        """The value of that name, ready for the current stream; None where it is not kept."""
        found = self._kept.get(name)
        if found is None:
            return None
        if _writes(found.tensors) != found.writes:
            del self._kept[name]
            return None
        if found.made is not None:
            found.made.wait()
        return found.value


def _writes(tensors: tuple[Tensor, ...]) -> list[int]:
    """How often each has been written to, as autograd counts it; in inference it does not."""
    return [0 if tensor.is_inference() else tensor._version for tensor in tensors]
