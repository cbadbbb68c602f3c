"""What names a module: all that decides what it computes, and nothing else."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

# Where a model came from: the same model is the same from anywhere.
_SOURCES = ("name_or_path", "source", "training")
_PLAIN = (bool, int, float, str, type(None))


def module_digest(*modules: nn.Module) -> str:
    """Names what modules in eval mode compute: 64 hexadecimal digits.

    Their weights and buffers, and the classes and plain attributes of all their parts: the same
    weights with another number of heads, or another activation, are another module.

    Args:
        modules: On any device.

    Example:
        >>> from torch import nn
        >>> from slicewise.digest import module_digest
        >>> norm = nn.LayerNorm(8)
        >>> module_digest(norm) == module_digest(nn.LayerNorm(8))
        True
        >>> module_digest(norm) == module_digest(nn.LayerNorm(8, eps=1e-3))
        False
    """
    digest = hashlib.sha256()
    for module in modules:
        for place, part in module.named_modules():
            digest.update(f"{place} {type(part).__qualname__} {_settings(part)}\n".encode())
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _settings(module: nn.Module) -> list[tuple[str, object]]:
    """The plain attributes of a module, by name."""
    return sorted(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, _PLAIN) and not name.startswith("_") and name not in _SOURCES
    )
