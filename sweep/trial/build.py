"""Builds what a config group describes, after checking its arguments.

Hydra passes whatever a config holds to the target. Here the target's own signature says which
arguments there are and of what type, so that a mistake is found before anything runs, for any
target, without a schema to keep in step.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Union, cast

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, ValidationError

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.trial.renamed import current_name
from sweep.trust import check_trusted, trusted_targets

# How constructors of torch and Lightning, and Hydra itself, report a wrong value.
_MISTAKES = (
    TypeError,
    ValueError,
    MisconfigurationException,
    InstantiationException,
    OmegaConfBaseException,
)


def build(
    group: str,
    node: Mapping[str, Any] | DictConfig,
    offered: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """Instantiates a config node.

    Args:
        group: Its key in the configuration (`student`), for messages.
        node: With `_target_`.
        offered: Passed on besides, where the target has an argument of that name.
        arguments: Passed on besides, live objects too; they win over the node's own.

    Raises:
        SlicewiseError: The target does not exist, or does not take these arguments.
    """
    try:
        plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        if not (isinstance(plain, Mapping) and "_target_" in plain):
            raise ArgumentError(
                group,
                plain,
                "a map that says by _target_ what it is",
                f"For example: {group}={{_target_: my_package.mine.MyClass}}",
            )
        given = dict(cast(Mapping[str, Any], plain))
        given["_target_"] = current_name(given["_target_"])
        target = _target(group, given["_target_"])
        taken = inspect.signature(target).parameters
        arguments |= {name: value for name, value in (offered or {}).items() if name in taken}
        own = {str(key): value for key, value in given.items() if key not in arguments}
        checked = _checked(own, target)
        return instantiate(checked, **arguments, _execution_whitelist_=trusted_targets())
    except ArgumentError as error:
        known = error.name == group or error.name.startswith(f"{group}.")
        raise error if known else error.within(group) from error
    except InstantiationException as error:
        raise _as_mistake(group, error.__cause__ or error) from error
    except _MISTAKES as error:
        raise _as_mistake(group, error) from error


@contextmanager
def mistakes_of(group: str) -> Iterator[None]:
    """Reports what constructors raise on a wrong value as a mistake in a config group.

    For what is built later than `build`, from a `_partial_` node.
    """
    try:
        yield
    except (*_MISTAKES, ArgumentError) as error:
        raise _as_mistake(group, error) from error


def _target(group: str, name: str) -> Any:
    if name == MISSING:
        raise ArgumentError(
            f"{group}._target_",
            name,
            "the dotted name of a class",
            f"For example: {group}._target_=my_package.mine.MyClass",
        )
    check_trusted(group, name, trusted_targets())
    try:
        return get_object(name)
    except (ImportError, AttributeError, ValueError, InstantiationException) as error:
        raise SlicewiseError(f"{group}._target_={name}: {error}") from error


def _as_mistake(group: str, cause: BaseException) -> BaseException:
    if isinstance(cause, ArgumentError):
        return cause.within(group)
    if isinstance(cause, _MISTAKES):
        return SlicewiseError(f"{group}: {cause}")
    return cause


def _checked(node: dict[str, Any], target: Any) -> dict[str, Any]:
    """The node with every argument known to the target and converted to its type."""
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _type_hints(target.__init__ if inspect.isclass(target) else target)
    checked = dict(node)
    for name, value in node.items():
        if name.startswith("_"):
            continue
        if name not in parameters and not takes_any:
            raise ArgumentError(name, value, f"the arguments {', '.join(parameters)}")
        hint = _config_type(hints.get(name, Any))
        if hint is not Any and not isinstance(value, (dict, list)):
            checked[name] = _converted(name, value, hint)
    return checked


def _type_hints(function: Any) -> dict[str, Any]:
    """The types of a function's arguments; none where one is imported for type checkers alone."""
    try:
        return typing.get_type_hints(function)
    except NameError:
        return {}


def _converted(name: str, value: Any, hint: Any) -> Any:
    """`value` as OmegaConf converts it to a field of type `hint`."""
    if type(value) in (typing.get_args(hint) or (hint,)):
        return value
    schema = dataclasses.make_dataclass("Argument", [(name, hint, MISSING)])
    try:
        structured = OmegaConf.structured(schema)
    except ValidationError:  # A type that OmegaConf has no field for: the target will check it.
        return value
    try:
        return OmegaConf.to_container(OmegaConf.merge(structured, {name: value}))[name]  # type: ignore[index,call-overload]
    except ValidationError as error:
        raise ArgumentError(name, value, _describe(hint)) from error


def _config_type(hint: Any) -> Any:
    """The part of a type that a config value can have: numbers, strings, booleans, null."""
    plain = (bool, int, float, str, type(None))
    if typing.get_origin(hint) in (Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if member in plain]
        return Union[tuple(members)] if members and members != [type(None)] else Any  # noqa: UP007
    if hint in plain or typing.get_origin(hint) is Literal:
        return hint
    return Any


def _describe(hint: Any) -> str:
    names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
    if typing.get_origin(hint) is Union:
        members = [m for m in typing.get_args(hint) if m is not type(None)]
        words = [names.get(member, str(member)) for member in members]
        return " or ".join([*words, "null"] if type(None) in typing.get_args(hint) else words)
    return names.get(hint, str(hint))
