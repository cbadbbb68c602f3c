"""Which devices there are, asked without loading torch."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

from slicewise.processor import computes_in_bfloat16


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return _ask_driver("index")


@functools.cache
def _ask_driver(field: str) -> list[str]:
    """One line for each GPU of the machine; none without NVIDIA's driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.split()


def native_precision(accelerator: str) -> str:
    """Lightning's name for the fastest precision that the hardware itself computes in.

    `bf16-mixed` on GPUs from compute capability 8.0 and on CPUs with instructions for bfloat16,
    else `32-true`: emulated, bfloat16 would be slower.
    """
    on_gpu = accelerator in ("auto", "gpu", "cuda") and bool(visible_gpus())
    native = _gpu_has_bfloat16() if on_gpu else computes_in_bfloat16()
    return "bf16-mixed" if native else "32-true"


@functools.cache
def _gpu_has_bfloat16() -> bool:
    capabilities = _ask_driver("compute_cap")
    return bool(capabilities) and min(float(c) for c in capabilities) >= 8.0


def broken_gpu() -> str | None:
    """What the GPU of this process says to everything from now on; None where it is well.

    After an illegal access to its memory, say, CUDA refuses a process all further work.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        return str(error).partition("\n")[0]
    return None


def cpu_count() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def started_by_torchrun() -> bool:
    """Whether this process is one of several ranks that were started from outside."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
