"""Errors that a user can mend: they carry the message to print, and need no traceback."""

from __future__ import annotations

import json


class SlicewiseError(Exception):
    """A mistake in what slicewise was asked to do, or in what it was given to read.

    Example:
        >>> import slicewise
        >>> try:
        ...     slicewise.load_student("no/such/folder")
        ... except SlicewiseError as error:
        ...     print(str(error).splitlines()[0])
        no/such/folder is not a student's folder: it has no config.json and no model.safetensors
    """


class ResourceError(SlicewiseError):
    """What an argument names cannot be had, or is damaged: a file, a model, a package, a device.

    The value may be as good as any; another time, or on another machine, it may do.

    Example:
        >>> issubclass(MissingResource, ResourceError)
        True
    """


class ArgumentError(SlicewiseError):
    """An argument whose value is not allowed.

    Args:
        name: The argument, as the caller writes it (``value_dim``).
        value: What it was.
        allowed: What it may be, as a phrase that completes "allowed: ".
        hint: A command or setting that would work; "" where there is none to give.

    Example:
        >>> print(ArgumentError("value_dim", 50, "a multiple of 12", "Such as value_dim=48"))
        value_dim=50: allowed: a multiple of 12
        Such as value_dim=48
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
        """The same error, its argument named by its full config key.

        Example:
            >>> print(ArgumentError("value_dim", None, "an integer").within("student"))
            student.value_dim=null: allowed: an integer
        """
        return type(self)(f"{group}.{self.name}", self.value, self.allowed, self.hint)


class MissingResource(ArgumentError, ResourceError):
    """An argument that names what cannot be had; see `ResourceError`.

    Example:
        >>> from slicewise.teacher import load_slice
        >>> try:
        ...     load_slice("./no/such/folder")
        ... except ResourceError as error:
        ...     print(type(error).__name__, error.name)
        MissingResource pretrained
    """
