"""Numbers that are fetched behind what is launched."""

from __future__ import annotations

import pytest
import torch

from slicewise.fetched import Fetched


def test_on_a_cpu_it_is_there_at_once() -> None:
    x_H = torch.tensor([0.25, 3.0], requires_grad=True)
    fetched = Fetched.behind(x_H)
    assert fetched.there is None
    assert fetched.is_there()
    assert fetched.wait().tolist() == [0.25, 3.0]
    assert not fetched.wait().requires_grad


@pytest.mark.gpu(1)
def test_a_gpu_need_not_be_done_when_it_is_asked() -> None:
    x = torch.ones((), device="cuda")
    # Memory that the CPU shares with it is there from then on.
    Fetched.behind(x).wait()
    # A tenth of a second or so.
    torch.cuda._sleep(200_000_000)
    fetched = Fetched.behind(x)
    x.fill_(2.0)
    assert not fetched.is_there()
    assert fetched.wait().item() == 1.0
    assert fetched.is_there()
