"""How far a step is from what this machine can do at all: python benchmarks/limit.py

Measures the ceiling of matrix products and of copying, counts the floating-point operations of a
step, and puts our step (as benchmarks/fit.py times it) over the floor that follows. Results go to
benchmarks/results/limit.md.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from fit import BATCH, TOKENS, _cached, our_steps
from machine import Table, description
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import TeacherSlice, minilm, random_bert
from sweep.devices import native_precision


def fastest(work: Callable[[], object], seconds: float = 2.0) -> float:
    """Seconds of the fastest of many runs: what nothing disturbed."""
    work()
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def matmul_ceiling(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second, in the best of some shapes."""
    rates = []
    for rows, inner, columns in [(4096, 1024, 1024), (4096, 2048, 2048), (8192, 768, 3072)]:
        a = torch.randn(rows, inner, device=device).to(dtype)
        b = torch.randn(inner, columns, device=device).to(dtype)
        rates.append(2 * rows * inner * columns / fastest(lambda a=a, b=b: a @ b))
    return max(rates)


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written."""
    source = torch.randn(64 * 2**20, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / fastest(lambda: target.copy_(source))


def flops(module: nn.Module, hidden_size: int, backward: bool) -> int:
    """Operations of one batch, as torch counts them: matrix products and attention."""
    x_BTH = torch.randn(BATCH, TOKENS, hidden_size)
    with FlopCounterMode(display=False) as counter:
        y_BTH = module(x_BTH)
        if backward:
            y_BTH.sum().backward()
    return counter.get_total_flops()


def rows(teacher: TeacherSlice, qkv_layers: int, ceiling: float, steps: int) -> list[list[str]]:
    """Our step over the floor: teacher computed, teacher cached."""
    hidden_size, precision = teacher.hidden_size, native_precision("auto")
    student = ApproximateAttention(hidden_size, qkv_layers=qkv_layers, dropout=0.0)
    learn = flops(student, hidden_size, backward=True)
    teach = flops(teacher, hidden_size, backward=False)
    student = ApproximateAttention(hidden_size, qkv_layers=qkv_layers)
    with tempfile.TemporaryDirectory() as folder, _cached(teacher, precision, steps) as targets:
        computed = our_steps(teacher, student, steps, precision, None, folder)
        cached = our_steps(teacher, student, steps, precision, targets, folder)
    found = []
    for name, operations, seconds in [
        ("computed", learn + teach, computed),
        ("cached", learn, cached),
    ]:
        floor, step = operations / ceiling, statistics.median(seconds)
        found.append(
            [
                f"{hidden_size}",
                f"{qkv_layers}",
                name,
                f"{operations / 1e9:.1f}",
                f"{1000 * floor:.0f}",
                f"{1000 * step:.0f}",
                f"{step / floor:.2f}",
            ]
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="How far a step is from this machine's limit.")
    parser.add_argument("--hidden", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--qkv-layers", type=int, nargs="+", default=[2])
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ceilings = {t: matmul_ceiling(t, device) for t in (torch.float32, torch.bfloat16)}
    precision = native_precision("auto")
    ceiling = ceilings[torch.bfloat16 if precision == "bf16-mixed" else torch.float32]
    measured = ", ".join(f"{str(t)[6:]} {r / 1e9:.0f} GFLOP/s" for t, r in ceilings.items())
    table = Table(
        "limit.md",
        "A training step, over the floor of this machine",
        [
            f"`python benchmarks/limit.py`, {description()}.",
            f"Ceiling of matrix products: {measured}; copying "
            f"{copy_bandwidth(device) / 1e9:.0f} GB/s, read and written. The floor of a step in",
            f"{precision} is its matrix products at that ceiling, and nothing else: no noise, no",
            f"normalisation, no dropout, no optimizer. Batches of {BATCH} x {TOKENS}.",
        ],
        "H|qkv_layers|teacher|GFLOP a step|floor, ms|ours, ms|ours over floor",
    )
    for hidden_size in options.hidden:
        teacher = (
            minilm()
            if hidden_size == 384
            else random_bert(hidden_size=hidden_size, num_hidden_layers=2)
        )
        for qkv_layers in options.qkv_layers:
            for row in rows(teacher, qkv_layers, ceiling, options.steps):
                table.add(row)


if __name__ == "__main__":
    main()
