"""Which code a configuration may name by `_target_`."""

from __future__ import annotations

from slicewise.trust import trusted_by_user

_TRUSTED = ("slicewise.*", "sweep.*", "torch.optim.*", "pytorch_lightning.*")


def trusted_targets() -> tuple[str, ...]:
    """The `_target_`s that a configuration may name.

    A configuration can come out of a results folder, and must not be able to run just anything.
    The environment variable SLICEWISE_TRUSTED adds patterns: `SLICEWISE_TRUSTED=my_package.*`.

    Raises:
        ArgumentError: The variable holds something else than patterns.
    """
    return (*_TRUSTED, *trusted_by_user())
