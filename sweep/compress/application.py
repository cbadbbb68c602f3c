"""What Hydra runs of `python -m sweep.compress`: a trial of the library, a trial of the healing.

Imports nothing heavy: `python -m sweep.compress --help` passes through here.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from sweep.application import run_fit
from sweep.loading import load_libraries, wants_gpu

CONFIG_NAME = "compress"
# Folders of the two studies, within that of the result; the healing's has more to its name.
LIBRARY = "library"
HEALING = "heal"
_MEASURE = "sweep.compress.measure.fit"
_HEAL = "sweep.compress.heal.fit"


def run(config: DictConfig) -> Any:
    """One job: a candidate is measured, or a plan is healed.

    Returns:
        The damage that is left.
    """
    if config.candidate is not None:
        return measure(config)
    return heal(config)


def measure(config: DictConfig) -> Any:
    """Measures one candidate of one slice, in this process whatever the trainer asks for."""
    from sweep.trial.run import run_trial

    load_libraries(wants_gpu(config.trainer))
    from sweep.compress.measure import fit

    return run_trial(config, fit, _MEASURE)


def heal(config: DictConfig) -> Any:
    """Heals one plan, on as many ranks as the trainer asks for."""
    return run_fit(config, _HEAL)
