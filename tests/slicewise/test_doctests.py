"""The examples in the docstrings run, and whoever is to be learned from has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from types import ModuleType

import pytest

import slicewise
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.students.base import Student

MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(slicewise.__path__, "slicewise.")
]


def _public() -> list[type]:
    """What `import slicewise` offers, and what a configuration chooses from."""
    offered = [getattr(slicewise, name) for name in slicewise.__all__]
    chosen = [
        member
        for module in MODULES
        for name, member in vars(module).items()
        if inspect.isclass(member)
        and issubclass(member, (HiddenStatesDataModule, Student))
        and member.__module__ == module.__name__
        and not name.startswith("_")
    ]
    return list(dict.fromkeys([*filter(callable, offered), *chosen]))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_run(module: ModuleType) -> None:
    flags = doctest.FAIL_FAST | doctest.REPORT_NDIFF
    assert doctest.testmod(module, optionflags=flags).failed == 0


@pytest.mark.parametrize("member", _public(), ids=lambda member: member.__qualname__)
def test_it_has_an_example(member: type) -> None:
    """In its own docstring: nobody looks for it at a method."""
    examples = doctest.DocTestParser().get_examples(inspect.cleandoc(member.__doc__ or ""))
    assert examples, f"{member.__module__}.{member.__qualname__} has no example"
