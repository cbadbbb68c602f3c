from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from slicewise.data.batch import Split
from slicewise.data.noise import noise_batch

CPU = torch.device("cpu")


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def test_same_batch_in_another_process(run_python: Callable[..., str]) -> None:
    program = """
import hashlib, torch
from slicewise.data.batch import Split
from slicewise.data.noise import noise_batch
torch.manual_seed(12345)
torch.set_num_threads(1)
for seed, split, index in [(0, 0, 0), (0, 0, 7), (0, 1, 7), (3, 0, 7)]:
    batch = noise_batch((2, 5, 24), seed, Split(split), index, torch.device("cpu"))
    print(hashlib.sha256(batch.numpy().tobytes()).hexdigest())
"""
    elsewhere = run_python(program, PYTHONHASHSEED="1").split()
    here = [
        _digest(noise_batch((2, 5, 24), seed, Split(split), index, CPU))
        for seed, split, index in [(0, 0, 0), (0, 0, 7), (0, 1, 7), (3, 0, 7)]
    ]
    assert elsewhere == here
    assert len(set(here)) == 4


def test_noise_is_standard_normal() -> None:
    batch = noise_batch((16, 64, 96), 0, Split.TRAIN, 0, CPU)
    assert batch.dtype == torch.float32
    assert abs(batch.mean().item()) < 0.02
    assert abs(batch.std().item() - 1) < 0.02
