"""What a process has one of, and each of several trials in it needs for itself.

Streams of random numbers, Hydra's configuration of the job, the handlers of the log, the active
trial; and of its one thread, torch's modes. Trials that take turns swap all of it at each turn, so
each of them finds what it would find alone.
"""

from __future__ import annotations

import contextlib
import logging
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy
from hydra.core.hydra_config import HydraConfig

from sweep.trial.active import ActiveTrial, active_trials, set_active

# Kinds of devices for which torch has autocast, of those that fits run on.
_AUTOCAST = ("cpu", "cuda")


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


@contextlib.contextmanager
def put_aside() -> Iterator[ProcessState]:
    """Puts aside whatever the current one of several finds, while others have their turn.

    Afterwards it is as it was, whatever they did; meanwhile they find torch in the middle of
    nothing.
    """
    state = ProcessState.now()
    try:
        with _outside_modes():
            yield state
    finally:
        state.restore()


@contextlib.contextmanager
def _outside_modes() -> Iterator[None]:
    """Leaves what torch is in the middle of, which it keeps for each thread: no gradients or
    inference, autocast and what that has cast, a stream of a GPU."""
    torch = _loaded_torch()
    if torch is None:
        yield
        return
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None
    casts = {d: (torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _AUTOCAST}
    caches = torch.is_autocast_cache_enabled()
    depth = torch.autocast_increment_nesting() - 1
    with torch.inference_mode(False):
        for _ in range(depth + 1):
            torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_cache_enabled(True)
        for device in casts:
            torch.set_autocast_enabled(device, False)
        try:
            yield
        finally:
            for device, (is_enabled, dtype) in casts.items():
                torch.set_autocast_enabled(device, is_enabled)
                torch.set_autocast_dtype(device, dtype)
            torch.clear_autocast_cache()
            torch.set_autocast_cache_enabled(caches)
            for _ in range(depth):
                torch.autocast_increment_nesting()
            if stream is not None:
                torch.cuda.set_stream(stream)


def _loaded_torch() -> Any:
    return sys.modules.get("torch")


def _gpu_generators() -> list[tuple[int, Any]]:
    """Those that can have been drawn from."""
    torch = _loaded_torch()
    if torch is None or not torch.cuda.is_initialized():
        return []
    return list(enumerate(torch.cuda.default_generators))
