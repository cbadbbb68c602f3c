"""Whether a fit's steps can be captured as CUDA graphs, and why not: functions of plain facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import pytorch_lightning as lightning
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer

from slicewise.hooks import at_each_step, within_a_step


@dataclass(frozen=True)
class FitFacts:
    """What of a fit decides how its steps are taken.

    Attributes:
        device: Its kind: `cuda`, `cpu`, ...
        world_size: Ranks that share each step.
        accumulate_grad_batches: Batches in a step.
        overfit_batches: Batches that are trained on again and again, or a share of them.
        precision: Lightning's name for it.
        scales_gradients: Whether gradients are scaled, as those of half precision.
        within_step: A callback that takes part in a step.
        each_step: A callback that has to be called for each step.
    """

    device: str
    world_size: int = 1
    accumulate_grad_batches: int = 1
    overfit_batches: float = 0
    precision: str = "32-true"
    scales_gradients: bool = False
    within_step: str | None = None
    each_step: str | None = None

    @classmethod
    def of(cls, trainer: lightning.Trainer) -> Self:
        """Of what a Trainer is about to run."""
        plugin = trainer.precision_plugin
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        return cls(
            device=trainer.strategy.root_device.type,
            world_size=trainer.world_size,
            accumulate_grad_batches=trainer.accumulate_grad_batches,
            overfit_batches=trainer.overfit_batches,  # type: ignore[attr-defined]
            precision=str(trainer.precision),
            scales_gradients=isinstance(plugin, MixedPrecision) and plugin.scaler is not None,
            within_step=within_a_step(callbacks),
            each_step=at_each_step(callbacks),
        )


def why_one_by_one(fit: FitFacts) -> str | None:
    """Why Lightning has to take the steps, one by one; None where it need not.

    Example:
        >>> why_one_by_one(FitFacts("cuda", accumulate_grad_batches=4))
        'trainer.accumulate_grad_batches=4'
        >>> why_one_by_one(FitFacts("cuda", precision="bf16-mixed"))
    """
    if fit.world_size > 1:
        return "several ranks share each step"
    if fit.accumulate_grad_batches != 1:
        return f"trainer.accumulate_grad_batches={fit.accumulate_grad_batches}"
    if fit.overfit_batches:
        return f"trainer.overfit_batches={fit.overfit_batches}"
    if fit.scales_gradients:
        return f"trainer.precision={fit.precision} scales gradients"
    if fit.within_step is not None:
        return f"the callback {fit.within_step} takes part in each step"
    return None


def why_not_captured(fit: FitFacts) -> str | None:
    """Why no step can be captured, backward pass included; None where each can.

    Example:
        >>> why_not_captured(FitFacts("cpu"))
        'a CPU has no graphs'
        >>> why_not_captured(FitFacts("cuda", precision="16-mixed", scales_gradients=True))
        'trainer.precision=16-mixed scales gradients'
        >>> why_not_captured(FitFacts("cuda", precision="bf16-mixed"))
    """
    if fit.device != "cuda":
        return f"a {fit.device.upper()} has no graphs"
    return why_one_by_one(fit)


def why_update_outside(optimizer: Optimizer) -> str | None:
    """Why a captured step ends before the optimizer's update, which is then launched after it.

    None where the graph holds it, as long as a schedule changes nothing but the learning rate.

    Example:
        >>> import torch
        >>> weights = [torch.nn.Parameter(torch.ones(2))]
        >>> why_update_outside(torch.optim.SGD(weights, lr=0.1))
        'SGD is not fused'
        >>> why_update_outside(torch.optim.AdamW(weights, fused=True))
    """
    name = type(optimizer).__name__
    if not all(group.get("fused") for group in optimizer.param_groups):
        return f"{name} is not fused"
    if not all("capturable" in group for group in optimizer.param_groups):
        return f"{name} has no form that can be captured"
    return None


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """All numbers that an optimizer goes by, but for the learning rate: that a graph reads anew,
    where it lay when the graph was recorded.

    Example:
        >>> import torch
        >>> group = {"params": [torch.nn.Parameter(torch.ones(2))], "lr": torch.tensor(0.1)}
        >>> optimizer = torch.optim.SGD([group], foreach=True)
        >>> before = settings_of(optimizer)
        >>> _ = optimizer.param_groups[0]["lr"].fill_(0.2)
        >>> settings_of(optimizer) == before
        True
        >>> optimizer.param_groups[0]["lr"] = 0.2  # A graph would not see it.
        >>> settings_of(optimizer) == before
        False
    """

    def settled(key: str, value: Any) -> Any:
        if key != "lr":
            return value
        return value.data_ptr() if isinstance(value, Tensor) else None

    return [
        {key: settled(key, value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]


def hold_rates_on(device: torch.device, optimizer: Optimizer) -> None:
    """Holds the learning rates of a fused optimizer in a GPU's memory, in single precision.

    A graph reads them there anew in each step, where a schedule writes them. Fits without graphs
    hold them likewise: a fused kernel would use more digits of a number that it is handed, and the
    losses would not be the same.

    Args:
        device: The GPU.
        optimizer: What is not fused is left as it is.
    """
    for group in optimizer.param_groups:
        if group.get("fused"):
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
