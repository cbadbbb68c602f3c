"""What names a module: all that decides what it computes, and nothing else."""

from __future__ import annotations

import hashlib
import weakref

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
        digest.update(_structure(module).encode())
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def frozen_digest(module: nn.Module) -> str:
    """As `module_digest`, of a module whose weights nobody trains: hashing them takes as long as
    a trial takes to prepare, so it is done once, and again where they were moved or written to.

    Args:
        module: On any device.

    Example:
        >>> norm = nn.LayerNorm(8).requires_grad_(False)
        >>> digest = frozen_digest(norm)
        >>> digest == frozen_digest(norm) == module_digest(norm)
        True
        >>> _ = norm.bias.add_(1)
        >>> digest == frozen_digest(norm)
        False
    """
    tensors = module.state_dict().values()
    writes = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    state = (_structure(module), [tensor.data_ptr() for tensor in tensors], writes)
    known = _known.get(module)
    if known is None or known[0] != state:
        known = _known[module] = (state, module_digest(module))
    return known[1]


# Of each module, its state when it was hashed, and the digest.
_known: weakref.WeakKeyDictionary[nn.Module, tuple[object, str]] = weakref.WeakKeyDictionary()


def _structure(module: nn.Module) -> str:
    """The classes and plain attributes of all its parts, a line for each."""
    parts = module.named_modules()
    return "".join(f"{at} {type(part).__qualname__} {_settings(part)}\n" for at, part in parts)


def _settings(module: nn.Module) -> list[tuple[str, object]]:
    """The plain attributes of a module, by name."""
    return sorted(
        (name, value)
        for name, value in vars(module).items()
        if isinstance(value, _PLAIN) and not name.startswith("_") and name not in _SOURCES
    )
