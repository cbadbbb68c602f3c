"""First weights of blocks in a row: each layer fitted to what those before it really return.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from slicewise.data.batch import Batch
from slicewise.encoder.damage import Observations
from slicewise.encoder.sliced import Block, SlicedEncoder, Span, teacher_slice
from slicewise.layers import EncoderLayer, FeedForward
from slicewise.students.bert_layer import BertLayer
from slicewise.students.layers import read_layers
from slicewise.students.reduction import fit_output, output_moments


class _Step(NamedTuple):
    """One module of a row.

    Attributes:
        module: A layer, or a whole block that has none.
        layer: Which of the original's layers it was made of; None for a whole block.
        end: The layer of the original that what it returns enters next.
    """

    module: nn.Module
    layer: int | None
    end: int


@torch.no_grad()
def refit(blocks: Sequence[Block], observed: Observations) -> None:
    """Fits the output map of every layer to the original's hidden states, first to last.

    Solved, not trained: see `slicewise.students.reduction.fit_output`. A layer is to return what
    enters the original's layer that follows next, with whatever was dropped in between. Where
    nothing before a layer and nothing in it was changed, it stays as it is.

    Args:
        blocks: In a row, from any layer on; those of `BertLayer` are filled in place, on the
            device of the observations and in eval mode.
        observed: What the original makes of some texts.

    Example:
        >>> from slicewise.encoder.sliced import original_encoder
        >>> from slicewise.teacher import random_bert
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
        >>> original = original_encoder(random_bert(num_hidden_layers=2, **sizes))
        >>> observed = Observations(original, [f"Text number {n}." for n in range(64)])
        >>> teacher = teacher_slice(original, Span(0, 2))
        >>> student = BertLayer(**{**BertLayer.sizes_from(teacher), "num_layers": 1}).eval()
        >>> student.start_from(teacher)
        >>> block = Block(student, Span(0, 2), [0])
        >>> before = observed.damage(block).text_l1
        >>> refit([block], observed)
        >>> observed.damage(block).text_l1 < before
        True
    """
    if not blocks:
        return
    inputs = observed.entering(blocks[0].span.first_layer)
    place, exact = blocks[0].span.first_layer, True
    for step in _steps(blocks):
        if isinstance(step.module, EncoderLayer):
            assert step.layer is not None
            own = original_layer(observed.original, step.layer)
            exact = exact and step.layer == place and step.end == place + 1
            if not (exact and _is_whole(step.module, own)):
                exact = False
                followed = original_layer(observed.original, step.end - 1)
                entering = observed.entering(step.end - 1)
                moments = output_moments(step.module, inputs, followed, entering)
                fit_output(step.module.feed_forward, followed.feed_forward.norm, moments)
        else:
            exact = False
        place = step.end
        inputs = [
            Batch(step.module(batch.hidden_states, batch.attention_mask), batch.attention_mask)
            for batch in inputs
        ]


def refit_encoder(encoder: SlicedEncoder, observed: Observations) -> None:
    """As `refit`, of all blocks of an encoder; in eval mode for the time.

    Args:
        encoder: With the original's embeddings; filled in place.
        observed: What the original makes of some texts.
    """
    modes = [(part, part.training) for part in encoder.modules()]
    encoder.eval()
    refit(encoder.block_list, observed)
    for part, training in modes:
        part.training = training


def original_layer(original: SlicedEncoder, layer: int) -> EncoderLayer:
    """A layer of the original as one of ours: a copy, frozen."""
    (own,) = read_layers(teacher_slice(original, Span(layer, 1)), 1)
    return own


def targets_of(blocks: Sequence[Block]) -> list[int | None]:
    """What each block is to return: the layer of the original that it enters next.

    The hidden states that enter that layer are what the rest of the encoder was made for. A block
    that computes nothing has no target of its own.

    Example:
        >>> from slicewise.students.nothing import Nothing
        >>> kept = [Block(nn.Linear(24, 24), Span(first, 1)) for first in (0, 2)]
        >>> targets_of([kept[0], Block(Nothing(24), Span(1, 1)), kept[1]])
        [2, None, 3]
    """
    end = blocks[-1].span.end
    targets: list[int | None] = []
    for block in reversed(blocks):
        computes = any(True for _ in block.parameters())
        targets.append(end if computes else None)
        if computes:
            end = block.span.first_layer
    return targets[::-1]


def _steps(blocks: Sequence[Block]) -> Iterator[_Step]:
    for block, target in zip(blocks, targets_of(blocks), strict=True):
        if target is None:
            continue
        if isinstance(block.module, BertLayer) and block.layers:
            ends = [*block.layers[1:], target]
            for layer, number, end in zip(block.module.encoder, block.layers, ends, strict=True):
                yield _Step(layer, number, end)
        else:
            yield _Step(block, None, target)


def _is_whole(layer: EncoderLayer, own: EncoderLayer) -> bool:
    """Whether a layer has all that the original's has."""
    return _sizes(layer.feed_forward) == _sizes(own.feed_forward) and all(
        getattr(layer.attention, name).out_features == getattr(own.attention, name).out_features
        for name in ("query", "value")
    )


def _sizes(block: FeedForward) -> int:
    size: int = block.intermediate.out_features
    return size
