"""`hydra/sweeper/sampler=auto`: OptunaHub's AutoSampler, which chooses a sampler for each trial.

Its code is in no package: `optunahub` fetches it from GitHub when it is first asked for, and keeps
it. That is code from elsewhere, so it is run only where the user has said so in SLICEWISE_TRUSTED,
and at one commit of the registry, unless another is asked for.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

from optuna.samplers import BaseSampler

from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.trust import is_trusted, trusted_by_user
from sweep.passwords import without_password

_PACKAGE = "samplers/auto_sampler"
# By what dotted name the user trusts it: the one that optunahub gives it.
_NAME = "optunahub_registry.package.samplers.auto_sampler.AutoSampler"
_TRUST = "SLICEWISE_TRUSTED='optunahub_registry.*' python -m ..."
# What it chooses among needs these.
_NEEDED = ("optunahub", "cmaes", "scipy", "torch")


def auto_sampler(ref: str, registry: str | None = None, seed: int | None = None) -> BaseSampler:
    """Makes OptunaHub's AutoSampler.

    Args:
        ref: The commit of https://github.com/optuna/optunahub-registry that has its code.
        registry: The folder `package` of a copy of that registry; nothing is fetched then. None:
            fetched once, into optunahub's cache.
        seed: Of the sampler that it chooses.

    Raises:
        SlicewiseError: Its code is not trusted, not there, or cannot be fetched, or a package that
            it needs is not installed.
    """
    if not is_trusted(_NAME, trusted_by_user()):
        raise SlicewiseError(
            f"auto runs code that is fetched from OptunaHub, {_NAME}, which is not trusted\n"
            f"To trust it: {_TRUST}"
        )
    for package in _NEEDED:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise SlicewiseError(
                f"auto needs {package} ({str(error).splitlines()[0]}): pip install "
                + ("torch" if package == "torch" else "'slicewise[auto]'")
            ) from error
    sampler: BaseSampler = _module(ref, registry).AutoSampler(seed=seed)
    return sampler


@functools.cache
def _module(ref: str, registry: str | None) -> Any:
    import optunahub

    if registry is not None:
        if not Path(registry, _PACKAGE, "__init__.py").is_file():
            allowed = f"the folder `package` of OptunaHub's registry, with {_PACKAGE} in it"
            raise ArgumentError("hydra.sweeper.sampler.registry", registry, allowed)
        return optunahub.load_local_module(_PACKAGE, registry_root=registry)
    try:
        return optunahub.load_module(_PACKAGE, ref=ref)
    except Exception as error:  # Of git, of GitHub's client, of the network below them.
        raise SlicewiseError(
            f"auto's code could not be fetched from OptunaHub: {_last_line(error)}\n"
            "From a copy of its registry: hydra.sweeper.sampler.registry=PATH/package; or without "
            "it: hydra/sweeper/sampler=tpe"
        ) from error


def _last_line(error: Exception) -> str:
    """What git, or GitHub's client, says last: what went wrong."""
    lines = without_password(str(error)).strip().splitlines()
    return lines[-1].strip(" '").removeprefix("stderr: '") if lines else type(error).__name__
