"""What a process has one of, and each of several trials in it needs for itself.

Streams of random numbers, Hydra's configuration of the job, the handlers of the log, the active
trial. Trials that take turns in one process swap all of it at each turn, so each of them finds what
it would find alone.
"""

from __future__ import annotations

import logging
import random
import sys
from dataclasses import dataclass
from typing import Any, Self

import numpy
from hydra.core.hydra_config import HydraConfig

from sweep.trial.active import ActiveTrial, active_trials, set_active


@dataclass
class ProcessState:
    """All of it, at one moment.

    Attributes:
        hydra: Hydra's configuration of the job.
        handlers: Of the root of all loggers.
        active: The active trials, innermost last.
        python, numpy, torch: The states of the generators of random numbers; torch's on the CPU.
        gpus: The generator of each GPU, by number. Not its state: graphs that are recorded with one
            read from it wherever the GPU is with them.
    """

    hydra: Any
    handlers: list[logging.Handler]
    active: list[ActiveTrial]
    python: Any
    numpy: Any
    torch: Any
    gpus: dict[int, Any]

    @classmethod
    def now(cls) -> Self:
        """That of the process now."""
        torch = _loaded_torch()
        return cls(
            HydraConfig.instance().cfg,
            logging.root.handlers[:],
            active_trials(),
            random.getstate(),
            numpy.random.get_state(legacy=False),
            None if torch is None else torch.default_generator.get_state(),
            {n: generator.graphsafe_get_state() for n, generator in _gpu_generators()},
        )

    def restore(self) -> None:
        """Makes it that of the process."""
        HydraConfig.instance().cfg = self.hydra
        logging.root.handlers[:] = self.handlers
        set_active(self.active)
        random.setstate(self.python)
        numpy.random.set_state(self.numpy)
        torch = _loaded_torch()
        if torch is not None and self.torch is not None:
            torch.default_generator.set_state(self.torch)
        for number, generator in _gpu_generators():
            if number not in self.gpus:
                self.gpus[number] = generator.clone_state()
            generator.graphsafe_set_state(self.gpus[number])

    def for_another(self) -> ProcessState:
        """The same for a trial that begins; no trial draws from another's generator."""
        gpus = {n: generator.clone_state() for n, generator in self.gpus.items()}
        return ProcessState(
            self.hydra, self.handlers[:], [], self.python, self.numpy, self.torch, gpus
        )


def _loaded_torch() -> Any:
    return sys.modules.get("torch")


def _gpu_generators() -> list[tuple[int, Any]]:
    """Those that can have been drawn from."""
    torch = _loaded_torch()
    if torch is None or not torch.cuda.is_initialized():
        return []
    return list(enumerate(torch.cuda.default_generators))
