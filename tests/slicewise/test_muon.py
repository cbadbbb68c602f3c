"""Muon for matrices and AdamW for the rest, as one optimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon

from slicewise import muon
from slicewise.muon import MuonWithAdamW


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))


def _step(module: nn.Module, *optimizers: torch.optim.Optimizer) -> None:
    module.zero_grad()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    module(x).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor computes in bfloat16 itself, or would."""
    monkeypatch.setattr(muon, "computes_in_bfloat16", lambda: True)


@pytest.mark.usefixtures("native")
def test_each_parameter_has_torchs_own_step() -> None:
    ours, theirs = _module(), _module()
    optimizer = MuonWithAdamW(ours.parameters(), lr=1e-2)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    others = [p for p in theirs.parameters() if p.ndim != 2]
    recipe = {"lr": 1e-2, "weight_decay": 1e-4}
    torchs = Muon(matrices, adjust_lr_fn="match_rms_adamw", **recipe), AdamW(others, **recipe)
    for _ in range(3):
        _step(ours, optimizer)
        _step(theirs, *torchs)
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_a_processor_without_bfloat16_orthogonalises_in_single_precision(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(2)
    start, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    stepped = {}
    for native in (False, True):
        monkeypatch.setattr(muon, "computes_in_bfloat16", lambda native=native: native)
        weight = nn.Parameter(start.clone())
        weight.grad = gradient.clone()
        MuonWithAdamW([weight], lr=1e-2, weight_decay=0.0).step()
        assert torch.equal(weight.grad, gradient)
        stepped[native] = weight.detach() - start
    # As the paper has it: https://kellerjordan.github.io/posts/muon.
    momentum = 0.05 * gradient
    exact = -1e-2 * 0.2 * max(shape) ** 0.5 * _orthogonalised(0.05 * gradient + 0.95 * momentum)
    torch.testing.assert_close(stepped[False], exact, rtol=1e-4, atol=1e-7)
    # And torch's own, but for the digits that bfloat16 has not.
    torch.testing.assert_close(stepped[True], exact, rtol=0.05, atol=3e-4)
    assert not torch.equal(stepped[True], stepped[False])


def _orthogonalised(matrix: Tensor) -> Tensor:
    """Five steps of Newton and Schulz on the singular values, in double precision."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return (left @ values.diag() @ right).float()


def test_what_is_not_on_the_processor_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muon, "computes_in_bfloat16", lambda: False)
    elsewhere = nn.Parameter(torch.ones(4, 6, device="meta"))
    assert not muon._emulates_bfloat16(Muon([elsewhere]))
    assert muon._emulates_bfloat16(Muon([nn.Parameter(torch.ones(4, 6))]))
    assert not muon._emulates_bfloat16(AdamW([nn.Parameter(torch.ones(4, 6))]))


def test_it_goes_on_from_its_state() -> None:
    module = _module()
    optimizer = MuonWithAdamW(module.parameters(), lr=1e-2)
    _step(module, optimizer)
    other = copy.deepcopy(module)
    resumed = MuonWithAdamW(other.parameters(), lr=1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(2):
        _step(module, optimizer)
        _step(other, resumed)
    for mine, expected in zip(other.parameters(), module.parameters(), strict=True):
        assert torch.equal(mine, expected)


def test_a_copy_goes_on_by_itself() -> None:
    module = _module()
    optimizer = MuonWithAdamW(module.parameters(), lr=1e-2)
    _step(module, optimizer)
    other, copied = copy.deepcopy((module, optimizer))
    for _ in range(2):
        _step(other, copied)
    assert not torch.equal(other[0].weight, module[0].weight)
    for _ in range(2):
        _step(module, optimizer)
    for mine, expected in zip(other.parameters(), module.parameters(), strict=True):
        assert torch.equal(mine, expected)


def test_a_scheduler_reaches_both_parts() -> None:
    module = _module()
    optimizer = MuonWithAdamW(module.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = [p.clone() for p in module.parameters()]
    _step(module, optimizer)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))


def test_without_matrices_it_is_adamw() -> None:
    norm = nn.LayerNorm(4)
    optimizer = MuonWithAdamW(norm.parameters(), lr=1e-2)
    norm(torch.randn(3, 4)).square().sum().backward()
    before = norm.weight.clone()
    optimizer.step()
    assert not torch.equal(norm.weight, before)
