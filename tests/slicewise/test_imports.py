"""What the library may know: torch and transformers, never Hydra, Optuna or the program."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import slicewise

ROOT = Path(slicewise.__file__).parent
FORBIDDEN = {"hydra", "hydra_plugins", "omegaconf", "optuna", "optuna_integration", "sweep"}


def _imported(tree: ast.AST) -> set[str]:
    """The top-level names that a module imports anywhere, in functions too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    "path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_file_imports_nothing_of_the_program(path: Path) -> None:
    assert not _imported(ast.parse(path.read_text())) & FORBIDDEN


def test_every_module_imports_where_hydra_and_optuna_are_missing(
    run_python: Callable[..., str],
) -> None:
    program = """
import importlib, json, pkgutil, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
import slicewise
modules = [module.name for module in pkgutil.walk_packages(slicewise.__path__, "slicewise.")]
for module in modules:
    importlib.import_module(module)
print(json.dumps(modules))
"""
    modules = json.loads(run_python(program, json.dumps(sorted(FORBIDDEN))))
    assert {"slicewise.teacher", "slicewise.distiller", "slicewise.students.folder"} <= set(modules)


def test_importing_the_package_loads_nothing_heavy(run_python: Callable[..., str]) -> None:
    program = """
import json, sys
before = set(sys.modules)
import slicewise
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""
    loaded = set(json.loads(run_python(program)))
    assert "slicewise" in loaded
    assert not loaded & {"torch", "transformers", "pytorch_lightning", "numpy", *FORBIDDEN}


@pytest.mark.parametrize("name", slicewise.__all__)
def test_public_name_is_there(name: str) -> None:
    value = getattr(slicewise, name)
    assert name == "__version__" or value.__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        slicewise.no_such_name  # noqa: B018
