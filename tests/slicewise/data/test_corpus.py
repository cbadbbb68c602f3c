from __future__ import annotations

import ast
import json
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicewise.data import corpus
from slicewise.data.batch import Split
from slicewise.data.corpus import (
    Source,
    read_texts,
    split_of,
    stdlib_sentences,
    stdlib_test_sentences,
)
from slicewise.errors import ArgumentError, SlicewiseError

# Splits


@given(texts=st.lists(st.text(st.characters()), unique=True), more=st.text())
def test_a_text_stays_in_its_split(texts: list[str], more: str) -> None:
    splits = {text: split_of(text) for text in texts}
    assert {text: split_of(text) for text in reversed([*texts, more])} | splits == {
        **splits,
        more: split_of(more),
    }


def test_splits_are_eight_one_and_one_of_ten() -> None:
    counts = Counter(split_of(f"text {number}") for number in range(20_000))
    assert counts[Split.TRAIN] == pytest.approx(16_000, rel=0.02)
    assert counts[Split.VALID] == pytest.approx(2000, rel=0.1)
    assert counts[Split.TEST] == pytest.approx(2000, rel=0.1)


def test_splits_never_change() -> None:
    """A test text of today that trained a student tomorrow would flatter it."""
    expected = {
        "Return the result.": Split.TRAIN,
        "text 1": Split.TRAIN,
        "text 0": Split.VALID,
        "text 4": Split.VALID,
        "text 8": Split.TEST,
        "text 10": Split.TEST,
        "": Split.TRAIN,
        "\xfc": Split.VALID,
        "\ud800": Split.TRAIN,
    }
    assert {text: split_of(text) for text in expected} == expected


# Sentences of the standard library


def test_sentences_are_many_and_read_as_prose() -> None:
    sentences = stdlib_sentences()
    assert 8000 < len(sentences) < 20_000
    assert len(set(sentences)) == len(sentences)
    for sentence in sentences:
        assert 5 <= len(sentence.split()) <= 60
        assert sentence[0].isupper()
        assert sentence[-1] in ".!?"
        assert ">>>" not in sentence
        assert "\n" not in sentence
    assert "Create a new directory at this given path." in sentences


def test_test_sentences_are_the_first_that_are_for_the_test() -> None:
    first = stdlib_test_sentences(50)
    assert first == tuple(t for t in stdlib_sentences() if split_of(t) is Split.TEST)[:50]


def test_same_sentences_in_another_process(run_python: Callable[..., str]) -> None:
    program = """
from slicewise.data.corpus import stdlib_test_sentences
print(*stdlib_test_sentences(20), sep="\\n")
"""
    assert run_python(program, PYTHONHASHSEED="5").splitlines() == [*stdlib_test_sentences(20)]


def test_docstrings_are_found_where_ast_finds_them(tmp_path: Path) -> None:
    source = '''
"""Module."""
class A:
    """Class."""
    def f(self):
        """Method."""
        def g():
            """Inner."""
        return "no docstring"
if True:
    async def h():
        """Under if."""
else:
    try:
        pass
    except OSError:
        def i():
            """Under except."""
    finally:
        class B: "One line."
x = """no docstring"""
'''
    path = tmp_path / "module.py"
    path.write_text(source)
    expected = {
        ast.get_docstring(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    }
    found = list(corpus._docstrings(path))
    assert set(found) == expected - {None}
    assert found[:3] == ["Module.", "Class.", "Method."]


@pytest.mark.parametrize("source", ["def broken(:", "x = '\0'"])
def test_source_that_is_wrong_is_passed_over(source: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(source)
    assert list(corpus._docstrings(tmp_path / "module.py")) == []


def test_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(SlicewiseError, match=r"data\.files="):
        list(corpus._stdlib_sentences())


# Files


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a file of the given lines, and says where."""

    def make(name: str, *lines: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))
        return str(path)

    return make


def test_files_in_turn_each_text_once(write: Callable[..., str]) -> None:
    one = write("one.txt", "\ufeffFirst. ", "", "Second.\r", "First.")
    two = write("two.jsonl", json.dumps({"text": "Third.", "n": 1}), "", '{"text": "Second."}')
    assert read_texts(Source((one, two))) == ["First.", "Second.", "Third."]
    assert read_texts(Source((one, two), max_texts=2)) == ["First.", "Second."]
    assert read_texts(Source((two, one))) == ["Third.", "Second.", "First."]


def test_text_in_another_field(write: Callable[..., str]) -> None:
    path = write("a.jsonl", '{"body": "Here."}')
    assert read_texts(Source((path,), text_field="body")) == ["Here."]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("a.jsonl", '{"text": ', "a.jsonl:2: not JSON: Expecting value"),
        ("a.jsonl", '{"body": "x"}', 'a.jsonl:2: no text in a field "text": {"body": "x"}'),
        ("a.jsonl", '{"text": 3}', 'a.jsonl:2: no text in a field "text"'),
        ("a.jsonl", '["text"]', 'a.jsonl:2: no text in a field "text"'),
        ("a.txt", b"caf\xe9", "a.txt:2: not UTF-8: "),
    ],
)
def test_damaged_line(
    name: str, line: str | bytes, message: str, write: Callable[..., str]
) -> None:
    path = write(name, "" if name == "a.jsonl" else "good", line)
    with pytest.raises(SlicewiseError) as caught:
        read_texts(Source((path,)))
    assert message in str(caught.value)


def test_file_of_another_kind(write: Callable[..., str]) -> None:
    path = write("a.csv", "a,b")
    with pytest.raises(ArgumentError) as caught:
        read_texts(Source((path,)))
    assert str(caught.value) == f"files={path}: allowed: files that end in .txt or .jsonl"


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="No such file") as caught:
        read_texts(Source((str(tmp_path / "a.txt"),)))
    assert caught.value.name == "files"


@pytest.mark.parametrize(
    ("source", "name"),
    [(Source(("a.txt",), "data"), "dataset"), (Source(max_texts=0), "max_texts")],
)
def test_sources_that_make_no_sense(source: Source, name: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        read_texts(source)
    assert caught.value.name == name


# Data sets


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A package `datasets` with one data set; keeps how it was asked."""
    asked: dict[str, Any] = {}

    def load_dataset(name: str, config: str | None, **arguments: Any) -> Iterator[dict[str, Any]]:
        if name != "tiny":
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist\nand more")
        asked.update(arguments, config=config)
        return iter([{"text": " One. ", "n": 1}, {"text": ""}, {"text": "Two."}, {"text": "One."}])

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_dataset(datasets: dict[str, Any]) -> None:
    assert read_texts(Source(dataset="tiny", dataset_config="en")) == ["One.", "Two."]
    assert datasets == {"split": "train", "streaming": True, "config": "en"}


def test_dataset_that_is_not_there(datasets: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        read_texts(Source(dataset="none"))
    assert str(caught.value) == (
        "dataset=none: allowed: a data set that can be loaded; it says: "
        "Dataset 'none' doesn't exist"
    )


def test_dataset_without_the_field(datasets: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError) as caught:
        read_texts(Source(dataset="tiny", text_field="body"))
    assert str(caught.value) == "text_field=body: allowed: a text among text, n"


def test_without_the_package_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ArgumentError) as caught:
        read_texts(Source(dataset="tiny"))
    assert str(caught.value) == (
        "dataset=tiny: allowed: null, unless the package datasets is installed: "
        "pip install 'slicewise[datasets]'"
    )
