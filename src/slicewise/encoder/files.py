"""Files of a model besides its weights: tokenizer and sentence-transformers modules."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from slicewise.whole import Pooling

_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "bpe.codes",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
_MODULES = "modules.json"
# What sentence-transformers reads of the whole model and of its first module.
_SENTENCE = ("config_sentence_transformers.json", "sentence_bert_config.json")
# Weights of a later module, such as a dense layer.
_PARTS = ("config.json", "model.safetensors", "pytorch_model.bin")


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into that takes its place when all is written, and not before.

    Where writing fails the old folder stays, and nothing is left beside it. What a process that was
    killed has left there, the next one removes.

    Args:
        path: The place; what is there is replaced.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as temporary:
        ...     with new_folder(f"{temporary}/model") as folder:
        ...         _ = (folder / "config.json").write_text("{}")
        ...     print(os.listdir(temporary))
        ['model']
    """
    path = Path(path)
    # Names of their own: several processes may be writing the same folder.
    token = os.urandom(4).hex()
    unfinished = path.with_name(f".{path.name}.{token}.part")
    replaced = path.with_name(f".{path.name}.{token}.old")
    unfinished.mkdir(parents=True)
    try:
        with _locked(unfinished):
            _remove_left(path, ".part")
            yield unfinished
            if path.exists():
                path.rename(replaced)
            unfinished.rename(path)
        # Not before: of a writer that was killed between two names, it is all that there is.
        _remove_left(path, ".old")
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _remove_left(path: Path, ending: str) -> None:
    """Removes what processes that are dead have left beside a folder, and nobody else's."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}{re.escape(ending)}")
    for left in path.parent.iterdir():
        if name.fullmatch(left.name):
            # Another process may remove it too.
            with contextlib.suppress(OSError), _locked(left) as is_ours:
                if is_ours:
                    shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Locks a folder, until this process dies at the latest; says whether it could be."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        # Another has it; or there are no locks here, and nobody knows who is dead.
        return False
    return True


def copy_files(source: str | Path, folder: Path, pooling: Pooling) -> None:
    """Takes over what makes texts into ids and hidden states into embeddings.

    As it is, byte by byte: other releases of the libraries read what they read before. Where the
    model has no files of sentence-transformers, those of its pooling are written.

    Args:
        source: A folder, or a model on the Hugging Face hub.
        folder: Where to.
        pooling: Of the model.
    """
    for name in (*_TOKENIZER, *_SENTENCE):
        _copy(source, name, folder)
    if not _copy(source, _MODULES, folder):
        _write_modules(folder, pooling)
        return
    for module in json.loads((folder / _MODULES).read_text()):
        place = PurePosixPath(str(module.get("path", "")))
        # A path out of the folder would be read, and written, anywhere.
        if place.parts and not place.is_absolute() and ".." not in place.parts:
            for name in _PARTS:
                _copy(source, str(place / name), folder)


def _copy(source: str | Path, name: str, folder: Path) -> bool:
    """Copies one file, if there is one; says whether."""
    path = Path(source, name)
    if not Path(source).is_dir():
        try:
            path = Path(hf_hub_download(str(source), name))
        except (HfHubHTTPError, HFValidationError, OSError):
            return False
    if not path.is_file():
        return False
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / name)
    return True


def _write_modules(folder: Path, pooling: Pooling) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if pooling.normalize else [])]
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}" if number else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    _write_json(folder / _MODULES, modules)
    config = json.loads((folder / "config.json").read_text())
    modes = {"mean": "mean_tokens", "max": "max_tokens", "cls": "cls_token"}
    _write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": config.get("hidden_size", config.get("dim")),
            **{f"pooling_mode_{key}": pooling.mode == mode for mode, key in modes.items()},
        },
    )


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
