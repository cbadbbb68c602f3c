"""What a process has one of, and each of several trials in it needs for itself.

Streams of random numbers, Hydra's configuration of the job, the log, the active trial; what
anybody's callback may set for the whole process, its folder or torch's default dtype, say; and of
its one thread, torch's modes. Trials that take turns swap all of it at each turn, so each of them
finds what it would find alone.

Handlers of signals stay: a signal is sent to the process, whoever has the turn.
"""

from __future__ import annotations

import contextlib
import logging
import operator
import os
import random
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy
from hydra.core.hydra_config import HydraConfig

from sweep.trial.active import ActiveTrial, active_trials, set_active
from sweep.workers.setting import Setting
from sweep.workers.torch_settings import torch_settings

# Kinds of devices for which torch has autocast, of those that fits run on.
_AUTOCAST = ("cpu", "cuda")


def _set_filters(filters: list[Any]) -> None:
    warnings.filters = filters
    # Python is told that they are others.
    with warnings.catch_warnings():
        pass


# Of the environment; as they are kept, since decoding them takes as long as all the rest of a turn.
_variables: dict[bytes, bytes] = vars(os.environ)["_data"]


def _set_variables(variables: dict[bytes, bytes]) -> None:
    """Those that have come since stay: what is imported sets some, once for all trials."""
    for name, value in variables.items():
        if _variables.get(name) != value:
            os.environb[name] = value


def _folder() -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return os.getcwd()
    return None


def _set_folder(folder: str | None) -> None:
    with contextlib.suppress(OSError):
        if folder is not None:
            os.chdir(folder)


_SETTINGS = (
    # `catch_warnings` puts others in the place of these three.
    Setting(lambda: warnings.filters, _set_filters, operator.is_),
    Setting.attribute(warnings, "showwarning"),
    Setting.attribute(warnings, "_showwarnmsg_impl"),
    Setting.attribute(sys, "stdout"),
    Setting.attribute(sys, "stderr"),
    Setting(_folder, _set_folder),
    Setting(_variables.copy, _set_variables),
    Setting(lambda: logging.root.manager.disable, logging.disable),
)


class _Logger(NamedTuple):
    """What a logger says, and where.

    Attributes:
        logger: Which.
        handlers, level, propagate: Its own.
    """

    logger: logging.Logger
    handlers: Sequence[logging.Handler]
    level: int
    propagate: bool

    @classmethod
    def all(cls) -> list[_Logger]:
        """The root, and whatever has handlers besides: a job's configuration may name any."""
        return [cls(o, o.handlers[:], o.level, o.propagate) for o in (logging.root, *_speaking())]

    def restore(self) -> None:
        self.logger.handlers[:] = self.handlers
        if self.logger.level != self.level:
            self.logger.setLevel(self.level)
        self.logger.propagate = self.propagate


def _speaking() -> list[logging.Logger]:
    """Loggers below the root that have handlers of their own."""
    named = logging.root.manager.loggerDict.values()
    return [one for one in named if isinstance(one, logging.Logger) and one.handlers]


@dataclass
class ProcessState:
    """All of it, at one moment.

    Attributes:
        hydra: Hydra's configuration of the job.
        loggers: Those with handlers.
        closed: The handlers that end with the next configuration of the log.
        active: The active trials, innermost last.
        settings: Whatever else can be set, with its value.
        python, numpy, torch: The states of the generators of random numbers; torch's on the CPU.
        gpus: The generator of each GPU, by number. Not its state: graphs that are recorded with one
            read from it wherever the GPU is with them.
    """

    hydra: Any
    loggers: list[_Logger]
    closed: list[Any]
    active: list[ActiveTrial]
    settings: list[tuple[Setting, Any]]
    python: Any
    numpy: Any
    torch: Any
    gpus: dict[int, Any]

    @classmethod
    def now(cls) -> Self:
        """That of the process now."""
        torch = _loaded_torch()
        settings = _SETTINGS if torch is None else (*_SETTINGS, *torch_settings(torch))
        return cls(
            HydraConfig.instance().cfg,
            _Logger.all(),
            _handlers()[:],
            active_trials(),
            [(setting, setting.get()) for setting in settings],
            random.getstate(),
            numpy.random.get_state(legacy=False),
            None if torch is None else torch.default_generator.get_state(),
            {n: generator.graphsafe_get_state() for n, generator in _gpu_generators()},
        )

    def restore(self) -> None:
        """Makes it that of the process; only what differs is set."""
        found = _taken_over()
        HydraConfig.instance().cfg = self.hydra
        for speaking in _speaking() if found is None else [o.logger for o in found.loggers]:
            speaking.handlers.clear()
        for logger in self.loggers:
            logger.restore()
        _handlers()[:] = self.closed
        set_active(self.active)
        for number, (setting, value) in enumerate(self.settings):
            there = setting.get() if found is None else found.settings[number][1]
            if not setting.same(there, value):
                setting.set(value)
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
        """The same for a trial that begins: no trial draws from another's generator, or closes
        its log."""
        gpus = {n: generator.clone_state() for n, generator in self.gpus.items()}
        return replace(self, closed=[], active=[], gpus=gpus)


# That of the process, as whoever left last has just seen it: whoever comes next need not look.
_left: ProcessState | None = None


def _taken_over() -> ProcessState | None:
    """What the last one left; None where somebody has gone on since, and anything may be set."""
    global _left
    left, _left = _left, None
    return left


@contextlib.contextmanager
def put_aside() -> Iterator[ProcessState]:
    """Puts aside whatever the current one of several finds, while others have their turn.

    Afterwards it is as it was, whatever they did; meanwhile they find torch in the middle of
    nothing.
    """
    global _left
    state = _left = ProcessState.now()
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


def _handlers() -> list[Any]:
    """References to all handlers of the log: whoever configures it closes them first."""
    handlers: list[Any] = logging._handlerList  # type: ignore[attr-defined]
    return handlers


def _loaded_torch() -> Any:
    return sys.modules.get("torch")


def _gpu_generators() -> list[tuple[int, Any]]:
    """Those that can have been drawn from."""
    torch = _loaded_torch()
    if torch is None or not torch.cuda.is_initialized():
        return []
    return list(enumerate(torch.cuda.default_generators))
