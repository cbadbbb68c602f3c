"""Learning rates over a fit whose length is known."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from slicewise.errors import ArgumentError


def cosine(
    optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.0
) -> LambdaLR:
    """Up along a line, then down along half a cosine (Loshchilov and Hutter 2017, SGDR).

    Args:
        optimizer: Its learning rates are the highest that are reached.
        total_steps: Optimizer steps of the fit.
        warmup: Share of the steps in which the learning rate rises.
        final: The last learning rate, as a share of the highest.

    Raises:
        ArgumentError: A share is not one.
    """
    if not 0 <= final <= 1:
        raise ArgumentError("final", final, "a share from 0 to 1")
    rising = _steps(warmup, total_steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        progress = (step - rising) / max(1, total_steps - rising)
        return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, total_steps: int, warmup: float = 0.05) -> LambdaLR:
    """Up along a line, then constant.

    Args:
        optimizer: Its learning rates are those that are reached.
        total_steps: Optimizer steps of the fit.
        warmup: Share of the steps in which the learning rate rises.

    Raises:
        ArgumentError: `warmup` is no share.
    """
    rising = _steps(warmup, total_steps)
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, rising)))


def _steps(warmup: float, total_steps: int) -> int:
    if not 0 <= warmup <= 1:
        raise ArgumentError("warmup", warmup, "a share of the steps, from 0 to 1")
    return round(warmup * total_steps)
