"""Muon, which orthogonalises the updates of matrices, with AdamW for all that is no matrix."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.overrides import TorchFunctionMode

from slicewise.processor import computes_in_bfloat16


class MuonWithAdamW(Optimizer):
    """torch's Muon for parameters of two dimensions, torch's AdamW for the others.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) makes the momentum of a
    matrix orthogonal before it is subtracted. Its updates are scaled to the size of AdamW's (Liu et
    al. 2025, "Muon is Scalable for LLM Training", https://arxiv.org/abs/2502.16982), so one
    learning rate serves both.

    torch's Muon orthogonalises in bfloat16, as its authors' does on GPUs. On a processor that would
    have to emulate it, it is done in single precision.

    Args:
        params: Parameters.
        lr: Learning rate; 1e-3, torch's for AdamW.
        weight_decay: Decoupled (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101);
            1e-4 as in the article, whose optimizer is AdamW; torch has 1e-1 and 1e-2.
        momentum: Of Muon; 0.95, its authors' and torch's. AdamW has torch's betas.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> optimizer = MuonWithAdamW(layer.parameters(), lr=0.1)
        >>> before = layer.weight.detach().clone()
        >>> layer(torch.randn(4, 3)).pow(2).mean().backward()
        >>> optimizer.step()
        >>> bool((layer.weight != before).all())
        True
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        momentum: float = 0.95,
    ) -> None:
        given = list(params)
        super().__init__(given, {"lr": lr})
        matrices = [p for p in given if p.ndim == 2]
        others = [p for p in given if p.ndim != 2]
        self._parts: list[Optimizer] = []
        if matrices:
            self._parts.append(
                Muon(
                    matrices,
                    lr=lr,
                    weight_decay=weight_decay,
                    momentum=momentum,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            self._parts.append(AdamW(others, lr=lr, weight_decay=weight_decay))
        self._share_groups()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            with _InSinglePrecision() if _emulates_bfloat16(part) else contextlib.nullcontext():
                part.step()
        return loss

    def __getstate__(self) -> dict[str, Any]:
        # What torch has copied and pickled of an optimizer is less than all of it.
        return {**super().__getstate__(), "_parts": self._parts}

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()

    def _share_groups(self) -> None:
        """A scheduler sets the learning rates of the parts through ours."""
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self.state.clear()
        for part in self._parts:
            self.state.update(part.state)


def _emulates_bfloat16(part: Optimizer) -> bool:
    device: torch.device = part.param_groups[0]["params"][0].device
    return isinstance(part, Muon) and device.type == "cpu" and not computes_in_bfloat16()


class _InSinglePrecision(TorchFunctionMode):
    """While it is entered, what would be made bfloat16 is a copy in single precision.

    torch's Muon asks for bfloat16 itself, and has no argument for another type.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)
        return func(*args, **(kwargs or {}))
