"""What a student learns by: functions of its hidden states and the teacher's.

Each is a mean over the tokens that count, in which every token has the same weight, whatever batch
or row it is in. Yours is a function of the same three arguments; it may be compiled, and recorded
in a CUDA graph, so it must not wait for the device.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from slicewise.errors import ArgumentError

# Of a prediction and its target, (B, T, H), over the tokens that count, (B, T); None: all.
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def l1_loss(prediction: Tensor, target: Tensor, real_tokens: Tensor | None = None) -> Tensor:
    """Mean absolute difference: the article's, and what every fit is measured by.

    Args:
        prediction: (B, T, H).
        target: (B, T, H).
        real_tokens: Which tokens count, (B, T) of booleans; None: all.

    Returns:
        A scalar.

    Example:
        >>> import torch
        >>> prediction_BTH, target_BTH = torch.tensor([[[1.0], [5.0]]]), torch.zeros(1, 2, 1)
        >>> l1_loss(prediction_BTH, target_BTH)
        tensor(3.)
        >>> l1_loss(prediction_BTH, target_BTH, torch.tensor([[True, False]]))
        tensor(1.)
    """
    if real_tokens is None:
        return F.l1_loss(prediction, target)
    return token_mean((prediction - target).abs().mean(-1), real_tokens)


def mse(prediction: Tensor, target: Tensor, real_tokens: Tensor | None = None) -> Tensor:
    """Mean squared difference, as FitNets have it (https://arxiv.org/abs/1412.6550).

    Args:
        prediction, target, real_tokens: As in `l1_loss`.

    Example:
        >>> import torch
        >>> mse(torch.tensor([[[1.0], [5.0]]]), torch.zeros(1, 2, 1))
        tensor(13.)
    """
    return token_mean((prediction - target).square().mean(-1), real_tokens)


def smooth_l1(
    prediction: Tensor, target: Tensor, real_tokens: Tensor | None = None, beta: float = 0.1
) -> Tensor:
    """Squared below a difference, absolute above it (Girshick 2015).

    https://arxiv.org/abs/1504.08083.

    Args:
        prediction, target, real_tokens: As in `l1_loss`.
        beta: That difference, in units of the hidden states; above 0.

    Raises:
        ArgumentError: `beta` is not above 0.

    Example:
        >>> import torch
        >>> smooth_l1(torch.tensor([[[1.0], [5.0]]]), torch.zeros(1, 2, 1), beta=2.0)
        tensor(2.1250)
    """
    if not 0 < beta < math.inf:
        raise ArgumentError("beta", beta, "a number above 0")
    loss_BTH = F.smooth_l1_loss(prediction, target, reduction="none", beta=beta)
    return token_mean(loss_BTH.mean(-1), real_tokens)


def cosine(prediction: Tensor, target: Tensor, real_tokens: Tensor | None = None) -> Tensor:
    """One minus the cosine of each token's hidden states: their direction alone.

    Args:
        prediction, target, real_tokens: As in `l1_loss`.

    Example:
        >>> import torch
        >>> prediction_BTH = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
        >>> cosine(prediction_BTH, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
        tensor(0.5000)
    """
    return token_mean(1 - F.cosine_similarity(prediction, target, dim=-1), real_tokens)


def l1_and_cosine(
    prediction: Tensor, target: Tensor, real_tokens: Tensor | None = None, weight: float = 1.0
) -> Tensor:
    """`l1_loss`, and `cosine` times a weight, as DistilBERT's has a cosine besides.

    https://arxiv.org/abs/1910.01108.

    Args:
        prediction, target, real_tokens: As in `l1_loss`.
        weight: Of the cosine; at least 0.

    Raises:
        ArgumentError: `weight` is below 0.

    Example:
        >>> import torch
        >>> prediction_BTH = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
        >>> l1_and_cosine(prediction_BTH, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), weight=2.0)
        tensor(1.7500)
    """
    if not 0 <= weight < math.inf:
        raise ArgumentError("weight", weight, "a number of at least 0")
    return l1_loss(prediction, target, real_tokens) + weight * cosine(
        prediction, target, real_tokens
    )


def token_mean(loss_BT: Tensor, real_tokens: Tensor | None) -> Tensor:
    """The mean over the tokens that count; a scalar.

    Args:
        loss_BT: Of each token, (B, T).
        real_tokens: Which tokens count, (B, T) of booleans; None: all.

    Example:
        >>> import torch
        >>> token_mean(torch.tensor([[1.0, 5.0]]), torch.tensor([[True, False]]))
        tensor(1.)
    """
    if real_tokens is None:
        return loss_BT.mean()
    return (loss_BT * real_tokens).sum() / real_tokens.sum()


def settled(loss: Callable[..., Any]) -> Loss:
    """A loss as a function; `l1_loss` itself, whichever way it was named.

    Args:
        loss: A function, or one with some of its arguments given, as `functools.partial` makes it.

    Example:
        >>> settled(functools.partial(l1_loss)) is l1_loss
        True
    """
    if not isinstance(loss, functools.partial):
        return loss
    if loss.func is l1_loss and not loss.args and not loss.keywords:
        return l1_loss
    # Compilers read functions, and none of their partials.
    return lambda prediction, target, real_tokens: loss(prediction, target, real_tokens)
