"""What several ranks must do alike is decided by rank 0.

A rank that stops, saves or validates while the others train waits for them, and they for it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import distributed

_control: distributed.ProcessGroup | None = None


def agreed(decide: Callable[[], int]) -> int:
    """Rank 0's decision, on all ranks; where there is one process, just the decision.

    All ranks must come here, and nothing else may be called by only some of them.

    Args:
        decide: Called by rank 0 alone; must not raise, the others would wait for its answer.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return decide()
    decision = torch.tensor(decide() if distributed.get_rank() == 0 else 0)
    distributed.broadcast(decision, src=0, group=_control_group())
    return int(decision)


def _control_group() -> distributed.ProcessGroup | None:
    """Where decisions travel: from host to host, past the queue of a GPU."""
    global _control
    if distributed.get_backend() == distributed.Backend.GLOO:
        return None
    if _control is None:
        _control = distributed.new_group(backend=distributed.Backend.GLOO)
    return _control
