"""What torch has one of for the whole process; it is loaded already."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from sweep.workers.setting import Setting

# By their modules, flags that are attributes: which kernels run, and what they may round.
_FLAGS = {
    "backends.cudnn": ("enabled", "benchmark", "benchmark_limit", "deterministic"),
    "backends.mkldnn": ("enabled", "deterministic"),
    "backends.cuda.matmul": ("allow_fp16_accumulation",),
    "backends.opt_einsum": ("enabled", "strategy"),
    "utils.deterministic": ("fill_uninitialized_memory",),
}
# Of matrix products in 16 bits, which may also be told whether they may split sums.
_REDUCTIONS = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
# Kernels of fused attention, on a CPU too.
_ATTENTIONS = ("flash", "mem_efficient", "math", "cudnn")


@functools.cache
def torch_settings(torch: Any) -> tuple[Setting, ...]:
    """What torch has one of for the whole process, and any code may set."""
    return (
        Setting(torch.get_default_dtype, torch.set_default_dtype),
        Setting(torch.get_num_threads, torch.set_num_threads),
        _default_device(torch),
        _precisions(torch),
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
        *_flags(torch),
    )


def _flags(torch: Any) -> Iterator[Setting]:
    for path, names in _FLAGS.items():
        module = functools.reduce(getattr, path.split("."), torch)
        for name in names:
            yield Setting.attribute(module, name)
    products = torch.backends.cuda.matmul
    for name in _REDUCTIONS:
        yield Setting(
            functools.partial(_values, products, name, f"{name}_split_k"),
            functools.partial(setattr, products, name),
        )
    cuda, mha = torch.backends.cuda, torch.backends.mha
    for name in _ATTENTIONS:
        yield Setting(getattr(cuda, f"{name}_sdp_enabled"), getattr(cuda, f"enable_{name}_sdp"))
    yield Setting(
        cuda.fp16_bf16_reduction_math_sdp_allowed, cuda.allow_fp16_bf16_reduction_math_sdp
    )
    yield Setting(cuda.preferred_linalg_library, cuda.preferred_linalg_library)
    yield Setting(cuda.preferred_blas_library, cuda.preferred_blas_library)
    yield Setting(mha.get_fastpath_enabled, mha.set_fastpath_enabled)
    yield Setting(torch._C._get_nnpack_enabled, torch.backends.nnpack.set_flags)


def _values(owner: Any, *names: str) -> tuple[Any, ...]:
    return tuple(getattr(owner, name) for name in names)


def _default_device(torch: Any) -> Setting:
    """Torch has none until one is set, and is slower from then on."""

    def get() -> Any:
        context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
        return None if context is None else context.device

    return Setting(get, torch.set_default_device)


def _precisions(torch: Any) -> Setting:
    """Of products and convolutions in 32 bits: by their older names, which are of several kinds of
    devices and operations, and by kind."""
    backends = torch.backends
    kinds = (
        backends,
        backends.cuda.matmul,
        *(backends.cudnn, backends.cudnn.conv, backends.cudnn.rnn),
        *(backends.mkldnn, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn),
    )

    def get() -> tuple[str | None, bool | None, list[str]]:
        products = convolutions = None
        # Torch has no name for what was set by kind.
        with contextlib.suppress(RuntimeError):
            products = torch.get_float32_matmul_precision()
        with contextlib.suppress(RuntimeError):
            convolutions = backends.cudnn.allow_tf32
        return products, convolutions, [kind.fp32_precision for kind in kinds]

    def set_to(value: tuple[str | None, bool | None, list[str]]) -> None:
        products, convolutions, by_kind = value
        torch.set_float32_matmul_precision(products or "highest")
        backends.cudnn.allow_tf32 = convolutions is not False
        for kind, precision in zip(kinds, by_kind, strict=True):
            if kind.fp32_precision != precision:
                kind.fp32_precision = precision

    return Setting(get, set_to)
