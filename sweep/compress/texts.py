"""Texts of a compression besides those of its batches: held-out ones, and those of a vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slicewise.data.batch import Split
from slicewise.data.corpus import Source, read_texts, split_of
from slicewise.data.text import TextDataModule
from slicewise.encoder.sliced import SlicedEncoder
from slicewise.encoder.vocabulary import reduce_vocabulary
from slicewise.errors import ArgumentError
from slicewise.transfer import default_texts
from sweep.compress.settings import AUTO, CompressSettings
from sweep.compress.workbench import Workbench

# Fewer are too few to say anything by.
_FEWEST = 16


def held_out_texts(settings: CompressSettings, bench: Workbench) -> tuple[list[str], str]:
    """Texts that no training and no choice has seen, and where they come from.

    Those of the data's own texts that `split_of` keeps for the test; where the data has none, or
    too few, the docstrings' of the standard library.
    """
    source = _source(settings, bench)
    if source is not None:
        texts = [text for text in read_texts(source) if split_of(text) is Split.TEST]
        if len(texts) >= _FEWEST:
            return texts[: settings.evaluate.texts], str(source)
    return list(default_texts()), str(Source())


def with_smaller_vocabulary(
    encoder: SlicedEncoder, settings: CompressSettings, bench: Workbench, folder: Path
) -> SlicedEncoder:
    """The encoder with the pieces that some texts need, where that is asked for; else as it is.

    Args:
        encoder: Whichever.
        settings: Say whose pieces: `embeddings.vocabulary`.
        bench: Of the same settings.
        folder: Of the compression; the tokenizer's files go there.

    Raises:
        ArgumentError: There are no texts to count, or the vocabulary cannot be cut.
        SlicewiseError: A file cannot be read.
    """
    if settings.vocabulary is None:
        return encoder
    if settings.vocabulary_file is None:
        source = _source(settings, bench)
        if source is None:
            known = "a file of texts, one a line: data has none to count"
            raise ArgumentError("embeddings.vocabulary", AUTO, known)
    else:
        source = Source(files=(str(settings.vocabulary_file),))
    try:
        return reduce_vocabulary(encoder, read_texts(source), folder / "vocabulary")
    except ArgumentError as error:
        if error.name in ("vocabulary", "texts"):
            raise ArgumentError(
                "embeddings.vocabulary", settings.vocabulary, error.allowed, error.hint
            ) from error
        raise ArgumentError(
            "embeddings.vocabulary", settings.vocabulary, f"auto, or a file of texts: {error}"
        ) from error


def _source(settings: CompressSettings, bench: Workbench) -> Source | None:
    """Where the texts of the data come from; None where it has no texts."""
    if not isinstance(bench.data, TextDataModule):
        return None
    node = settings.data.node
    given: dict[str, Any] = {
        name: node[name] for name in Source._fields if node.get(name) is not None
    }
    return Source(**{**given, "files": settings.text_files})
