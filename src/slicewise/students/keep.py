"""Which of a teacher's layers a student with fewer of them begins with.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import copy
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from slicewise.data.batch import Batch
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.base import Student

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice

log = logging.getLogger(__name__)

# `first`, `last`, `auto`, or the layers themselves, counted from the slice's first.
Keep = str | Sequence[int]

# Choices that `auto` tries.
_MOST_CHOICES = 20


def choices(keep: Keep, num_layers: int, available: int) -> list[tuple[int, ...]]:
    """The layers that may be kept: one choice, or for `auto` several.

    Args:
        keep: Which ones.
        num_layers: How many.
        available: Layers of the slice.

    Raises:
        ArgumentError: There are no such layers, or not so many.

    Example:
        >>> choices("last", 2, 6), choices([0, 5], 2, 6), choices("auto", 1, 3)
        ([(4, 5)], [(0, 5)], [(0,), (1,), (2,)])
    """
    layers = tuple(range(available))
    if keep == "first":
        return [layers[:num_layers]]
    if keep == "last":
        return [layers[available - num_layers :]]
    if keep == "auto":
        return some_choices(layers, num_layers)
    if (
        isinstance(keep, str)
        or len(keep) != num_layers
        or not set(keep) <= set(layers)
        or list(keep) != sorted(set(keep))
    ):
        raise ArgumentError(
            "keep",
            keep if isinstance(keep, str) else list(keep),
            f"auto, first, last, or num_layers={num_layers} of the slice's layers 0 to "
            f"{available - 1}, ascending, such as {list(layers[available - num_layers :])}",
        )
    return [tuple(keep)]


def some_choices(
    layers: Sequence[int], count: int, most: int = _MOST_CHOICES
) -> list[tuple[int, ...]]:
    """So many of some layers: all choices where they are few, else runs and even picks.

    Args:
        layers: To choose from, ascending.
        count: How many.
        most: How many choices are few; of more there are five.

    Example:
        >>> some_choices([4, 5, 6], 2)
        [(4, 5), (4, 6), (5, 6)]
        >>> some_choices(range(12), 3)
        [(0, 1, 2), (9, 10, 11), (2, 6, 10), (0, 4, 8), (3, 7, 11)]
    """
    layers = tuple(layers)
    total = len(layers)
    if math.comb(total, count) <= most:
        return list(itertools.combinations(layers, count))
    runs = [layers[:count], layers[total - count :]]
    # From the middle, the beginning and the end of as many parts.
    even = [
        [(2 * k + 1) * total // (2 * count) for k in range(count)],
        [k * total // count for k in range(count)],
        [(k + 1) * total // count - 1 for k in range(count)],
    ]
    return list(dict.fromkeys([*runs, *(tuple(layers[n] for n in each) for each in even)]))


@torch.no_grad()
def take_best(
    student: Student,
    teacher: TeacherSlice,
    batches: Sequence[Batch],
    tried: Sequence[tuple[int, ...]],
    take: Callable[[tuple[int, ...]], None],
) -> tuple[int, ...]:
    """Takes those layers that do the least damage to the model around the slice.

    Damage is one minus the cosine between the model's embeddings with the student and without. A
    loss within the slice does not see it: which layer is nearest to the slice's output says little
    about which the layers above it can do without. Where the model around the slice is not known,
    or there are no batches, the first of the choices is taken.

    Args:
        student: Filled in place by `take`.
        teacher: The slice.
        batches: What enters it.
        tried: Choices of layers.
        take: Gives the student its first weights from some layers.

    Returns:
        The layers that were taken.
    """
    expected = _embeddings(teacher, teacher, batches) if len(tried) > 1 else None
    if expected is None:
        take(tried[0])
        return tried[0]
    device = next(teacher.parameters()).device
    damages = {}
    for layers in tried:
        take(layers)
        running = copy.deepcopy(student).to(device).float().eval()
        ours = _embeddings(running, teacher, batches)
        assert ours is not None
        damages[layers] = 1 - F.cosine_similarity(ours, expected).mean().item()
    best = min(damages, key=lambda layers: damages[layers])
    log.info(
        "Kept layers %s: of %d choices the least damage, %.3f", best, len(tried), damages[best]
    )
    if best != tried[-1]:
        take(best)
    return best


def _embeddings(
    module: torch.nn.Module, teacher: TeacherSlice, batches: Sequence[Batch]
) -> torch.Tensor | None:
    """Of all texts, (texts, H), with a module in the slice's place; None where it cannot be."""
    if not batches:
        return None
    try:
        whole = teacher.whole()
    except SlicewiseError as error:
        log.info("Kept the first of several choices of layers: %s", str(error).splitlines()[0])
        return None
    device = next(teacher.parameters()).device
    whole.to(device)
    found = []
    for batch in batches:
        x_BTH = batch.hidden_states.to(device)
        mask = None if batch.attention_mask is None else batch.attention_mask.to(device)
        real_BT = batch.real_tokens()
        if real_BT is None:
            real_BT = torch.ones(x_BTH.shape[:2], dtype=torch.bool)
        found.append(whole.leave(module(x_BTH, mask), real_BT.to(device)))
    return torch.cat(found)
