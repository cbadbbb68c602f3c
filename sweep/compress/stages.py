"""The stages of a compression, as Hydra jobs and studies that follow on each other."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import env_override
from omegaconf import DictConfig

from sweep.application import config_directory
from sweep.compress.application import CONFIG_NAME
from sweep.overrides import override_text
from sweep.trust import trusted_targets

# What decides nothing of a library of first weights.
_LATER = ("budget", "choose", "heal", "evaluate", "embeddings", "export", "plan", "candidate")
_OF_FITS = ("optimizer", "scheduler", "callbacks", "trainer")
# But where it is computed.
_ALWAYS = ("trainer.accelerator",)


def run_job(task: Callable[[DictConfig], Any], overrides: Sequence[str]) -> Any:
    """Runs one Hydra job in this process, in the folder of the whole.

    Returns:
        What the task returned.
    """
    returned = []

    def keep(config: DictConfig) -> None:
        returned.append(task(config))

    _hydra(keep, overrides)
    return returned[0] if returned else None


def run_study(
    task: Callable[[DictConfig], Any],
    study: str,
    key: str,
    points: Sequence[str],
    overrides: Sequence[str],
) -> None:
    """Runs a study of one trial for each value of a key, or what is left of it.

    Args:
        task: What runs one trial.
        study: Its name.
        key: What is swept.
        points: Its values.
        overrides: Of all trials.
    """
    choices = ",".join(override_text(point) for point in points)
    own = [
        f"study={override_text(study)}",
        f"{key}=choice({choices})",
        f"hydra.sweeper.n_trials={len(points)}",
        "hydra.sweeper.summary=false",
    ]
    _hydra(task, ["-m", *overrides, *own])


def of_library(overrides: Sequence[str], fits: bool) -> list[str]:
    """Those of the overrides that decide the library: another budget has the same one.

    Args:
        overrides: The command line's.
        fits: Whether candidates are fitted, by what the healing is fitted by.
    """
    left_out = (*_LATER, *(() if fits else _OF_FITS))
    return [o for o in overrides if _key(o) in _ALWAYS or _key(o).split(".")[0] not in left_out]


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def _hydra(task: Callable[[DictConfig], Any], arguments: Sequence[str]) -> None:
    with _as_arguments(arguments), env_override({"HYDRA_FULL_ERROR": "1"}):
        GlobalHydra.instance().clear()
        hydra.main(
            config_path=str(config_directory()),
            config_name=CONFIG_NAME,
            execution_whitelist=trusted_targets(),
        )(task)()


@contextlib.contextmanager
def _as_arguments(arguments: Sequence[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before
