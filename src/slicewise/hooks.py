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
# Where a callback has its hook, in a class or an object, this says that it may be called once for
# several steps, or batches of a validation.
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
        if isinstance(callback, _CHANGE_STEPS) or _goes_by_the_clock(callback):
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


def _goes_by_the_clock(callback: Callback) -> bool:
    """A checkpoint that Lightning saves so only where it takes the steps itself."""
    return isinstance(callback, ModelCheckpoint) and callback._train_time_interval is not None


def _unmarked(callback: Callback, hooks: Iterable[str]) -> str | None:
    if isinstance(callback, (ProgressBar, Timer)):
        return None
    for hook in hooks:
        name, owner = _own(callback, [hook]), _owner(callback, hook)
        # Others than those of every so many steps do nothing there.
        is_idle = owner is ModelCheckpoint and not callback._every_n_train_steps  # type: ignore[attr-defined]
        if name is not None and not is_idle and not vars(owner).get(MARK, False):
            return name
    return None


def _own(callback: Callback, hooks: Iterable[str]) -> str | None:
    """The first of the hooks that is the callback's own, and not every callback's."""
    for hook in hooks:
        if _owner(callback, hook) is not Callback:
            return f"{type(callback).__name__}.{hook}"
    return None


def _owner(callback: Callback, hook: str) -> object:
    """The class whose hook it has; the callback itself, where that is its alone."""
    owners = (callback, *type(callback).__mro__)
    return next(owner for owner in owners if hook in vars(owner))
