"""The house: arrows between files point one way, and so do those between folders.

The graph is computed from the sources. Imports inside functions count; those for type checkers
alone do not. A file of the top level is a room by itself, a folder is one room with all its files.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import slicewise
import sweep

ROOTS = {package.__name__: Path(str(package.__file__)).parent for package in (slicewise, sweep)}
# What a user types, or names in a configuration: nothing in the house may lean on them.
COMMANDS = (
    "sweep.__main__",
    "sweep.rerun",
    "sweep.watch",
    "sweep.dashboard",
    "sweep.search",
    "sweep.enqueue",
    "sweep.studies",
    "sweep.new.__main__",
)

Graph = dict[str, set[str]]


def _module_of(path: Path, package: str) -> str:
    parts = path.relative_to(ROOTS[package]).with_suffix("").parts
    return ".".join((package, *(part for part in parts if part != "__init__")))


def _modules() -> dict[str, Path]:
    return {
        _module_of(path, package): path
        for package, root in ROOTS.items()
        for path in root.rglob("*.py")
    }


def _is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _imports(node: ast.AST) -> Iterator[str]:
    """Dotted names that are imported: modules, and what is taken from them."""
    for child in ast.iter_child_nodes(node):
        if _is_for_type_checkers(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield from _imports(other)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, f"relative import: {ast.unparse(child)}"
            yield str(child.module)
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from _imports(child)


def _files() -> Graph:
    """Which file imports which."""
    modules = _modules()
    graph: Graph = {}
    for module, path in modules.items():
        found = {name for name in _imports(ast.parse(path.read_text())) if name in modules}
        # To import from a package is to import what is in it; the package itself ties nothing.
        graph[module] = {name for name in found if name != module and name not in ROOTS}
    return graph


def _room(module: str) -> str:
    parts = module.split(".")
    package = parts[0]
    folder = ROOTS[package] / parts[1] if len(parts) > 1 else ROOTS[package]
    return ".".join(parts[:2]) if folder.is_dir() else module


def _rooms(files: Graph) -> Graph:
    rooms: Graph = {}
    for module, imported in files.items():
        own = _room(module)
        rooms.setdefault(own, set()).update({_room(name) for name in imported} - {own})
    return rooms


def _assert_no_circle(graph: Graph) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_files_import_in_no_circle() -> None:
    files = _files()
    assert files["sweep.workers.sweeper"] >= {"sweep.study.space", "sweep.workers.worker"}
    assert "slicewise.teacher" in files["slicewise.distiller"]
    _assert_no_circle(files)


def test_no_arrow_between_rooms_runs_back_up() -> None:
    rooms = _rooms(_files())
    assert "sweep.study" in rooms["sweep.workers"]
    _assert_no_circle(rooms)


def test_the_library_knows_nothing_of_the_program() -> None:
    for module, imported in _files().items():
        if module.startswith("slicewise"):
            assert not [name for name in imported if name.startswith("sweep")], module


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_leans_on_a_command(command: str) -> None:
    files = _files()
    assert command in files
    assert not [module for module, imported in files.items() if command in imported]


def test_a_circle_is_found() -> None:
    with pytest.raises(pytest.fail.Exception, match="a circle of imports"):
        _assert_no_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
