"""Learning rates over a fit whose length is known."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from slicewise.errors import ArgumentError


def cosine(
    optimizer: Optimizer, total_steps: int, warmup: float = 0.05, final: float = 0.0
) -> LambdaLR:
    """Up along a line, then down along half a cosine.

    The cosine is that of SGDR, without its restarts (Loshchilov and Hutter 2017,
    https://arxiv.org/abs/1608.03983); the warm-up that of Goyal et al. 2017,
    https://arxiv.org/abs/1706.02677.

    Args:
        optimizer: Its learning rates are the highest that are reached.
        total_steps: Optimizer steps of the fit.
        warmup: Share of the steps in which the learning rate rises; the first twentieth unless
            given, 0 for no warm-up.
        final: The last learning rate, as a share of the highest; 0, where nothing is learned any
            more, unless given.

    Raises:
        ArgumentError: A share is not from 0 to 1.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = cosine(optimizer, total_steps=8, warmup=0.25)
        >>> rates = []
        >>> for _ in range(8):
        ...     rates += [round(value, 2) for value in scheduler.get_last_lr()]
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.5, 1.0, 1.0, 0.93, 0.75, 0.5, 0.25, 0.07]
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
        warmup: Share of the steps in which the learning rate rises; the first twentieth unless
            given, 0 for no warm-up.

    Raises:
        ArgumentError: `warmup` is not from 0 to 1.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = constant(optimizer, total_steps=8, warmup=0.5)
        >>> rates = []
        >>> for _ in range(8):
        ...     rates += scheduler.get_last_lr()
        ...     optimizer.step()
        ...     scheduler.step()
        >>> rates
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    rising = _steps(warmup, total_steps)
    return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, rising)))


def _steps(warmup: float, total_steps: int) -> int:
    if not 0 <= warmup <= 1:
        raise ArgumentError("warmup", warmup, "a share of the steps, from 0 to 1")
    return round(warmup * total_steps)
