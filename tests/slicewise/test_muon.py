"""Muon for matrices and AdamW for the rest, as one optimizer."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim import AdamW, Muon

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


def test_each_parameter_has_torchs_own_step() -> None:
    ours, theirs = _module(), _module()
    optimizer = MuonWithAdamW(ours.parameters(), lr=1e-2)
    matrices = [p for p in theirs.parameters() if p.ndim == 2]
    others = [p for p in theirs.parameters() if p.ndim != 2]
    muon = Muon(matrices, lr=1e-2, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw")
    adamw = AdamW(others, lr=1e-2, weight_decay=1e-4)
    for _ in range(3):
        _step(ours, optimizer)
        _step(theirs, muon, adamw)
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, expected)


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
