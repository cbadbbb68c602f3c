"""Texts to learn from and to be judged by, and which of them are for what."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import itertools
import json
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from slicewise.arguments import check_integers
from slicewise.data.batch import Split
from slicewise.errors import ArgumentError, MissingResource, ResourceError
from slicewise.garbage import without_collecting

# Folders of the standard library that not every installation has, or that hold no text for
# readers: with them, two machines with the same Python would differ.
_LEFT_OUT = frozenset(
    {
        "__pycache__",
        "_bundled",
        "dist-packages",
        "distutils",
        "idlelib",
        "lib2to3",
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtle.py",
        "turtledemo",
    }
)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_LETTERS = re.compile(r"[A-Za-z ]+")
_WORDS = range(5, 61)


class Source(NamedTuple):
    """Where texts come from: files, a data set, or neither, which means the docstrings.

    Attributes:
        files: Paths of `.txt` and `.jsonl` files.
        dataset: Name of a data set on the Hugging Face hub, or a folder.
        dataset_config: Which of the data set's configurations.
        dataset_split: Which of its splits; it is split again by `split_of`.
        text_field: Where the text is, in a row of the data set and in a line of a `.jsonl`.
        max_texts: Texts after which reading stops.

    Example:
        >>> from slicewise.data.corpus import Source
        >>> str(Source()), str(Source(files=("a.txt", "b.jsonl")))
        ('the docstrings of the standard library', 'a.txt, b.jsonl')
    """

    files: tuple[str, ...] = ()
    dataset: str | None = None
    dataset_config: str | None = None
    dataset_split: str = "train"
    text_field: str = "text"
    max_texts: int = 100_000

    def __str__(self) -> str:
        return self.dataset or ", ".join(self.files) or "the docstrings of the standard library"


def split_of(text: str) -> Split:
    """Eight texts of ten are for training, one for validation, one for the test.

    Decided by the text's sha256 alone, so that a text stays where it is whatever else is read
    with it: no test text is ever trained on, in any corpus.

    Example:
        >>> from slicewise.data.corpus import split_of
        >>> {text: split_of(text).name for text in ("text 1", "text 4", "text 8")}
        {'text 1': 'TRAIN', 'text 4': 'VALID', 'text 8': 'TEST'}
    """
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    tenth = int.from_bytes(digest[:8], "big") % 10
    return {8: Split.VALID, 9: Split.TEST}.get(tenth, Split.TRAIN)


def read_texts(source: Source) -> list[str]:
    """The texts of a source, each once, in its order.

    Raises:
        ArgumentError: Files and a data set are given both, or one of them cannot be had.
        SlicewiseError: A file is damaged; names the file and the line.

    Example:
        >>> import pathlib, tempfile
        >>> from slicewise.data.corpus import Source, read_texts
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "texts.jsonl")
        ...     _ = path.write_text('{"said": "Yes."}\\n{"said": "No."}\\n{"said": "Yes."}\\n')
        ...     read_texts(Source(files=(str(path),), text_field="said"))
        ['Yes.', 'No.']
    """
    check_integers(1, max_texts=source.max_texts)
    if source.files and source.dataset:
        raise ArgumentError("dataset", source.dataset, "null, as files are given")
    texts: Iterable[str]
    if source.files:
        texts = itertools.chain.from_iterable(
            _file_texts(Path(file), source.text_field) for file in source.files
        )
    elif source.dataset:
        texts = _dataset_texts(source)
    else:
        texts = stdlib_sentences()
    return list(itertools.islice(_unique(texts), source.max_texts))


@functools.cache
def stdlib_sentences() -> tuple[str, ...]:
    """The sentences of the docstrings of the installed Python's standard library.

    Some nine thousand, the same in every process of the same Python release; no download.

    Raises:
        SlicewiseError: The library's source is not installed.
    """
    return tuple(_stdlib_sentences())


@functools.cache
def stdlib_test_sentences(count: int) -> tuple[str, ...]:
    """The first `count` of the `stdlib_sentences` that are for the test.

    Reads no more of the library than that takes.

    Raises:
        SlicewiseError: The library's source is not installed.
    """
    test = (text for text in _stdlib_sentences() if split_of(text) is Split.TEST)
    return tuple(itertools.islice(test, count))


def _stdlib_sentences() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    # Shuffled, but always alike: the first few shall be out of the whole library.
    paths = sorted(
        _sources(library),
        key=lambda path: hashlib.sha256(path.relative_to(library).as_posix().encode()).digest(),
    )
    if not paths:
        raise ResourceError(
            f"{library} holds no source of Python's standard library to take text from\n"
            "To take it from a file: data.files=[PATH]"
        )
    docstrings = itertools.chain.from_iterable(map(_docstrings_of, paths))
    yield from _unique(itertools.chain.from_iterable(map(_sentences, docstrings)))


def _sources(folder: Path) -> Iterator[Path]:
    # Not rglob, which walks through what is left out: all installed packages.
    for path in folder.iterdir():
        if path.name in _LEFT_OUT:
            continue
        if path.suffix == ".py":
            yield path
        elif path.is_dir():
            yield from _sources(path)


def _docstrings_of(path: Path) -> list[str]:
    # Half of the time would go into looking for garbage in the tree, until all of it is.
    with without_collecting():
        return list(_docstrings(path))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        # Some releases keep files that are wrong on purpose.
        return
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, _DOCUMENTED):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield inspect.cleandoc(docstring)
        # Statements only: docstrings are never inside expressions, which are most of a tree.
        pending += [
            child
            for block in ("finalbody", "orelse", "handlers", "body")
            for child in reversed(getattr(node, block, None) or ())
        ]


def _sentences(docstring: str) -> Iterator[str]:
    """What reads as prose: no code, tables, lists or headings."""
    for paragraph in _PARAGRAPH.split(docstring):
        lines = paragraph.splitlines()
        if any(line.startswith((" ", "\t", ">>>", "-", "*")) for line in lines):
            continue
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            if (
                len(sentence.split()) in _WORDS
                and sentence[0].isupper()
                and sentence[-1] in ".!?"
                and len(_LETTERS.sub("", sentence)) <= 0.15 * len(sentence)
            ):
                yield sentence


def _unique(texts: Iterable[str]) -> Iterator[str]:
    seen = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield text


def _file_texts(path: Path, text_field: str) -> Iterator[str]:
    if path.suffix not in (".txt", ".jsonl"):
        raise ArgumentError("files", path, "files that end in .txt or .jsonl")
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = _line_text(line, f"{path}:{number}", path.suffix == ".jsonl", text_field)
                if text:
                    yield text
    except OSError as error:
        raise MissingResource("files", path, f"files that can be read: {error.strerror}") from error


def _line_text(line: bytes, place: str, is_json: bool, text_field: str) -> str:
    """The text of one line; empty where the line is."""
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ResourceError(f"{place}: not UTF-8: {error.reason}") from error
    if not is_json or not text:
        return text
    try:
        row = json.loads(text)
    except ValueError as error:
        raise ResourceError(f"{place}: not JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
        raise ResourceError(f'{place}: no text in a field "{text_field}": {text[:80]}')
    return str(row[text_field]).strip()


def _dataset_texts(source: Source) -> Iterator[str]:
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingResource(
            "dataset",
            source.dataset,
            "null, unless the package datasets is installed: pip install 'slicewise[datasets]'",
        ) from error
    try:
        rows = datasets.load_dataset(
            source.dataset, source.dataset_config, split=source.dataset_split, streaming=True
        )
        for row in rows:
            text = row.get(source.text_field)
            if not isinstance(text, str):
                raise ArgumentError(
                    "text_field", source.text_field, f"a text among {', '.join(map(str, row))}"
                )
            if text.strip():
                yield text.strip()
    # What the package and the file systems behind it raise has no common error but this.
    except Exception as error:
        if isinstance(error, ArgumentError):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise MissingResource(
            "dataset", source.dataset, f"a data set that can be loaded; it says: {said}"
        ) from error
