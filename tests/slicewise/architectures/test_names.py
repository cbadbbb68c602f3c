"""No architecture's name appears in the code outside its file; documentation may name them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import slicewise
import sweep
from slicewise.architecture import known_architectures

ROOTS = [Path(str(package.__file__)).parent for package in (slicewise, sweep)]
ADAPTERS = ROOTS[0] / "architectures"
# Names of ours since before there were adapters; and what makes a model of random weights.
OURS = {"bert", "random_bert", "bert_layer", "BertLayer", "sentence_bert_config"}
_TYPES = sorted((name.replace("_", "[-_]?") for name in known_architectures()), key=len)
_NAME = re.compile("|".join(reversed(_TYPES)), re.IGNORECASE)


def _docstrings(tree: ast.AST) -> set[int]:
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    }


def _words(tree: ast.AST) -> Iterator[str]:
    """Names and strings of the code itself."""
    documentation = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in documentation:
                yield from re.findall(r"[\w-]+", node.value)
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield from node.name.split(".")
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def _found(text: str) -> set[str]:
    return {word for word in _words(ast.parse(text)) if _NAME.search(word)} - OURS


def test_the_code_names_no_architecture() -> None:
    paths = [path for root in ROOTS for path in root.rglob("*.py") if path.parent != ADAPTERS]
    assert len(paths) > 100
    named = {str(path): found for path in paths if (found := _found(path.read_text()))}
    # "random BERT" is the source of a teacher, in records that are there.
    assert {word for found in named.values() for word in found} <= {"BERT"}, named


def test_a_name_is_found() -> None:
    assert _found('if config.model_type == "xlm-roberta": MPNetModel()') == {
        "xlm-roberta",
        "MPNetModel",
    }
