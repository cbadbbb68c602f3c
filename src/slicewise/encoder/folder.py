"""An encoder on disk: a folder that slicewise, transformers and sentence-transformers load."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from slicewise.atomic import write_atomically
from slicewise.encoder.description import (
    KEY,
    build_blocks,
    build_pooling,
    describe,
)
from slicewise.encoder.files import copy_files, new_folder
from slicewise.encoder.sliced import (
    SlicedEncoder,
    assemble,
    keep_slice,
    original_encoder,
    partition,
)
from slicewise.encoder.transformers_model import WEIGHTS_NAME, config_for, embeddings_of
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.teacher import architecture_of, load_slice
from slicewise.whole import HashedWords, PretrainedTokenizer, Tokenizer

_CONFIG_NAME = "config.json"


def save_model(encoder: SlicedEncoder, path: str | Path) -> Path:
    """Writes an encoder of any blocks; the folder appears whole or not at all.

    `load_model` loads it. After `import slicewise`, `transformers.AutoModel.from_pretrained` and
    `SentenceTransformer` do as well, where the model has a tokenizer of transformers.

    Args:
        encoder: Its blocks hold students.
        path: The folder; what is there is replaced.

    Returns:
        The folder.

    Raises:
        SlicewiseError: A block holds no student.

    Example:
        >>> import tempfile, torch
        >>> from slicewise.teacher import random_bert
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
        >>> original = original_encoder(random_bert(num_hidden_layers=2, **sizes))
        >>> kept = [keep_slice(original, span) for span in partition(2, 1)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load_model(save_model(assemble(original, kept), f"{folder}/model"))
        >>> torch.allclose(again.encode(["A text."]), original.encode(["A text."]), atol=1e-5)
        True
    """
    with new_folder(path) as folder:
        write_sliced(encoder, folder)
    return Path(path)


def write_sliced(encoder: SlicedEncoder, folder: Path) -> None:
    """What `save_model` writes, into a folder that is there."""
    base: Any = encoder.embeddings.config
    config = config_for(base, encoder.num_layers, describe(encoder))
    (folder / _CONFIG_NAME).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    write_atomically(
        folder / WEIGHTS_NAME,
        lambda unfinished: save_file(tensors, unfinished, metadata={"format": "pt"}),
    )
    if encoder.files is not None:
        copy_files(encoder.files, folder, encoder.pooling)


def load_model(path: str | Path, trusted: Iterable[str] = ()) -> SlicedEncoder:
    """Loads an encoder in eval mode, on the CPU.

    Args:
        path: A folder that `save_model` or an export wrote; also any other model that
            `load_slice` loads: every layer is then a block by itself.
        trusted: Dotted names of students' classes that are trusted besides slicewise's own; see
            `load_student`.

    Raises:
        SlicewiseError: The folder holds no encoder, its files are damaged or do not fit together,
            or it names a class that is not trusted or not here.

    Example:
        >>> import tempfile
        >>> from slicewise.students.nothing import Nothing
        >>> from slicewise.encoder.sliced import Block
        >>> from slicewise.teacher import random_bert
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
        >>> original = original_encoder(random_bert(num_hidden_layers=2, **sizes))
        >>> first, second = partition(2, 1)
        >>> smaller = assemble(original, [keep_slice(original, first), Block(Nothing(24), second)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load_model(save_model(smaller, f"{folder}/model"))
        >>> [str(block.span) for block in again.block_list], again.encode(["A text."]).shape
        (['layer 0', 'layer 1'], torch.Size([1, 24]))
    """
    folder = Path(path)
    if folder.is_dir() and not (folder / _CONFIG_NAME).is_file():
        raise SlicewiseError(f"{folder} holds no model: it has no {_CONFIG_NAME}")
    if _description(folder) is None:
        original = original_encoder(load_slice(str(path), 0, 1))
        spans = partition(original.num_layers, 1)
        return assemble(original, [keep_slice(original, span) for span in spans])
    if not (folder / WEIGHTS_NAME).is_file():
        raise SlicewiseError(f"{folder} holds no model: it has no {WEIGHTS_NAME}")
    try:
        encoder = _build(folder, trusted)
        encoder.load_state_dict(load_file(folder / WEIGHTS_NAME))
    except SafetensorError as error:
        raise SlicewiseError(f"{folder / WEIGHTS_NAME} is damaged: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ArgumentError) as error:
        raise SlicewiseError(
            f"{folder / _CONFIG_NAME} does not describe a sliced encoder: {error}"
        ) from error
    except RuntimeError as error:
        raise SlicewiseError(f"{folder}: the weights do not fit the config: {error}") from error
    return encoder.eval()


def _description(folder: Path) -> dict[str, Any] | None:
    """What a folder's config says of the blocks; None where it says nothing."""
    try:
        config = json.loads((folder / _CONFIG_NAME).read_text())
    except OSError:
        return None
    except (ValueError, RecursionError) as error:
        raise SlicewiseError(f"{folder / _CONFIG_NAME} is damaged: {error}") from error
    description = config.get(KEY) if isinstance(config, dict) else None
    return description if isinstance(description, dict) else None


def _build(folder: Path, trusted: Iterable[str]) -> SlicedEncoder:
    """The encoder that a folder describes, its weights not yet read."""
    config = AutoConfig.from_pretrained(folder)
    description = getattr(config, KEY)
    architecture = architecture_of(config, str(folder))
    embeddings, final = embeddings_of(config)
    tokenizer: Tokenizer
    if description["tokenizer"] == "hashed_words":
        tokenizer = HashedWords(config.vocab_size)
    else:
        tokenizer = PretrainedTokenizer(str(folder), config.vocab_size)
    return SlicedEncoder(
        embeddings.requires_grad_(False),
        build_blocks(description, trusted),
        tokenizer,
        build_pooling(description),
        min(int(description["max_length"]), architecture.num_positions(embeddings)),
        None if isinstance(tokenizer, HashedWords) else folder,
        final.requires_grad_(False),
    )
