"""Attention and dropout as students use them.

In full precision, on a GPU, compiled, and where nothing learns, these are torch's own. In half
precision on a CPU torch's dropout costs more than the matrix products around it: it draws one
element after the other, from the whole width of its generator; 16 random bits an element will do,
and numpy draws those in less than half of torch's time. Torch's fused attention is slower there
than the plain products, forward and backward together, at lengths such as 128.

A GPU's fused kernels learn wrongly in half precision where the keys of a text are much alike (see
`_apart`), and with dropout where there is a mask, which is then left to the plain products.

Shapes: B batch, N heads, T tokens, D size of a head's queries and keys, W of its values.
"""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# What attention adds to the scores of a token that is not to be attended to. Its exponential is
# zero beside any other token's. No lower: the lowest float32 is minus infinity in half precision,
# and in any precision once a fused kernel multiplies it by log2(e); in a block of keys that is
# masked as a whole, infinity minus infinity is not a number.
MASKED = -30_000.0

_LEVELS = 2**16


def attend(
    q_BNTD: Tensor,
    k_BNTD: Tensor,
    v_BNTW: Tensor,
    attention_mask: Tensor | None = None,
    dropout_p: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention, with scale D ** -0.5; (B, N, T, W).

    Args:
        q_BNTD: Queries.
        k_BNTD: Keys.
        v_BNTW: Values.
        attention_mask: Additive, (B, 1, 1, T); unless given, every token counts.
        dropout_p: Probability with which each attention probability is dropped, the others scaled
            by 1 / (1 - p); 0, the default, outside training.

    Vaswani et al. 2017, "Attention Is All You Need", https://arxiv.org/abs/1706.03762.

    Example:
        Values may be of another size than queries and keys. With the second of two tokens masked,
        both attend to the first:

        >>> q_BNTD, k_BNTD = torch.randn(2, 1, 4, 2, 8)
        >>> v_BNTW = torch.randn(1, 4, 2, 3)
        >>> mask = torch.tensor([0.0, float("-inf")])[None, None, None, :]
        >>> context_BNTW = attend(q_BNTD, k_BNTD, v_BNTW, mask)
        >>> context_BNTW.shape
        torch.Size([1, 4, 2, 3])
        >>> torch.allclose(context_BNTW, v_BNTW[:, :, :1].expand_as(context_BNTW))
        True
    """
    if attention_mask is not None and attention_mask.dtype != q_BNTD.dtype:
        # Under autocast the queries are narrower than the mask that came with the batch, whose
        # lowest number would become minus infinity.
        attention_mask = attention_mask.clamp_min(MASKED).to(q_BNTD.dtype)
    learns = torch.is_grad_enabled()
    if learns and _is_half(q_BNTD) and q_BNTD.is_cuda:
        if attention_mask is not None and dropout_p > 0:
            # The one fused kernel that takes a mask (memory-efficient attention, torch 2.11 on an
            # H200) does not learn with dropout: on text the loss stayed where the plain products,
            # or no dropout, or no mask, had it fall, and then was not a number.
            with sdpa_kernel(SDPBackend.MATH):
                return F.scaled_dot_product_attention(
                    q_BNTD, k_BNTD, v_BNTW, attn_mask=attention_mask, dropout_p=dropout_p
                )
        k_BNTD = _apart(k_BNTD, attention_mask)
    if not (learns and _is_slow_in_torch(q_BNTD)):
        return F.scaled_dot_product_attention(
            q_BNTD, k_BNTD, v_BNTW, attn_mask=attention_mask, dropout_p=dropout_p
        )
    scores_BNTT = (q_BNTD * q_BNTD.shape[-1] ** -0.5) @ k_BNTD.transpose(-1, -2)
    if attention_mask is not None:
        scores_BNTT = scores_BNTT + attention_mask
    with torch.autocast("cpu", enabled=False):
        # Autocast would widen the probabilities; torch sums them up in single anyway.
        probabilities_BNTT = scores_BNTT.softmax(-1)
    if dropout_p > 0:
        probabilities_BNTT = _drop(probabilities_BNTT, dropout_p)
        v_BNTW = v_BNTW * (1 / (1 - dropout_p))
    context_BNTW: Tensor = probabilities_BNTT @ v_BNTW
    return context_BNTW


def _apart(k_BNTD: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Keys less their mean over the tokens that count, which changes no probability.

    A fused kernel's backward pass takes the mean gradient of a query's scores from the output as it
    was rounded (D in FlashAttention, Dao et al. 2022, https://arxiv.org/abs/2205.14135), and not
    from the gradients that it is the mean of. In half precision the difference is the same for all
    keys of a query. It reaches the query's gradient times the mean of the keys, and the keys'
    gradients all alike: where keys hardly differ, that is most of what is learned. The loss stops
    falling, and then is not a number (Qiu and Yao 2025, https://arxiv.org/abs/2510.04212). Keys
    without a mean have nothing to multiply it by, and pass on nothing that is alike for all.
    """
    if attention_mask is None:
        return k_BNTD - k_BNTD.mean(-2, keepdim=True)
    # Masks give all tokens that count the same: one over their number, and the others nothing.
    share_B11T = attention_mask.softmax(-1).to(k_BNTD.dtype)
    return k_BNTD - share_B11T @ k_BNTD


class Dropout(nn.Dropout):
    """As `torch.nn.Dropout`, faster in half precision on a CPU.

    Args:
        p: Probability with which a number is set to zero; 0.5, torch's default.
        inplace: As torch's; without effect where this class is faster.

    Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.

    Example:
        >>> dropout = Dropout(0.25)
        >>> dropped = dropout(torch.ones(10_000, dtype=torch.bfloat16))
        >>> sorted(set(dropped.tolist()))  # 1 / (1 - 0.25) in eight bits
        [0.0, 1.3359375]
        >>> bool(abs((dropped == 0).float().mean() - 0.25) < 0.05)
        True
        >>> dropout.eval()(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or not _is_slow_in_torch(input):
            return super().forward(input)
        return _drop(input, self.p) * (1 / (1 - self.p))


class _Masked(torch.autograd.Function):
    """Half-precision numbers times zeros and ones, as bits times integers: no float is made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        return (x.view(torch.int16) * kept).view(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (grad.view(torch.int16) * kept).view(grad.dtype), None


def _drop(x: Tensor, p: float) -> Tensor:
    """`x`, zero with probability `p`, rounded to a multiple of 2 ** -16; not scaled.

    The draw follows torch's default generator.
    """
    seed = int(torch.randint(2**63 - 1, ()))
    generator = numpy.random.Generator(numpy.random.SFC64(seed))
    words = generator.integers(0, 2**64, (x.numel() + 3) // 4, dtype=numpy.uint64)
    bits = torch.from_numpy(words).view(torch.int16)[: x.numel()].view(x.shape)
    kept = torch.ge(bits, round(p * _LEVELS) - _LEVELS // 2, out=bits)
    dropped: Tensor = _Masked.apply(x, kept)  # type: ignore[no-untyped-call]
    return dropped


def _is_half(x: Tensor) -> bool:
    return x.dtype in (torch.bfloat16, torch.float16)


def _is_slow_in_torch(x: Tensor) -> bool:
    return _is_half(x) and x.device.type == "cpu" and not torch.compiler.is_compiling()
