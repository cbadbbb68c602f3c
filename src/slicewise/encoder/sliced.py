"""An encoder that is a list of blocks: the model around a slice, with all slices in it.

Shapes: B batch, T tokens, H hidden size, N texts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.base import Student
from slicewise.students.bert_layer import BertLayer
from slicewise.teacher import TeacherSlice
from slicewise.whole import Pooling, Tokenizer, WholeModel, additive_mask, pad

_BATCH_SIZE = 32


class Span(NamedTuple):
    """Consecutive layers of the original.

    Attributes:
        first_layer: From 0.
        num_layers: How many.
    """

    first_layer: int
    num_layers: int

    @property
    def end(self) -> int:
        """The layer after the last."""
        return self.first_layer + self.num_layers

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(self.first_layer, self.end))

    def __str__(self) -> str:
        last = self.end - 1
        return f"layer {last}" if self.num_layers == 1 else f"layers {self.first_layer}-{last}"


class Block(nn.Module):
    """What stands in the place of a span of layers.

    Args:
        module: `(hidden_states, attention_mask) -> hidden_states`: a student, or the teacher
            slice itself.
        span: The layers of the original that it stands for.
        layers: Those of the original's layers that it was made of, one for each layer that it
            has; empty where it was made in another way.
    """

    def __init__(self, module: nn.Module, span: Span, layers: Sequence[int] = ()) -> None:
        super().__init__()
        self.module = module
        self.span = span
        self.layers = tuple(layers)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, T, H), and an additive mask (B, 1, 1, T), to (B, T, H)."""
        y_BTH: Tensor = self.module(hidden_states, attention_mask)
        return y_BTH


class SlicedEncoder(nn.Module):
    """Embeddings, blocks one after the other, and a pooling: texts to embeddings.

    Args:
        embeddings: The model of transformers without its layers: it returns what enters the
            first one. Frozen.
        blocks: Their spans follow on each other, from layer 0 on.
        tokenizer: Of the model.
        pooling: Of the model.
        max_length: Most tokens of a text: the positions that the model knows.
        files: The folder or the model on the hub that the tokenizer's files are in, where there
            is one.
        final: What follows the last block, such as a norm: (B, T, H) to (B, T, H). Frozen.

    Raises:
        SlicewiseError: The spans of the blocks leave layers out, or overlap.

    Example:
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(
        ...     num_layers=2,
        ...     hidden_size=24,
        ...     num_hidden_layers=2,
        ...     num_attention_heads=2,
        ...     intermediate_size=48,
        ... )
        >>> original = original_encoder(teacher)
        >>> original.encode(["One text.", "And another."]).shape
        torch.Size([2, 24])
    """

    def __init__(
        self,
        embeddings: nn.Module,
        blocks: Sequence[Block],
        tokenizer: Tokenizer,
        pooling: Pooling,
        max_length: int,
        files: str | Path | None = None,
        final: nn.Module | None = None,
    ) -> None:
        super().__init__()
        ends = [0, *(block.span.end for block in blocks)]
        if ends[:-1] != [block.span.first_layer for block in blocks]:
            raise SlicewiseError(
                f"blocks for {', '.join(str(block.span) for block in blocks)}: each has to begin "
                "where the one before it ends"
            )
        self.embeddings = embeddings
        self.blocks = nn.ModuleList(blocks)
        self.final = nn.Identity() if final is None else final
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = max_length
        self.files = files

    def train(self, mode: bool = True) -> SlicedEncoder:
        super().train(mode)
        # Their dropout would make every text another one.
        self.embeddings.train(False)
        return self

    @property
    def hidden_size(self) -> int:
        """H."""
        size: int = self.embeddings.config.hidden_size  # type: ignore[union-attr, assignment]
        return size

    @property
    def num_layers(self) -> int:
        """Of the original."""
        return self.block_list[-1].span.end if self.block_list else 0

    @property
    def block_list(self) -> list[Block]:
        """The blocks, first to last."""
        return cast(list[Block], list(self.blocks))

    def tokenize(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """The ids (N, T) of texts and which are real tokens, (N, T); as `WholeModel.tokenize`."""
        encoded = self.tokenizer.encode(texts, max_length)
        return pad(encoded, self.tokenizer.pad_id)

    def enter(self, input_ids: Tensor, keep: Tensor) -> Tensor:
        """The hidden states (B, T, H) that enter the first block.

        Args:
            input_ids: (B, T).
            keep: Which are real tokens, (B, T).
        """
        x_BTH: Tensor = self.embeddings(input_ids=input_ids, attention_mask=keep).last_hidden_state
        return x_BTH

    def states(self, hidden_states: Tensor, keep: Tensor) -> list[Tensor]:
        """The hidden states before the first block and after each of them, all (B, T, H).

        Args:
            hidden_states: What enters the first block.
            keep: Which are real tokens, (B, T).
        """
        mask = additive_mask(keep)
        states = [hidden_states]
        for block in self.blocks:
            states.append(block(states[-1], mask))
        return states

    def forward(self, input_ids: Tensor, keep: Tensor) -> Tensor:
        """The final hidden states (B, T, H).

        Args:
            input_ids: (B, T).
            keep: Which are real tokens, (B, T).
        """
        y_BTH: Tensor = self.final(self.states(self.enter(input_ids, keep), keep)[-1])
        return y_BTH

    def embed(self, hidden_states: Tensor, keep: Tensor) -> Tensor:
        """The embeddings (B, H) of what left the last block.

        Args:
            hidden_states: (B, T, H).
            keep: Which are real tokens, (B, T).
        """
        return self.pooling(self.final(hidden_states), keep)

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], batch_size: int = _BATCH_SIZE, max_length: int | None = None
    ) -> Tensor:
        """The embeddings (N, H) of texts, on the CPU; in eval mode for the time.

        Args:
            texts: N texts.
            batch_size: Texts at a time; texts of one length side by side.
            max_length: Tokens after which a text is cut off; all that the model knows positions
                for unless given.
        """
        device = next(self.embeddings.parameters()).device
        length = min(max_length or self.max_length, self.max_length)
        encoded = self.tokenizer.encode(texts, length)
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
        embeddings_NH = torch.empty(len(encoded), self.hidden_size)
        modes = [(part, part.training) for part in self.modules()]
        self.eval()
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids_BT, keep_BT = pad([encoded[row] for row in rows], self.tokenizer.pad_id)
            ids_BT, keep_BT = ids_BT.to(device), keep_BT.to(device)
            pooled_BH = self.pooling(self(ids_BT, keep_BT), keep_BT)
            embeddings_NH[rows] = pooled_BH.float().cpu()
        for part, training in modes:
            part.training = training
        return embeddings_NH


def original_encoder(teacher: TeacherSlice) -> SlicedEncoder:
    """The teacher's whole model, every layer a block by itself; frozen.

    Args:
        teacher: Any slice of the model.

    Raises:
        ArgumentError, SlicewiseError: As `TeacherSlice.whole`.
    """
    if teacher.sublayer != "layer":
        allowed = "layer: a whole encoder is made of whole layers"
        raise ArgumentError("sublayer", teacher.sublayer, allowed)
    whole = teacher.whole()
    # The same modules, not copies: the weights are in memory once.
    layers = [
        layer
        for part in (whole.below, teacher, whole.above)
        for layer in cast(TeacherSlice, part).layers
    ]
    blocks = [
        Block(
            TeacherSlice(nn.ModuleList([layer]), teacher.hidden_size, teacher.source),
            Span(number, 1),
            [number],
        )
        for number, layer in enumerate(layers)
    ]
    return _around(whole, blocks).eval().requires_grad_(False)


def teacher_slice(original: SlicedEncoder, span: Span) -> TeacherSlice:
    """Layers of an original as the teacher of a student.

    Args:
        original: As `original_encoder` returns it.
        span: Which layers.
    """
    parts = [cast(TeacherSlice, original.block_list[layer].module) for layer in span.layers]
    layers = nn.ModuleList([layer for part in parts for layer in part.layers])
    return TeacherSlice(layers, original.hidden_size, parts[0].source)


def assemble(original: SlicedEncoder, blocks: Sequence[Block]) -> SlicedEncoder:
    """An encoder with the original's embeddings, tokenizer and pooling, and other blocks.

    Args:
        original: The embeddings stay its own; they are shared, not copied.
        blocks: For all of its layers.

    Raises:
        SlicewiseError: The blocks are not for all of its layers, each once.

    Example:
        >>> from slicewise.students.nothing import Nothing
        >>> from slicewise.teacher import random_bert
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
        >>> original = original_encoder(random_bert(num_hidden_layers=3, **sizes))
        >>> spans = partition(original.num_layers, [1, 2])
        >>> kept = keep_slice(original, spans[0])
        >>> smaller = assemble(original, [kept, Block(Nothing(24), spans[1])])
        >>> smaller.encode(["Two layers fewer."]).shape
        torch.Size([1, 24])
    """
    encoder = SlicedEncoder(
        original.embeddings,
        blocks,
        original.tokenizer,
        original.pooling,
        original.max_length,
        original.files,
        original.final,
    )
    if encoder.num_layers != original.num_layers:
        raise SlicewiseError(
            f"blocks for {encoder.num_layers} layers: the original has {original.num_layers}"
        )
    return encoder


def keep_slice(original: SlicedEncoder, span: Span) -> Block:
    """The slice itself, as a student that can learn and be saved.

    Args:
        original: As `original_encoder` returns it.
        span: Which layers.

    Raises:
        SlicewiseError: No layer of ours computes what the original's do.
    """
    teacher = teacher_slice(original, span)
    student = BertLayer(**BertLayer.sizes_from(teacher))
    student.start_from(teacher)
    return Block(student, span, span.layers).eval()


def partition(num_layers: int, layers_per_slice: int | Sequence[int]) -> list[Span]:
    """Cuts an encoder into slices.

    Args:
        num_layers: Of the encoder.
        layers_per_slice: Of every slice, the last one perhaps fewer; or of each slice, in a list.

    Raises:
        ArgumentError: A slice would have no layers, or the list does not add up to the layers.

    Example:
        >>> [str(span) for span in partition(6, 2)]
        ['layers 0-1', 'layers 2-3', 'layers 4-5']
        >>> [str(span) for span in partition(6, [1, 4, 1])]
        ['layer 0', 'layers 1-4', 'layer 5']
    """
    if isinstance(layers_per_slice, int):
        if layers_per_slice < 1:
            raise ArgumentError("partition", layers_per_slice, "an integer of at least 1")
        lengths = [
            min(layers_per_slice, num_layers - first)
            for first in range(0, num_layers, layers_per_slice)
        ]
    else:
        lengths = list(layers_per_slice)
    if min(lengths) < 1 or sum(lengths) != num_layers:
        raise ArgumentError(
            "partition",
            layers_per_slice,
            f"a number, or a list of numbers that add up to {num_layers}, the encoder's layers",
        )
    firsts = itertools.accumulate(lengths, initial=0)
    return [Span(first, length) for first, length in zip(firsts, lengths, strict=False)]


def student_of(block: Block) -> Student:
    """The student in a block.

    Raises:
        SlicewiseError: It holds the teacher's own layers, or what is no student.
    """
    if not isinstance(block.module, Student):
        raise SlicewiseError(f"{block.span}: {type(block.module).__name__} is no student")
    return block.module


def _around(whole: WholeModel, blocks: Sequence[Block]) -> SlicedEncoder:
    return SlicedEncoder(
        whole.embeddings,
        blocks,
        whole.tokenizer,
        whole.pooling,
        whole.max_length,
        whole.files,
        whole.final,
    )
