"""A teacher and its inputs, for the tests of students that start from a teacher."""

from __future__ import annotations

import torch

from slicewise.data.batch import Batch
from slicewise.teacher import TeacherSlice, random_bert


def loud_teacher(**sizes: int) -> TeacherSlice:
    """Two layers, 24 wide, of weights so large that attention and neurons matter."""
    geometry = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    teacher = random_bert(**{**geometry, **sizes})
    generator = torch.Generator().manual_seed(3)
    for parameter in teacher.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return teacher


def noise(num_batches: int, seed: int = 1) -> list[Batch]:
    """Standard-normal batches of 8 x 16 tokens, 24 wide."""
    generator = torch.Generator().manual_seed(seed)
    return [Batch(torch.randn(8, 16, 24, generator=generator)) for _ in range(num_batches)]
