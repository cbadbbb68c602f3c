"""Small originals whose layers matter, and texts, for the tests of whole encoders."""

from __future__ import annotations

import functools

import torch

from slicewise.encoder.sliced import SlicedEncoder, original_encoder
from slicewise.teacher import random_bert

TEXTS = [
    "Return the number of items.",
    "A much longer sentence than all of the other ones, of quite a few words more.",
    "Short.",
    "Raise an error if there is none, and say which.",
]


@functools.cache
def many_texts(count: int) -> tuple[str, ...]:
    """Texts of different lengths and words, the same each time."""
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(3, 12, (count,), generator=generator).tolist()
    return tuple(
        " ".join(f"word{n}" for n in torch.randint(0, 500, (k,), generator=generator).tolist())
        for k in lengths
    )


def loud_original(num_layers: int = 4, **sizes: int) -> SlicedEncoder:
    """Layers 24 wide, of weights so large that each of them matters."""
    geometry = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 48}
    teacher = random_bert(num_layers=1, num_hidden_layers=num_layers, **{**geometry, **sizes})
    original = original_encoder(teacher)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in original.blocks.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return original
