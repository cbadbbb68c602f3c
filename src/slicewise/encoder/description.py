"""What `config.json` says of a sliced encoder, under the key `slicewise`, and back to blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from slicewise.encoder.sliced import Block, SlicedEncoder, Span, student_of
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.base import Student
from slicewise.students.folder import TRUSTED, target_of
from slicewise.trust import find_class, trusted_by_user
from slicewise.whole import HashedWords, Pooling

# The entry of a model's config.json that says what its blocks are.
KEY = "slicewise"
# Among a model's `architectures`, what AutoModel makes of it.
ARCHITECTURE = "SlicedModel"

_VERSION = 1


def describe(encoder: SlicedEncoder) -> dict[str, Any]:
    """What builds an encoder again, with the config of its embeddings; all JSON values.

    Raises:
        SlicewiseError: A block holds no student.
        ArgumentError: A student's class could never be found again.
    """
    return {
        "version": _VERSION,
        "blocks": [
            {
                "first_layer": block.span.first_layer,
                "num_layers": block.span.num_layers,
                "layers": list(block.layers),
                "student": {
                    "_target_": target_of(type(student_of(block))),
                    **student_of(block).config,
                },
            }
            for block in encoder.block_list
        ],
        "pooling": {"mode": encoder.pooling.mode, "normalize": encoder.pooling.normalize},
        "max_length": encoder.max_length,
        "tokenizer": "hashed_words" if isinstance(encoder.tokenizer, HashedWords) else "files",
    }


def build_blocks(description: Mapping[str, Any], trusted: Iterable[str] = ()) -> list[Block]:
    """The blocks of a description, their weights as the constructors leave them.

    Args:
        description: As `describe` returns it.
        trusted: What is trusted besides slicewise's own students; see `load_student`.

    Raises:
        SlicewiseError: It describes no blocks, or names a class that is not trusted or not here.
    """
    version = description.get("version")
    if version != _VERSION:
        raise SlicewiseError(
            f"{KEY}.version={version}: allowed: {_VERSION}\nA newer slicewise may know it"
        )
    patterns = (*TRUSTED, *trusted_by_user(), *trusted)
    try:
        return [_build_block(block, patterns) for block in description["blocks"]]
    except (KeyError, TypeError, ValueError, AttributeError, ArgumentError) as error:
        raise SlicewiseError(f"{KEY}.blocks: {error}") from error


def build_pooling(description: Mapping[str, Any]) -> Pooling:
    """The pooling of a description."""
    pooling = description["pooling"]
    if pooling["mode"] not in Pooling.MODES:
        raise ArgumentError("pooling.mode", pooling["mode"], ", ".join(Pooling.MODES))
    return Pooling(pooling["mode"], bool(pooling["normalize"]))


def _build_block(block: Mapping[str, Any], patterns: tuple[str, ...]) -> Block:
    arguments = dict(block["student"])
    family = find_class(arguments.pop("_target_"), Student, patterns)
    span = Span(int(block["first_layer"]), int(block["num_layers"]))
    return Block(family(**arguments), span, block["layers"])
