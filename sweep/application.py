"""The Hydra application: where its configuration lies, and what runs for one job.

Imports nothing heavy: `python -m sweep --help` passes through here.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from sweep.devices import native_precision, started_by_torchrun, visible_gpus

CONFIG_NAME = "config"
# What runs a trial, and imports all of torch, Lightning and transformers.
_TRIAL = "sweep.trial.fit"
_TRUSTED = ("slicewise.*", "sweep.*", "torch.optim.*", "pytorch_lightning.*")


def config_directory() -> Path:
    """The folder `conf`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def trusted_targets() -> tuple[str, ...]:
    """The `_target_`s that a configuration may name.

    A configuration can come out of a results folder, and must not be able to run just anything.
    The environment variable SLICEWISE_TRUSTED adds patterns: `SLICEWISE_TRUSTED=my_package.*`.
    """
    return (*_TRUSTED, *filter(None, os.environ.get("SLICEWISE_TRUSTED", "").split(",")))


class StorageFolder(Callback):
    """Makes the folder of a SQLite storage, which the official sweeper expects to be there."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        url = str(OmegaConf.select(config, "hydra.sweeper.storage") or "")
        if url.startswith("sqlite:///"):
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)


def register_resolvers() -> None:
    """Makes the interpolations of our own known.

    `${on_gpu:A,B}` is A where CUDA is, else B; `${native_precision:ACCELERATOR}` the precision that
    the hardware is made for; `${trial_number:}` the number of the trial, 0 of a single fit.
    """
    OmegaConf.register_resolver("on_gpu", _on_gpu, replace=True)
    OmegaConf.register_resolver("native_precision", native_precision, replace=True)
    OmegaConf.register_resolver("trial_number", _trial_number, replace=True)


def run(config: DictConfig) -> Any:
    """One job: fits one student, on as many ranks as the trainer asks for.

    Returns:
        What the objective asks for.
    """
    from sweep.ranks.messages import number_of_ranks

    if started_by_torchrun():
        from sweep.ranks import torchrun

        return torchrun.run_trial(config)
    if number_of_ranks(config) > 1:
        from sweep.ranks import gang

        return gang.run_trial(config)
    with no_search_for_garbage():
        from sweep.trial.fit import run_trial

    return run_trial(config)


@contextlib.contextmanager
def no_search_for_garbage() -> Iterator[None]:
    """For loading the large libraries: the search takes a sixth of that time, and finds nothing.

    What has been loaded is not searched later either.
    """
    if not gc.isenabled() or _TRIAL in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _on_gpu(with_gpu: Any, without: Any) -> Any:
    return with_gpu if visible_gpus() else without


def _trial_number() -> int:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    return int(hydra.job.num) if hydra.mode == RunMode.MULTIRUN else 0
