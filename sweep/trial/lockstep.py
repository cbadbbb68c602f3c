"""What several ranks must do alike is decided by rank 0.

A rank that stops, saves or validates while the others train waits for them, and they for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import torch
from torch import distributed

_control: distributed.ProcessGroup | None = None
_timeout = 120.0
# Rank 0's answer where it does not know yet.
_NOT_YET = -1
_beside = ThreadPoolExecutor(1, thread_name_prefix="decision")


def set_timeout(seconds: float) -> None:
    """How long a rank may wait for the others: `gang.timeout`."""
    global _timeout
    _timeout = seconds


def agreed(decide: Callable[[], int], may_wait: bool = False) -> int:
    """Rank 0's decision, on all ranks; where there is one process, just the decision.

    All ranks must come here, and nothing else may be called by only some of them.

    Args:
        decide: Called by rank 0 alone; returns 0 or more, and must not raise: the others would
            wait for its answer.
        may_wait: Whether it may take longer than a rank may wait for the others, as where it asks
            a storage that is away. They hear from rank 0 meanwhile, and wait on.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return decide()
    is_first = distributed.get_rank() == 0
    if not may_wait:
        return _sent(decide() if is_first else 0)
    coming = _beside.submit(decide) if is_first else None
    decision = _NOT_YET
    while decision == _NOT_YET:
        if coming is not None:
            with contextlib.suppress(TimeoutError):
                decision = coming.result(_timeout / 4)
        decision = _sent(decision)
    return decision


def _sent(decision: int) -> int:
    """What rank 0 has sent, on all ranks."""
    # A truth value would be one byte, and the others expect eight.
    content = torch.tensor(int(decision))
    distributed.broadcast(content, src=0, group=_control_group())
    return int(content)


def _control_group() -> distributed.ProcessGroup | None:
    """Where decisions travel: from host to host, past the queue of a GPU."""
    global _control
    if distributed.get_backend() == distributed.Backend.GLOO:
        return None
    if _control is None:
        # Not torch's own patience of half an hour.
        patience = timedelta(seconds=_timeout)
        _control = distributed.new_group(backend=distributed.Backend.GLOO, timeout=patience)
    return _control
