"""Errors that a user can mend: they carry the message to print, and need no traceback."""

from __future__ import annotations

import json


class SlicewiseError(Exception):
    """A mistake in what slicewise was asked to do, or in what it was given to read."""


class ResourceError(SlicewiseError):
    """What an argument names cannot be had, or is damaged: a file, a model, a package, a device.

    The value may be as good as any; another time, or on another machine, it may do.
    """


class ArgumentError(SlicewiseError):
    """An argument whose value is not allowed.

    Args:
        name: The argument, as the caller writes it (``value_dim``).
        value: What it was.
        allowed: What it may be, as a phrase that completes "allowed: ".
        hint: A command or setting that would work.
    """

    def __init__(self, name: str, value: object, allowed: str, hint: str = "") -> None:
        super().__init__(name, value, allowed, hint)
        self.name = name
        self.value = value
        self.allowed = allowed
        self.hint = hint

    def __str__(self) -> str:
        value = (
            json.dumps(self.value)
            if self.value is None or isinstance(self.value, bool)
            else self.value
        )
        message = f"{self.name}={value}: allowed: {self.allowed}"
        return f"{message}\n{self.hint}" if self.hint else message

    def within(self, group: str) -> ArgumentError:
        """The same error, its argument named by its full config key (``student.value_dim``)."""
        return type(self)(f"{group}.{self.name}", self.value, self.allowed, self.hint)


class MissingResource(ArgumentError, ResourceError):
    """An argument that names what cannot be had; see `ResourceError`."""
