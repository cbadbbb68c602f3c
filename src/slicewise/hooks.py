"""Which callbacks have to be called within a step, or for each, and not once for several."""

from __future__ import annotations

from collections.abc import Iterable

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelPruning,
    ProgressBar,
    StochasticWeightAveraging,
    Timer,
)

_WITHIN = ("on_before_backward", "on_after_backward", "on_before_optimizer_step")
_STEPS = ("on_train_batch_start", "on_train_batch_end")
_VALIDATIONS = ("on_validation_batch_start", "on_validation_batch_end")
# They change, in the middle of a fit, what its steps are.
_CHANGE_STEPS = (
    BaseFinetuning,
    GradientAccumulationScheduler,
    ModelPruning,
    StochasticWeightAveraging,
)
# A callback that may be called once for several steps, or batches of a validation, says so.
MARK = "once_for_several_steps"


def within_a_step(callbacks: Iterable[Callback]) -> str | None:
    """Who takes part in a step, so that Lightning has to take it; None: nobody.

    Example:
        >>> class Noise(Callback):
        ...     def on_after_backward(self, trainer, pl_module):
        ...         ...
        >>> within_a_step([Timer(), Noise()])
        'Noise.on_after_backward'
    """
    for callback in callbacks:
        if isinstance(callback, _CHANGE_STEPS):
            return type(callback).__name__
        if (hook := _own(callback, _WITHIN)) is not None:
            return hook
    return None


def at_each_step(callbacks: Iterable[Callback]) -> str | None:
    """Who is called at each step, and does not say that once for several will do; None: nobody.

    Example:
        >>> from pytorch_lightning.callbacks import EMAWeightAveraging
        >>> at_each_step([Timer(), EMAWeightAveraging()])
        'EMAWeightAveraging.on_train_batch_end'
    """
    return next((hook for c in callbacks if (hook := _unmarked(c, _STEPS)) is not None), None)


def at_each_validation_batch(callbacks: Iterable[Callback]) -> str | None:
    """Who is called for each batch of a validation, likewise.

    Example:
        >>> at_each_validation_batch([Timer()])
    """
    found = (hook for c in callbacks if (hook := _unmarked(c, _VALIDATIONS)) is not None)
    return next(found, None)


def _unmarked(callback: Callback, hooks: Iterable[str]) -> str | None:
    if isinstance(callback, (ProgressBar, Timer)) or getattr(callback, MARK, False):
        return None
    if isinstance(callback, ModelCheckpoint) and not callback._every_n_train_steps:
        # Then it does nothing there.
        own = type(callback).on_train_batch_end is not ModelCheckpoint.on_train_batch_end
        hooks = hooks if own else [hook for hook in hooks if hook != "on_train_batch_end"]
    return _own(callback, hooks)


def _own(callback: Callback, hooks: Iterable[str]) -> str | None:
    """The first of the hooks that is the callback's own."""
    for hook in hooks:
        method = getattr(callback, hook)
        if getattr(method, "__func__", method) is not getattr(Callback, hook):
            return f"{type(callback).__name__}.{hook}"
    return None
