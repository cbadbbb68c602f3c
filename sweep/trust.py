"""Which code a configuration may name by `_target_`."""

from __future__ import annotations

import os

_TRUSTED = ("slicewise.*", "sweep.*", "torch.optim.*", "pytorch_lightning.*")


def trusted_targets() -> tuple[str, ...]:
    """The `_target_`s that a configuration may name.

    A configuration can come out of a results folder, and must not be able to run just anything.
    The environment variable SLICEWISE_TRUSTED adds patterns: `SLICEWISE_TRUSTED=my_package.*`.
    """
    return (*_TRUSTED, *filter(None, os.environ.get("SLICEWISE_TRUSTED", "").split(",")))
