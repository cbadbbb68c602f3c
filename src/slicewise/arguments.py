"""Checks of arguments: what is refused, and the one message for each kind."""

from __future__ import annotations

from typing import Any

from slicewise.errors import ArgumentError


def check_integers(smallest: int, /, **arguments: Any) -> None:
    """Refuses what is not an integer, or too small.

    Args:
        smallest: The least that is allowed.
        arguments: By the names that the caller of the caller knows.

    Raises:
        ArgumentError: For the first that is not.

    Example:
        >>> check_integers(1, input_dim=384, num_attention_heads=0)
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: num_attention_heads=0: allowed: an integer of at least 1
    """
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            raise ArgumentError(name, value, f"an integer of at least {smallest}")


def check_numbers(smallest: float, /, **arguments: Any) -> None:
    """Refuses what is not a number, or too small.

    Args:
        smallest: The least that is allowed.
        arguments: As in `check_integers`.

    Raises:
        ArgumentError: For the first that is not.

    Example:
        >>> check_numbers(0, ridge=float("nan"))
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: ridge=nan: allowed: a number of at least 0
    """
    for name, value in arguments.items():
        if not (_is_number(value) and value >= smallest):
            raise ArgumentError(name, value, f"a number of at least {smallest}")


def check_probabilities(**arguments: Any) -> None:
    """Refuses what is not a probability below 1, which a dropout has to be.

    Args:
        arguments: As in `check_integers`.

    Raises:
        ArgumentError: For the first that is not.

    Example:
        >>> check_probabilities(dropout=1.0)
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: dropout=1.0: allowed: a probability p with 0 <= p < 1
    """
    for name, value in arguments.items():
        if not (_is_number(value) and 0 <= value < 1):
            raise ArgumentError(name, value, "a probability p with 0 <= p < 1")


def check_multiple(name: str, value: int, of: str, number: int) -> None:
    """Refuses what another argument does not divide, and says what is near and would do.

    Args:
        name: Of the argument.
        value: Its value, at least 1.
        of: The other argument.
        number: Its value, at least 1.

    Raises:
        ArgumentError: It does not divide.

    Example:
        >>> check_multiple("value_dim", 50, "heads", 12)
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: value_dim=50: allowed: a multiple of heads=12, such as 48
    """
    if value % number:
        near = max(1, round(value / number)) * number
        raise ArgumentError(name, value, f"a multiple of {of}={number}, such as {near}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
