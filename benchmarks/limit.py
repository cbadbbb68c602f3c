"""How far a step is from what this machine can do at all: python benchmarks/limit.py

Measures the ceiling of matrix products and of copying, counts the floating-point operations of a
step, and puts our step (as benchmarks/fit.py times it) over the floor that follows. A second floor
takes each product of the step at the rate that this machine reaches for its shape. Results go to
benchmarks/results/limit.md, or limit_gpu.md.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from fit import BATCH, ON_GPU, TOKENS, cached_targets, new_teacher, our_steps
from machine import Table, description
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import TeacherSlice
from sweep.devices import native_precision

DEVICE = "cuda" if ON_GPU else "cpu"
# Rows, inner size, columns: such as a step has; a GPU needs larger ones to get warm.
SHAPES = [(4096, 1024, 1024), (4096, 2048, 2048), (8192, 768, 3072)]
if ON_GPU:
    SHAPES.append((8192, 8192, 8192))
# Runs that a GPU is given at once: launching one takes longer than a small product.
AT_ONCE = 50

Shape = tuple[int, int, int]


def fastest(work: Callable[[], object], seconds: float = 2.0) -> float:
    """Seconds of the fastest of many runs: what nothing disturbed."""
    work()
    run, runs = work, 1
    if ON_GPU:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(AT_ONCE):
                work()
        run, runs, seconds = graph.replay, AT_ONCE, seconds / 10
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        run()
        if ON_GPU:
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - started) / runs)
    return best


def seconds_of(shape: Shape, dtype: torch.dtype, seconds: float = 2.0) -> float:
    """Of the product of two random matrices."""
    rows, inner, columns = shape
    a = torch.randn(rows, inner, device=DEVICE).to(dtype)
    b = torch.randn(inner, columns, device=DEVICE).to(dtype)
    return fastest(lambda: a @ b, seconds)


def matmul_ceiling(dtype: torch.dtype) -> float:
    """Floating-point operations a second, in the best of some shapes."""
    return max(_operations(shape) / seconds_of(shape, dtype) for shape in SHAPES)


def copy_bandwidth() -> float:
    """Bytes a second, read and written."""
    source = torch.randn(64 * 2**20, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / fastest(lambda: target.copy_(source))


class Products(TorchDispatchMode):
    """Counts the shapes of the matrix products that run, but for those within attention."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[Shape] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        matrices = {torch.ops.aten.mm.default: args[:2], torch.ops.aten.addmm.default: args[1:3]}
        if func in matrices:
            (rows, inner), (_, columns) = (matrix.shape for matrix in matrices[func])
            self.shapes[rows, inner, columns] += 1
        return func(*args, **(kwargs or {}))


def work_of(module: nn.Module, hidden_size: int, backward: bool) -> tuple[int, Counter[Shape]]:
    """Operations of one batch, as torch counts them: matrix products and attention; and shapes."""
    x_BTH = torch.randn(BATCH, TOKENS, hidden_size)
    with FlopCounterMode(display=False) as counter, Products() as products:
        y_BTH = module(x_BTH)
        if backward:
            y_BTH.sum().backward()
    return counter.get_total_flops(), products.shapes


def rows(
    teacher: TeacherSlice, qkv_layers: int, ceiling: float, dtype: torch.dtype, steps: int
) -> list[list[str]]:
    """Our step over the floors: teacher computed, teacher cached; on a GPU, compiled too."""
    hidden_size, precision = teacher.hidden_size, native_precision("auto")
    student = ApproximateAttention(hidden_size, qkv_layers=qkv_layers, dropout=0.0)
    learn, learn_products = work_of(student, hidden_size, backward=True)
    teach, teach_products = work_of(teacher, hidden_size, backward=False)
    shapes = learn_products + teach_products
    taken = {shape: seconds_of(shape, dtype, seconds=0.3) for shape in shapes}
    teacher.to(DEVICE)
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        cached_targets(teacher, precision, steps) as targets,
    ):
        for compiled in (False, True) if ON_GPU else (False,):
            for known, operations, products in [
                (None, learn + teach, shapes),
                (targets, learn, learn_products),
            ]:
                made = [
                    ApproximateAttention(hidden_size, qkv_layers=qkv_layers).to(DEVICE)
                    for _ in range(1 + compiled)
                ]
                for student in made:  # The first one of a shape is compiled.
                    seconds = our_steps(teacher, student, steps, precision, known, folder, compiled)
                # Undisturbed, as what the floors are made of.
                floor, step = operations / ceiling, min(seconds)
                by_shape = sum(count * taken[shape] for shape, count in products.items())
                inside = sum(count * _operations(shape) for shape, count in products.items())
                by_shape += (operations - inside) / ceiling
                found.append(
                    [
                        f"{hidden_size}",
                        f"{qkv_layers}",
                        "computed" if known is None else "cached",
                        "yes" if compiled else "no",
                        f"{operations / 1e9:.1f}",
                        *(f"{1000 * s:.3g}" for s in (floor, by_shape)),
                        f"{1000 * step:.3g} ({1000 * statistics.median(seconds):.3g})",
                        f"{step / floor:.2f}",
                        f"{step / by_shape:.2f}",
                    ]
                )
    return found


def _operations(shape: Shape) -> int:
    rows, inner, columns = shape
    return 2 * rows * inner * columns


def main() -> None:
    parser = argparse.ArgumentParser(description="How far a step is from this machine's limit.")
    parser.add_argument("--hidden", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--qkv-layers", type=int, nargs="+", default=[2])
    parser.add_argument("--steps", type=int, default=1024 if ON_GPU else 30)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    ceilings = {t: matmul_ceiling(t) for t in (torch.float32, torch.bfloat16)}
    precision = native_precision("auto")
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    measured = ", ".join(f"{str(t)[6:]} {r / 1e9:.0f} GFLOP/s" for t, r in ceilings.items())
    table = Table(
        "limit_gpu.md" if ON_GPU else "limit.md",
        "A training step, over the floor of this machine",
        [
            f"`python benchmarks/limit.py`, {description()}.",
            f"Ceiling of matrix products: {measured}; copying "
            f"{copy_bandwidth() / 1e9:.0f} GB/s, read and written. The floor of a step in",
            f"{precision} is its matrix products at that ceiling, and nothing else: no noise, no",
            "normalisation, no dropout, no optimizer; *by shape*, each of them at the rate that",
            f"this machine reaches for its shape alone. Batches of {BATCH} x {TOKENS}.",
            "Products, copies and steps are the fastest of many, which nothing disturbed; in",
            "brackets, a step's median.",
        ],
        "H|qkv_layers|teacher|compiled|GFLOP a step|floor, ms|by shape, ms|ours, ms (median)|"
        "ours over floor|over floor by shape",
    )
    for hidden_size in options.hidden:
        for qkv_layers in options.qkv_layers:
            teacher = new_teacher(hidden_size)
            for row in rows(teacher, qkv_layers, ceilings[dtype], dtype, options.steps):
                table.add(row)


if __name__ == "__main__":
    main()
