"""Attention and dropout in half precision on a CPU: the same mathematics, drawn faster."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from slicewise.attention import Dropout, _apart, attend
from slicewise.teacher import TeacherSlice
from slicewise.whole import additive_mask

B, N, T, D, W = 2, 3, 5, 4, 6
BF16 = torch.bfloat16


def _inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(B, N, T, D), (B, N, T, D), (B, N, T, W)]
    q, k, v = (torch.randn(size, generator=generator).to(dtype) for size in sizes)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


@pytest.mark.parametrize("masked", [False, True])
def test_half_precision_is_torchs_attention(masked: bool) -> None:
    mask = torch.tensor([0.0, 0.0, 0.0, -1e9, -1e9]).expand(B, 1, 1, T) if masked else None
    halves = _inputs(BF16)
    singles = [tensor.detach().float().requires_grad_() for tensor in halves]
    attend(*halves, mask).float().square().sum().backward()
    F.scaled_dot_product_attention(*singles, attn_mask=mask).square().sum().backward()
    for half, single in zip(halves, singles, strict=True):
        assert half.grad is not None
        torch.testing.assert_close(half.grad.float(), single.grad, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_full_precision_and_inference_are_left_to_torch(dtype: torch.dtype) -> None:
    q, k, v = (tensor.detach() for tensor in _inputs(dtype))
    with torch.no_grad():
        assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v))
    if dtype == torch.float32:
        torch.manual_seed(7)
        ours = attend(*_inputs(dtype), dropout_p=0.5)
        torch.manual_seed(7)
        assert torch.equal(ours, F.scaled_dot_product_attention(*_inputs(dtype), dropout_p=0.5))


def test_dropped_attention_has_the_mean_of_the_whole() -> None:
    q, k, v = _inputs(BF16)
    whole = attend(q, k, v).detach().float()
    torch.manual_seed(0)
    draws = torch.stack([attend(q, k, v, dropout_p=0.3).detach().float() for _ in range(3000)])
    spread = draws.std(0) / math.sqrt(len(draws))
    assert draws.std(0).mean() > 0.1
    # Rounding to bfloat16 does not average out.
    torch.testing.assert_close(draws.mean(0), whole, atol=float(6 * spread.max()) + 0.01, rtol=0.01)


@settings(deadline=None, max_examples=40)
@given(p=st.floats(0.01, 0.9), numel=st.integers(1, 50), seed=st.integers(0, 2**32))
def test_dropout_keeps_or_scales(p: float, numel: int, seed: int) -> None:
    dropout = Dropout(p)
    x = torch.ones(numel, dtype=BF16, requires_grad=True)
    torch.manual_seed(seed)
    y = dropout(x)
    scale = torch.tensor(1 / (1 - p), dtype=BF16)
    assert set(y.tolist()) <= {0.0, scale.item()}
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    torch.manual_seed(seed)
    assert torch.equal(dropout(x), y)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_the_share_that_is_dropped(p: float) -> None:
    torch.manual_seed(0)
    n = 400_000
    dropped = (Dropout(p)(torch.ones(n, dtype=BF16)) == 0).float().mean().item()
    assert dropped == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n) + 2**-17)


def test_neighbours_are_dropped_independently() -> None:
    """Four elements share one word of the generator."""
    torch.manual_seed(0)
    kept = (Dropout(0.3)(torch.ones(400_000, dtype=BF16)) != 0).float().view(-1, 4)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 0.02


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float32, BF16, torch.float16])
@pytest.mark.parametrize("real", [1, 12])
def test_blocks_of_keys_that_are_masked_as_a_whole_leave_numbers(
    device: str, dtype: torch.dtype, real: int
) -> None:
    """Most texts fill a tenth of 128 tokens: fused kernels meet blocks without a single one."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, 2, 128, 32)] * 3
    tensors = [torch.randn(size, generator=generator).to(device, dtype) for size in sizes]
    inputs = [tensor.requires_grad_() for tensor in tensors]
    keep_BT = torch.arange(128, device=device).expand(4, 128) < real
    mask = additive_mask(keep_BT)
    assert mask is not None
    assert torch.isfinite(mask.to(dtype)).all()
    for lowest in (mask, torch.where(mask < 0, torch.finfo(torch.float32).min, mask)):
        context = attend(*inputs, lowest, dropout_p=0.1)
        context.float().square().sum().backward()
        assert torch.isfinite(context).all()
        assert all(torch.isfinite(x.grad).all() for x in inputs if x.grad is not None)
        # Only the real keys have been attended to.
        assert all(not x.grad[:, :, real:].any() for x in inputs[1:] if x.grad is not None)


def _much_alike(masked: bool, device: str) -> tuple[list[Tensor], Tensor | None]:
    """Inputs of a student that begins: the keys and values of a text hardly differ; and a mask."""
    generator = torch.Generator().manual_seed(0)
    shape, common = (4, 6, 128, 32), (4, 6, 1, 32)
    tensors = [
        torch.randn(shape, generator=generator) * spread
        + torch.randn(common, generator=generator) * mean
        for spread, mean in ((1, 1), (0.1, 1), (0.1, 1), (1, 0))
    ]
    keep_BT = torch.arange(128).expand(4, 128) < torch.tensor([[128], [90], [40], [12]])
    mask = additive_mask(keep_BT) if masked else None
    return [x.to(device) for x in tensors], None if mask is None else mask.to(device)


def _gradients(
    attention: Callable[..., Tensor], inputs: list[Tensor], mask: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    # In single precision of what half precision has left of them.
    q, k, v, passed = (x.to(BF16, copy=True).to(dtype).requires_grad_() for x in inputs)
    attention(q, k, v, None if mask is None else mask.to(dtype)).backward(passed.detach())
    assert q.grad is not None
    assert k.grad is not None
    return q.grad.double(), k.grad.double()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("masked", [False, True])
def test_what_is_learned_where_keys_hardly_differ(masked: bool, device: str) -> None:
    """Fused kernels of half precision mistake what is alike for all keys; students never learned.

    On a CPU `attend` takes the plain products, so the kernel is called as a GPU's is.
    """
    inputs, mask = _much_alike(masked, device)
    if mask is not None:
        mask = mask.clamp_min(-30_000.0)
    fused = F.scaled_dot_product_attention

    def apart(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return fused(q, _apart(k, mask), v, mask)

    exact = _gradients(fused, inputs, mask, torch.float32)
    plain = _gradients(fused, inputs, mask, BF16)
    ours = _gradients(apart if device == "cpu" else attend, inputs, mask, BF16)
    for expected, mistaken, found in zip(exact, plain, ours, strict=True):
        # Of all tokens together: what weights whose inputs are much alike would learn.
        error = (found - expected).sum(-2).norm() / expected.norm()
        assert error < 0.3 * (mistaken - expected).sum(-2).norm() / expected.norm()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
@pytest.mark.parametrize("masked", [False, True])
def test_what_all_keys_have_in_common_is_never_learned(
    masked: bool, dropout_p: float, device: str
) -> None:
    """It changes no probability, whatever is dropped: the gradients of all keys sum to zero."""
    inputs, mask = _much_alike(masked, device)
    torch.manual_seed(2**62 + 7)
    _, k_grad = _gradients(functools.partial(attend, dropout_p=dropout_p), inputs, mask, BF16)
    assert k_grad.sum(-2).norm() < 0.05 * k_grad.norm()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("real", [1, 12])
def test_texts_that_are_mostly_padding_leave_a_teacher_numbers(
    tiny_teacher: TeacherSlice, device: str, real: int
) -> None:
    """Its attention is the library's, which knows nothing of our bound and casts the mask itself.

    The lowest number of 32 bits becomes minus infinity in bfloat16, and so would what is left of a
    block of keys that is masked as a whole: infinity minus infinity. Losses were no numbers then.
    """
    assert torch.tensor(torch.finfo(torch.float32).min).bfloat16().isinf()
    teacher = tiny_teacher.to(device)
    generator = torch.Generator().manual_seed(0)
    x_BTH = torch.randn(4, 128, 24, generator=generator).to(device)
    keep_BT = torch.arange(128, device=device).expand(4, 128) < real
    with torch.autocast(device, torch.bfloat16):
        whole_BTH = teacher(x_BTH, additive_mask(keep_BT))
        alone_BTH = teacher(x_BTH[:, :real], None)
    assert torch.isfinite(whole_BTH).all()
    torch.testing.assert_close(whole_BTH[:, :real], alone_BTH, atol=0.05, rtol=0)
