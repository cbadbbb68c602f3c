"""What the original makes of some texts, computed once, and what is left of it with other blocks.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slicewise.data.batch import Batch
from slicewise.encoder.sliced import Block, SlicedEncoder
from slicewise.errors import ArgumentError
from slicewise.whole import additive_mask, pad

_BATCH_SIZE = 32


class Observed(NamedTuple):
    """What the original makes of one batch of texts.

    Attributes:
        input_ids: (B, T).
        keep: Which are real tokens, (B, T).
        attention_mask: Additive, (B, 1, 1, T), or None where all are.
        states: The hidden states that enter each layer, and the final ones, each (B, T, H).
        embeddings: (B, H).
    """

    input_ids: Tensor
    keep: Tensor
    attention_mask: Tensor | None
    states: list[Tensor]
    embeddings: Tensor


class Damage(NamedTuple):
    """What a replacement does to the model.

    Attributes:
        text_l1: Mean absolute difference between the hidden states where the replacement ends and
            those of the original there, over real tokens.
        damage: One minus the mean cosine between the embeddings and the original's.
    """

    text_l1: float
    damage: float


class Observations:
    """What the original makes of some texts: all its hidden states and embeddings.

    Kept in memory, 4 bytes for each of tokens x H x (layers + 1): a few hundred texts are meant.

    Args:
        original: As `original_encoder` returns it; the texts are run where it is.
        texts: At least one.
        max_length: Tokens after which a text is cut off.
        batch_size: Texts at a time, those of one length side by side.

    Raises:
        ArgumentError: There are no texts.

    Example:
        >>> from slicewise.encoder.sliced import original_encoder, partition
        >>> from slicewise.students.nothing import Nothing
        >>> from slicewise.teacher import random_bert
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
        >>> original = original_encoder(random_bert(num_hidden_layers=2, **sizes))
        >>> observed = Observations(original, ["One text.", "Another text."])
        >>> dropped = Block(Nothing(24), partition(2, 1)[0])
        >>> 0 < observed.damage(dropped).damage < 1
        True
    """

    @torch.no_grad()
    def __init__(
        self,
        original: SlicedEncoder,
        texts: Sequence[str],
        max_length: int = 128,
        batch_size: int = _BATCH_SIZE,
    ) -> None:
        if not texts:
            raise ArgumentError("texts", "[]", "at least one text")
        encoded = original.tokenizer.encode(texts, min(max_length, original.max_length))
        encoded.sort(key=len)
        starts = range(0, len(encoded), batch_size)
        pad_id = original.tokenizer.pad_id
        self._observe(original, (pad(encoded[n : n + batch_size], pad_id) for n in starts))

    @classmethod
    @torch.no_grad()
    def of_batches(
        cls, original: SlicedEncoder, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> Observations:
        """Of texts that are tokens already.

        Args:
            original: As `original_encoder` returns it.
            batches: Each the ids (B, T) and which are real tokens, (B, T).
        """
        observed = cls.__new__(cls)
        observed._observe(original, batches)
        return observed

    def _observe(self, original: SlicedEncoder, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self.original = original
        device = next(original.embeddings.parameters()).device
        self.batches: list[Observed] = []
        for batch in batches:
            ids_BT, keep_BT = (x.to(device) for x in batch)
            states = original.states(original.enter(ids_BT, keep_BT), keep_BT)
            embeddings_BH = original.embed(states[-1], keep_BT)
            self.batches.append(
                Observed(ids_BT, keep_BT, additive_mask(keep_BT), states, embeddings_BH)
            )

    def entering(self, layer: int) -> list[Batch]:
        """What enters a layer of the original, as batches for a student's first weights."""
        return [Batch(batch.states[layer], batch.attention_mask) for batch in self.batches]

    def leaving(self, layer: int) -> list[Tensor]:
        """What leaves a layer of the original, of each batch."""
        return [batch.states[layer + 1] for batch in self.batches]

    @torch.no_grad()
    def damage(self, block: Block) -> Damage:
        """Of the model with one block in the place of its layers, all others its own.

        Args:
            block: On the original's device; in eval mode for the time.
        """
        span = block.span
        above = self.original.block_list[span.end :]
        return self._compare([block], above, span.first_layer, span.end)

    @torch.no_grad()
    def damage_of(self, encoder: SlicedEncoder) -> Damage:
        """Of a whole encoder in the place of the original; its `text_l1` is of the last states."""
        return self._compare(encoder.block_list, [], 0, self.original.num_layers, encoder)

    def _compare(
        self,
        blocks: Sequence[Block],
        above: Sequence[Block],
        first_layer: int,
        end: int,
        encoder: SlicedEncoder | None = None,
    ) -> Damage:
        modules = nn.ModuleList(blocks)
        modes = [(part, part.training) for part in modules.modules()]
        modules.eval()
        difference, cosine, tokens, texts = 0.0, 0.0, 0, 0
        for ids_BT, keep_BT, mask, states, embeddings_BH in self.batches:
            x_BTH = states[first_layer]
            if encoder is not None and encoder.embeddings is not self.original.embeddings:
                x_BTH = encoder.enter(ids_BT, keep_BT)
            for block in blocks:
                x_BTH = block(x_BTH, mask)
            difference_BT = (x_BTH - states[end]).abs().mean(-1)
            difference += difference_BT[keep_BT].sum(dtype=torch.float64).item()
            for block in above:
                x_BTH = block(x_BTH, mask)
            pooled_BH = self.original.embed(x_BTH, keep_BT)
            cosine += F.cosine_similarity(pooled_BH, embeddings_BH).sum(dtype=torch.float64).item()
            tokens += int(keep_BT.sum())
            texts += len(keep_BT)
        for part, training in modes:
            part.training = training
        # Of what has changed nothing, rounding may leave a cosine above 1.
        return Damage(difference / tokens, max(0.0, 1 - cosine / texts))
