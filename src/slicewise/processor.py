"""What this machine's processor computes in, asked without loading torch."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def computes_in_bfloat16() -> bool:
    """Whether it has instructions for bfloat16, AVX-512's, AMX or ARM's, and the system says so.

    Without them torch emulates products of matrices in bfloat16; with AVX2 a step of Muon takes 48
    times as long as in single precision (benchmarks/results/muon.md).

    Example:
        >>> computes_in_bfloat16() in (True, False)
        True
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
