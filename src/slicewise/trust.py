"""Which code a file may name: a results folder names its classes, and may be anyone's."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Iterable

from slicewise.errors import ArgumentError, ResourceError

# Holds patterns, separated by commas, of what a user trusts besides.
VARIABLE = "SLICEWISE_TRUSTED"


def trusted_by_user() -> tuple[str, ...]:
    """The patterns in the environment variable SLICEWISE_TRUSTED.

    A pattern is a dotted name, `my_package.mine.MyStudent`, or all of a package, `my_package.*`;
    Hydra's whitelist knows the same two.

    Raises:
        ArgumentError: It holds something else.

    Example:
        >>> from unittest import mock
        >>> patterns = "my_package.*, theirs.students.Small"
        >>> with mock.patch.dict(os.environ, SLICEWISE_TRUSTED=patterns):
        ...     trusted_by_user()
        ('my_package.*', 'theirs.students.Small')
    """
    patterns = [pattern.strip() for pattern in os.environ.get(VARIABLE, "").split(",")]
    for pattern in filter(None, patterns):
        if not _is_dotted_name(pattern.removesuffix(".*")):
            raise ArgumentError(
                VARIABLE, pattern, "dotted names, and packages as my_package.*, with commas between"
            )
    return tuple(filter(None, patterns))


def is_trusted(target: str, patterns: Iterable[str]) -> bool:
    """Whether a dotted name is one of the patterns, or lies in a package of one.

    Args:
        target: Such as `my_package.mine.MyStudent`.
        patterns: As `trusted_by_user` returns them.

    Example:
        >>> is_trusted("my_package.mine.MyStudent", ["my_package.*"])
        True
        >>> is_trusted("my_package_of_another.MyStudent", ["my_package.*"])
        False
    """
    return any(
        target.startswith(pattern[:-1]) if pattern.endswith(".*") else target == pattern
        for pattern in patterns
    )


def find_class(target: str, base: type, patterns: Iterable[str]) -> type:
    """Imports a class by its dotted name, if it is trusted.

    Nothing that is not trusted is imported. A name is followed no further than into a module, and
    a class counts by where it was defined: `slicewise.students.folder.os.system` leads nowhere,
    and a class of another package is not trusted for being imported into a trusted one.

    Args:
        target: Module and class, such as `my_package.mine.MyStudent`.
        base: What it must be a subclass of, with nothing left abstract.
        patterns: What is trusted, as `trusted_by_user` returns it.

    Raises:
        ArgumentError: The class is not trusted, or there is no such subclass of `base`.
        ResourceError: Its module cannot be imported.

    Example:
        >>> find_class("slicewise.errors.ArgumentError", Exception, ["slicewise.*"])
        <class 'slicewise.errors.ArgumentError'>
        >>> find_class("os.system", Exception, ["slicewise.*"])
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: _target_=os.system: allowed: slicewise.*
        If you trust that code: SLICEWISE_TRUSTED='os.*' python ...
    """
    patterns = tuple(patterns)
    expected = f"the dotted name of a subclass of {base.__name__} at the top of its module"
    if not _is_dotted_name(target):
        raise ArgumentError("_target_", target, expected)
    _check_trusted(target, patterns)
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ResourceError(
            f"_target_={target}: {error}\nIs it installed, or its folder on PYTHONPATH?"
        ) from error
    found = vars(module).get(name)
    if not (isinstance(found, type) and issubclass(found, base)) or inspect.isabstract(found):
        raise ArgumentError("_target_", target, expected)
    _check_trusted(name_of(found), patterns)
    return found


def name_of(defined: type) -> str:
    """The dotted name of a class, by where it was defined.

    Example:
        >>> name_of(ArgumentError)
        'slicewise.errors.ArgumentError'
    """
    return f"{defined.__module__}.{defined.__qualname__}"


def _check_trusted(target: str, patterns: tuple[str, ...]) -> None:
    if not is_trusted(target, patterns):
        raise ArgumentError(
            "_target_",
            target,
            ", ".join(patterns),
            f"If you trust that code: {VARIABLE}='{target.partition('.')[0]}.*' python ...",
        )


def _is_dotted_name(target: object) -> bool:
    """Whether it is names with dots between; those of a package's own machinery are left out.

    To import `my_package.__main__` would be to run a program.
    """
    if not isinstance(target, str):
        return False
    first, *others = target.split(".")
    return first.isidentifier() and all(
        part.isidentifier() and not part.startswith("__") for part in others
    )
