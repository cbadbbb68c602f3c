"""A smaller vocabulary: the pieces that some texts need, and single letters for all others.

The word embeddings are more than half of a small encoder, and most texts need few of them (Abdaoui
et al. 2020, "Load What You Need", https://arxiv.org/abs/2010.05609).

Shapes: V pieces of the vocabulary, W of them kept, H hidden size.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from slicewise.encoder.files import copy_files, new_folder
from slicewise.encoder.sliced import SlicedEncoder
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.whole import PretrainedTokenizer

_TOKENIZER = "tokenizer.json"
_SETTINGS = "tokenizer_config.json"
# A piece a line, in the order of their ids: what older readers of BERT's tokenizer want.
_PIECES = "vocab.txt"
# Where a config names pieces by their ids.
_ID_NAMES = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id")


def reduce_vocabulary(
    encoder: SlicedEncoder, texts: Sequence[str], folder: str | Path, least: int = 1
) -> SlicedEncoder:
    """An encoder that knows the pieces that some texts need, and is the same on them.

    Special pieces and single characters stay as well, so that every word can still be spelt: in
    more pieces than before, and so with another embedding. How much that costs, texts that were not
    counted must tell.

    Args:
        encoder: Left as it was; the blocks are shared.
        texts: Whose pieces are kept.
        folder: Gets the tokenizer's files and those of sentence-transformers; what is there is
            replaced. Saving and exporting take them from there.
        least: How often a piece has to occur.

    Returns:
        The encoder with the smaller vocabulary.

    Raises:
        ArgumentError: The tokenizer is of a kind whose vocabulary cannot be cut, or the encoder has
            none with files; or there are no texts.
        SlicewiseError: The new tokenizer reads the texts in another way.
    """
    tokenizer = encoder.tokenizer
    if encoder.files is None or not isinstance(tokenizer, PretrainedTokenizer):
        raise _refused("null, as the model has no tokenizer with files")
    if not texts:
        raise ArgumentError("texts", "[]", "at least one text")
    encoded = tokenizer.encode(texts, encoder.max_length)
    counts = Counter(piece for ids in encoded for piece in ids)
    with new_folder(folder) as unfinished:
        # Needed by those who read the tokenizer's kind, or the hidden size, off the config.
        config: Any = copy.deepcopy(encoder.embeddings.config)
        config.save_pretrained(unfinished)
        copy_files(encoder.files, unfinished, encoder.pooling)
        kept = _rewrite(unfinished, {piece for piece, n in counts.items() if n >= least})
        config = _renumbered(config, kept)
        config.save_pretrained(unfinished)
        smaller = SlicedEncoder(
            _with_rows(encoder.embeddings, config, kept),
            encoder.block_list,
            PretrainedTokenizer(str(unfinished), len(kept)),
            encoder.pooling,
            encoder.max_length,
            Path(folder),
        )
        if least == 1:
            place = {piece: number for number, piece in enumerate(kept)}
            expected = [[place[piece] for piece in ids] for ids in encoded]
            if smaller.tokenizer.encode(texts, encoder.max_length) != expected:
                raise SlicewiseError(
                    f"{encoder.files}: with fewer pieces its tokenizer reads the texts otherwise"
                )
    return smaller.train(encoder.training)


def _rewrite(folder: Path, needed: set[int]) -> list[int]:
    """Cuts the vocabulary in a tokenizer's files; returns the ids that stay, ascending."""
    path = folder / _TOKENIZER
    if not path.is_file():
        raise _refused(f"null, as the tokenizer has no {_TOKENIZER}")
    description = json.loads(path.read_text())
    model, added = description["model"], description["added_tokens"]
    special = {token["id"] for token in added}
    if model["type"] == "WordPiece":
        prefix = model["continuing_subword_prefix"]
        pieces = {number: piece for piece, number in model["vocab"].items()}
        letters = {n for n, piece in pieces.items() if len(piece.removeprefix(prefix)) == 1}
    elif model["type"] == "Unigram":
        pieces = {number: piece for number, (piece, _) in enumerate(model["vocab"])}
        letters = {n for n, piece in pieces.items() if len(piece.removeprefix("▁")) <= 1}
        special.add(model["unk_id"])
    else:
        raise _refused(f"null: a vocabulary of {model['type']} cannot be cut, WordPiece's can")
    kept = sorted(needed | special | letters)
    place = {piece: number for number, piece in enumerate(kept)}
    if model["type"] == "WordPiece":
        model["vocab"] = {pieces[n]: place[n] for n in kept if n in pieces}
    else:
        # The list's order is its ids': special pieces may be beyond its end.
        model["vocab"] = [model["vocab"][n] for n in kept if n in pieces]
        model["unk_id"] = place[model["unk_id"]]
    for token in added:
        token["id"] = place[token["id"]]
    for section in ("post_processor", "padding"):
        description[section] = _replaced(description.get(section), place)
    path.write_text(json.dumps(description, ensure_ascii=False))
    if (folder / _PIECES).is_file():
        lines = (folder / _PIECES).read_text().splitlines()
        (folder / _PIECES).write_text("".join(f"{lines[n]}\n" for n in kept if n < len(lines)))
    if (folder / _SETTINGS).is_file():
        settings = json.loads((folder / _SETTINGS).read_text())
        decoder = settings.get("added_tokens_decoder", {})
        if decoder:
            settings["added_tokens_decoder"] = {
                str(place[int(n)]): token for n, token in decoder.items() if int(n) in place
            }
            (folder / _SETTINGS).write_text(json.dumps(settings, indent=2))
    return kept


def _replaced(section: Any, place: dict[int, int]) -> Any:
    """A part of a tokenizer's description with the ids in it replaced."""
    if isinstance(section, list):
        # ["[SEP]", 102], as the older kinds have it.
        if len(section) == 2 and isinstance(section[0], str) and isinstance(section[1], int):
            return [section[0], place[section[1]]]
        return [_replaced(part, place) for part in section]
    if not isinstance(section, dict):
        return section
    replaced = {key: _replaced(part, place) for key, part in section.items()}
    if "ids" in replaced:
        replaced["ids"] = [place[number] for number in replaced["ids"]]
    if "pad_id" in replaced:
        replaced["pad_id"] = place[replaced["pad_id"]]
    return replaced


def _renumbered(config: Any, kept: Sequence[int]) -> PreTrainedConfig:
    config = copy.deepcopy(config)
    config.vocab_size = len(kept)
    for name in _ID_NAMES:
        number = getattr(config, name, None)
        if isinstance(number, int):
            # What no text has, no config needs.
            setattr(config, name, kept.index(number) if number in kept else None)
    renumbered: PreTrainedConfig = config
    return renumbered


def _with_rows(embeddings: nn.Module, config: PreTrainedConfig, kept: Sequence[int]) -> nn.Module:
    """The embeddings with some of the words' rows."""
    smaller = copy.deepcopy(embeddings)
    words: Any = smaller.get_submodule("embeddings.word_embeddings")
    rows_WH = words.weight.detach()[torch.tensor(kept, device=words.weight.device)].clone()
    padding = None if words.padding_idx is None else kept.index(words.padding_idx)
    fewer = nn.Embedding(len(kept), rows_WH.shape[1], padding, _weight=rows_WH, _freeze=True)
    smaller.set_submodule("embeddings.word_embeddings", fewer)
    smaller.config = config  # type: ignore[assignment]
    return smaller


def _refused(allowed: str) -> ArgumentError:
    return ArgumentError("vocabulary", "auto", allowed)
