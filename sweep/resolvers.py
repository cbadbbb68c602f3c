"""Interpolations of our own, for configuration files."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from sweep.devices import native_precision, visible_gpus


def register_resolvers() -> None:
    """Makes the interpolations of our own known.

    `${on_gpu:A,B}` is A where CUDA is, else B; `${native_precision:ACCELERATOR}` the precision that
    the hardware is made for; `${trial_number:}` the number of the trial, 0 of a single fit;
    `${at_least:A,B}` the larger of two numbers.
    """
    OmegaConf.register_resolver("on_gpu", _on_gpu, replace=True)
    OmegaConf.register_resolver("native_precision", native_precision, replace=True)
    OmegaConf.register_resolver("trial_number", _trial_number, replace=True)
    OmegaConf.register_resolver("at_least", _at_least, replace=True)


def _on_gpu(with_gpu: Any, without: Any) -> Any:
    return with_gpu if visible_gpus() else without


def _at_least(one: int, other: int) -> int:
    return max(one, other)


def _trial_number() -> int:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra = HydraConfig.get()
    return int(hydra.job.num) if hydra.mode == RunMode.MULTIRUN else 0
