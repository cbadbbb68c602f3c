"""Numbers that a GPU computes, fetched without waiting for it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Fetched(NamedTuple):
    """A tensor on its way to the CPU's memory.

    Whoever asks a GPU for a number waits for all that has been launched before, and then it has
    nothing to do. This asks at once, and takes the number later.

    Attributes:
        values: In the CPU's memory, once they are there.
        there: After which they are; None where they always were.

    Example:
        >>> loss = Fetched.behind(torch.tensor(0.5))
        >>> loss.is_there(), loss.wait().item()
        (True, 0.5)
    """

    values: Tensor
    there: torch.cuda.Event | None

    @classmethod
    def behind(cls, tensor: Tensor) -> Fetched:
        """Has a tensor fetched behind what has been launched until now; nothing may write to it
        before what is launched on the same stream from now on."""
        fetched = tensor.detach().to("cpu", non_blocking=tensor.is_cuda)
        there = None
        if tensor.is_cuda:
            there = torch.cuda.current_stream(tensor.get_device()).record_event()
        return cls(fetched, there)

    def is_there(self) -> bool:
        """Whether `wait` need not wait."""
        if self.there is None:
            return True
        passed: bool = self.there.query()  # type: ignore[no-untyped-call]
        return passed

    def wait(self) -> Tensor:
        """The values, as soon as they are there."""
        if self.there is not None:
            self.there.synchronize()
        return self.values
