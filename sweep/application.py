"""The Hydra application: where its configuration lies, and what runs for one job.

Imports nothing heavy: `python -m sweep --help` passes through here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import get_method
from omegaconf import DictConfig, OmegaConf

from slicewise.errors import SlicewiseError
from sweep.devices import started_by_torchrun
from sweep.loading import load_libraries, wants_gpu
from sweep.overrides import read_overrides
from sweep.passwords import leave_out_password, take_password_of
from sweep.trial.settings import check_study_name

CONFIG_NAME = "config"
_FIT = "sweep.trial.fit.fit"


def config_directory() -> Path:
    """The folder `conf`: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def check_given_name(arguments: Sequence[str]) -> None:
    """Refuses a study's name before Hydra makes the folder of that name, wherever that may be.

    Args:
        arguments: Of the command line.

    Raises:
        ArgumentError: No folder below multirun/ can have it.
    """
    for override in read_overrides(arguments):
        if override.key_or_group == "study" and not override.is_sweep_override():
            check_study_name(None if override.is_delete() else override.value())


class StorageFolder(Callback):
    """Makes the folder of a SQLite storage, which the official sweeper expects to be there.

    And takes the password of another, before anything is saved.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        leave_out_password(config.hydra)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        # What is no text, or cannot be handed on, our sweeper refuses.
        with contextlib.suppress(SlicewiseError, TypeError):
            take_password_of(config)
        url = str(OmegaConf.select(config, "hydra.sweeper.storage") or "")
        if url.startswith("sqlite:///"):
            # Where it cannot be made, opening the storage will say so.
            with contextlib.suppress(OSError):
                Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)


def run(config: DictConfig) -> Any:
    """One job: fits one student, on as many ranks as the trainer asks for.

    Returns:
        What the objective asks for.
    """
    return run_fit(config, _FIT)


def run_fit(config: DictConfig, fitted_by: str) -> Any:
    """One job: a fit, on as many ranks as the trainer asks for.

    Args:
        config: Of the job.
        fitted_by: Dotted path of the function that fits, in each rank.

    Returns:
        What it returns of its trial.
    """
    from sweep.ranks.placement import Placement
    from sweep.trial.run import run_trial
    from sweep.trial.seeds import averaged
    from sweep.trial.settings import seeds_of

    if started_by_torchrun():
        from sweep.ranks.torchrun import fit
    elif Placement.of(config).world_size > 1:
        from sweep.ranks.gang import fit
    else:
        load_libraries(wants_gpu(config.get("trainer") or {}))
        fit = get_method(fitted_by)
    return run_trial(config, averaged(fit, seeds_of(config)), fitted_by)


def rehearse(config: DictConfig) -> None:
    """Tries out what a trial is made of, before any trial.

    Raises:
        SlicewiseError: The trial could not be run.
    """
    from sweep.ranks.placement import Placement
    from sweep.trial import rehearsal

    if started_by_torchrun() or Placement.of(config).world_size > 1:
        # Parts are built by ranks; the process that starts them does not load torch.
        rehearsal.check_settings(config)
    else:
        rehearsal.rehearse(config)


# Where the sweeper's workers find it; and that fits may take turns in one process.
vars(run)["rehearse"] = rehearse
vars(run)["side_by_side"] = True
