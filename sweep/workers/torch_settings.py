"""What torch has one of for the whole process; it is loaded already."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from sweep.workers.setting import Setting


@functools.cache
def torch_settings(torch: Any) -> tuple[Setting, ...]:
    """What torch has one of for the whole process, and any code may set."""
    return (
        Setting(torch.get_default_dtype, torch.set_default_dtype),
        Setting(torch.get_num_threads, torch.set_num_threads),
        _precision_of_products(torch),
        Setting(
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        ),
        Setting(
            lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            lambda value: torch.set_anomaly_enabled(*value),
        ),
        Setting.attribute(torch.backends.cudnn, "benchmark"),
        Setting.attribute(torch.backends.cudnn, "deterministic"),
    )


def _precision_of_products(torch: Any) -> Setting:
    """Of matrix products in 32 bits: for all of them by name, and by kind of device."""
    kinds = (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)

    def get() -> tuple[str | None, list[str]]:
        name = None
        # Torch has no name for what was set by kind.
        with contextlib.suppress(RuntimeError):
            name = torch.get_float32_matmul_precision()
        return name, [kind.fp32_precision for kind in kinds]

    def set_to(value: tuple[str | None, list[str]]) -> None:
        name, by_kind = value
        torch.set_float32_matmul_precision(name or "highest")
        for kind, precision in zip(kinds, by_kind, strict=True):
            kind.fp32_precision = precision

    return Setting(get, set_to)
