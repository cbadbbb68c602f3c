"""Which code a configuration may name by `_target_`."""

from __future__ import annotations

from collections.abc import Iterable

from slicewise.errors import ArgumentError
from slicewise.trust import is_trusted, trusted_by_user

_TRUSTED = ("slicewise.*", "sweep.*", "torch.optim.*", "pytorch_lightning.*")


def trusted_targets() -> tuple[str, ...]:
    """The `_target_`s that a configuration may name.

    A configuration can come out of a results folder, and must not be able to run just anything.
    The environment variable SLICEWISE_TRUSTED adds patterns: `SLICEWISE_TRUSTED=my_package.*`.

    Raises:
        ArgumentError: The variable holds something else than patterns.
    """
    return (*_TRUSTED, *trusted_by_user())


def check_trusted(group: str, name: str, patterns: Iterable[str]) -> None:
    """Refuses a target that no pattern allows.

    Args:
        group: The key of its node in the configuration.
        name: The target's dotted name.
        patterns: What is allowed.

    Raises:
        ArgumentError: It is not, with how to trust it.
    """
    patterns = tuple(patterns)
    if is_trusted(name, patterns):
        return
    raise ArgumentError(
        f"{group}._target_",
        name,
        ", ".join(patterns),
        f"To trust your own code: SLICEWISE_TRUSTED='{name.partition('.')[0]}.*' python -m ...",
    )
