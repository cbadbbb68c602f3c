"""The whole model around a teacher slice: from text to the slice, and from there to an embedding.

Shapes: B batch, T tokens, H hidden size, V words of the vocabulary.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer

from slicewise.attention import MASKED
from slicewise.digest import module_digest
from slicewise.errors import ArgumentError, MissingResource, ResourceError

log = logging.getLogger(__name__)

_WORD = re.compile(r"\w+|[^\w\s]")
# What vocabularies of BERT hold in reserve: no text has them, and no training saw them.
_RESERVED = re.compile(r"\[unused\d+\]")


class Tokenizer(Protocol):
    """What a whole model needs of a tokenizer.

    Attributes:
        first_id: Begins every text ([CLS]).
        last_id: Ends every text ([SEP]).
        pad_id: Fills up a row.
        word_ids: All ids that stand for a piece of text.

    Example:
        >>> tokenizer: Tokenizer = HashedWords(vocab_size=100)
        >>> [len(ids) for ids in tokenizer.encode(["", "one", "two words"], max_length=8)]
        [2, 3, 4]
    """

    first_id: int
    last_id: int
    pad_id: int
    word_ids: Sequence[int]

    def encode(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """The ids of each text, `first_id` and `last_id` included, no longer than `max_length`."""


class HashedWords:
    """The tokenizer of a model with random weights: a word's id is its hash.

    Words are runs of letters and digits, in lower case, and single punctuation marks. Any text is
    as good as any other to random weights; what counts is that equal words get equal ids, in
    every process.

    Args:
        vocab_size: Ids in all, with the three special ones.

    Weinberger et al. 2009, "Feature Hashing", https://arxiv.org/abs/0902.2206.

    Example:
        >>> tokenizer = HashedWords(vocab_size=100)
        >>> one, other = tokenizer.encode(["The end, the END!", "an end"], max_length=8)
        >>> len(one), one[0] == tokenizer.first_id, one[-1] == tokenizer.last_id
        (8, True, True)
        >>> one[2] == one[5] == other[2]  # "end", each time
        True
    """

    pad_id, first_id, last_id = range(3)

    def __init__(self, vocab_size: int) -> None:
        self.word_ids: Sequence[int] = range(3, vocab_size)

    def encode(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        return [
            [self.first_id, *map(self._id, self._words(text)[: max_length - 2]), self.last_id]
            for text in texts
        ]

    @staticmethod
    def _words(text: str) -> list[str]:
        return _WORD.findall(text.lower())

    def _id(self, word: str) -> int:
        hashed = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return self.word_ids[hashed % len(self.word_ids)]


class PretrainedTokenizer:
    """The tokenizer that comes with a model.

    Args:
        pretrained: A folder or a model on the Hugging Face hub.
        vocab_size: Of the model's embeddings.

    Raises:
        ArgumentError: There is no tokenizer, or it cannot be read.
        SlicewiseError: It knows ids that the model does not.

    Example:
        >>> import tempfile
        >>> from transformers import BertTokenizer
        >>> words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "end": 5}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = BertTokenizer(vocab=words).save_pretrained(folder)
        ...     tokenizer = PretrainedTokenizer(folder, vocab_size=6)
        >>> tokenizer.encode(["end end", "the end"], max_length=8)
        [[2, 5, 5, 3], [2, 1, 5, 3]]
        >>> tokenizer.word_ids
        [5]
    """

    def __init__(self, pretrained: str, vocab_size: int) -> None:
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(pretrained)
        # The parsers of tokenizer files have no common error but this.
        except Exception as error:
            raise _no_tokenizer(pretrained, f"; it says: {str(error).splitlines()[0]}") from error
        special = {*tokenizer.all_special_ids}
        words = {id_: word for word, id_ in tokenizer.get_vocab().items() if id_ not in special}
        ends = (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        # Without its files, transformers makes a tokenizer that knows special tokens only.
        if not words or None in ends:
            raise _no_tokenizer(pretrained)
        largest = max(*words, *special)
        if largest >= vocab_size:
            raise ResourceError(
                f"teacher.pretrained={pretrained}: the tokenizer and the weights do not fit "
                f"together: the tokenizer has an id {largest}, the model has {vocab_size} ids"
            )
        self.first_id, self.last_id, self.pad_id = ends
        self.word_ids: Sequence[int] = sorted(
            id_ for id_, word in words.items() if not _RESERVED.fullmatch(word)
        )
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(
            list(texts),
            max_length=max_length,
            truncation=True,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return ids


class Pooling:
    """How a model makes one embedding of a text's final hidden states.

    As the model's sentence-transformers files say (`modules.json`, and the `config.json` of its
    pooling module): the mean over the real tokens, their maximum, or the first token. Where there
    are no such files, as with plain BERT, and for any other pooling: the mean over the real
    tokens, then scaled to length 1. A dense layer that follows the pooling is left out.

    Args:
        mode: `mean`, which the default teacher has, `max` or `cls`.
        normalize: Whether to scale to length 1, so that scalar products are cosines.

    Reimers and Gurevych 2019, "Sentence-BERT", https://arxiv.org/abs/1908.10084.

    Example:
        >>> hidden_BTH = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [9.0, 9.0]]])
        >>> keep_BT = torch.tensor([[True, True, False]])
        >>> Pooling(normalize=False)(hidden_BTH, keep_BT)
        tensor([[2., 2.]])
        >>> Pooling("max", normalize=False)(hidden_BTH, keep_BT)
        tensor([[3., 4.]])
        >>> Pooling("cls")(hidden_BTH, keep_BT)
        tensor([[1., 0.]])
    """

    MODES = ("mean", "max", "cls")

    def __init__(self, mode: str = "mean", normalize: bool = True) -> None:
        self.mode = mode
        self.normalize = normalize

    def __call__(self, hidden_states: Tensor, keep: Tensor) -> Tensor:
        """(B, T, H) and (B, T), where True marks real tokens, to (B, H)."""
        keep_BT1 = keep[:, :, None]
        if self.mode == "cls":
            pooled_BH = hidden_states[:, 0]
        elif self.mode == "max":
            pooled_BH = hidden_states.masked_fill(~keep_BT1, float("-inf")).amax(1)
        else:
            sum_BH = hidden_states.masked_fill(~keep_BT1, 0).sum(1)
            pooled_BH = sum_BH / keep_BT1.sum(1)
        return F.normalize(pooled_BH, dim=-1) if self.normalize else pooled_BH

    @classmethod
    def of(cls, pretrained: str) -> Pooling:
        """Of a folder or a model on the Hugging Face hub; the default where nothing is said."""
        modules = _read_json(pretrained, "modules.json")
        if not isinstance(modules, list):
            return cls()
        kinds = {
            str(module.get("type")).rpartition(".")[2]: str(module.get("path"))
            for module in modules
            if isinstance(module, dict)
        }
        normalize = "Normalize" in kinds
        config = _read_json(pretrained, f"{kinds.get('Pooling')}/config.json")
        if not isinstance(config, dict):
            return cls(normalize=normalize)
        # Once a flag for each mode, now one name.
        mode = config.get("pooling_mode") or [
            name
            for name, key in (("cls", "cls_token"), ("max", "max_tokens"), ("mean", "mean_tokens"))
            if config.get(f"pooling_mode_{key}")
        ]
        mode = mode[0] if isinstance(mode, list) and len(mode) == 1 else mode
        if mode in cls.MODES:
            return cls(mode, normalize)
        log.warning("%s: unknown pooling %s: compared by the mean instead", pretrained, mode)
        return cls(normalize=normalize)


class WholeModel(nn.Module):
    """Everything of a model but the slice itself; frozen, in eval mode.

    `leave(slice(enter(input_ids, keep), additive_mask(keep)), keep)` is the model's embedding.

    Args:
        embeddings: The model of transformers without its layers: it returns what enters the
            first one.
        below: The layers below the slice, `(hidden_states, attention_mask) -> hidden_states`.
        above: The layers above, likewise.
        tokenizer: Of the model.
        pooling: Of the model.
        max_length: Most tokens of a text: the positions that the model knows.
        files: The folder or the model on the hub that all of it came from, if any.
        final: What follows the last layer, such as a norm: (B, T, H) to (B, T, H).

    Example:
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(
        ...     hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
        >>> whole = teacher.whole()
        >>> input_ids_BT, keep_BT = whole.tokenize(["A text.", "Another one."], max_length=8)
        >>> entering_BTH = whole.enter(input_ids_BT, keep_BT)
        >>> leaving_BTH = teacher(entering_BTH, additive_mask(keep_BT))
        >>> whole.leave(leaving_BTH, keep_BT).shape
        torch.Size([2, 24])
    """

    def __init__(
        self,
        embeddings: nn.Module,
        below: nn.Module,
        above: nn.Module,
        tokenizer: Tokenizer,
        pooling: Pooling,
        max_length: int,
        files: str | None = None,
        final: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.below = below
        self.above = above
        self.final = nn.Identity() if final is None else final
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.max_length = max_length
        self.files = files
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> WholeModel:
        super().train(False)
        return self

    def tokenize(self, texts: Sequence[str], max_length: int) -> tuple[Tensor, Tensor]:
        """The token ids of texts, as long as the longest of them.

        Args:
            texts: B texts.
            max_length: Tokens after which a text is cut off, the special ones included.

        Returns:
            The ids (B, T) and which of them are real tokens, not padding, (B, T).
        """
        encoded = self.tokenizer.encode(texts, max_length)
        return self.pad(encoded, max(map(len, encoded)))

    def pad(self, encoded: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor]:
        """Rows of ids to tensors of T = `length`, as `tokenize` returns them."""
        return pad(encoded, self.tokenizer.pad_id, length)

    @torch.no_grad()
    def enter(self, input_ids: Tensor, keep: Tensor) -> Tensor:
        """The hidden states (B, T, H) that really enter the slice.

        Args:
            input_ids: (B, T).
            keep: Which are real tokens, (B, T).
        """
        x_BTH = self.embeddings(input_ids=input_ids, attention_mask=keep).last_hidden_state
        entering_BTH: Tensor = self.below(x_BTH, additive_mask(keep))
        return entering_BTH

    def digest(self) -> str:
        """Names what decides what `enter` returns: 64 hexadecimal digits."""
        return module_digest(self.embeddings, self.below)

    @torch.no_grad()
    def leave(self, hidden_states: Tensor, keep: Tensor) -> Tensor:
        """The embeddings (B, H) that the model makes of what left the slice.

        Args:
            hidden_states: (B, T, H).
            keep: Which are real tokens, (B, T).
        """
        return self.embed(self.above(hidden_states, additive_mask(keep)), keep)

    def embed(self, hidden_states: Tensor, keep: Tensor) -> Tensor:
        """The embeddings (B, H) of what left the last layer, (B, T, H)."""
        return self.pooling(self.final(hidden_states), keep)


def pad(
    encoded: Sequence[Sequence[int]], pad_id: int, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Rows of ids to tensors.

    Args:
        encoded: B rows of ids.
        pad_id: What fills up a row.
        length: T; as long as the longest row unless given.

    Returns:
        The ids (B, T) and which of them are real tokens, (B, T).
    """
    length = length or max(map(len, encoded))
    ids_BT = torch.full((len(encoded), length), pad_id)
    keep_BT = torch.zeros(len(encoded), length, dtype=torch.bool)
    for row, ids in enumerate(encoded):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        keep_BT[row, : len(ids)] = True
    return ids_BT, keep_BT


def additive_mask(keep: Tensor) -> Tensor | None:
    """The mask that attention adds to its scores.

    Args:
        keep: Which are real tokens, (B, T).

    Returns:
        (B, 1, 1, T), 0 for real tokens and `MASKED` for padding; None where every token is real.

    Example:
        >>> mask = additive_mask(torch.tensor([[True, True], [True, False]]))
        >>> mask.shape, (mask == 0).flatten(1).tolist()
        (torch.Size([2, 1, 1, 2]), [[True, True], [True, False]])
        >>> additive_mask(torch.tensor([[True, True]])) is None
        True
    """
    return None if keep.all() else padding_mask(keep)


def padding_mask(keep: Tensor) -> Tensor:
    """As `additive_mask`, also where every token is real: nothing depends on the values."""
    mask_BT = torch.zeros(keep.shape, device=keep.device).masked_fill(~keep, MASKED)
    return mask_BT[:, None, None, :]


def _no_tokenizer(pretrained: str, said: str = "") -> ArgumentError:
    return MissingResource("pretrained", pretrained, f"a model with its tokenizer{said}")


def _read_json(pretrained: str, name: str) -> Any:
    """A file of a folder or of a model on the hub; None where it cannot be had."""
    path = Path(pretrained, name)
    if not Path(pretrained).is_dir():
        try:
            path = Path(hf_hub_download(pretrained, name))
        except (HfHubHTTPError, HFValidationError, OSError):
            return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
