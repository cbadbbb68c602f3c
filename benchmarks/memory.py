"""What a fit needs of memory: python benchmarks/memory.py

Each row is a process of its own, and its largest resident size: what is imported, the teacher, fits
of more steps, fits of larger students. Results go to benchmarks/results/memory.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import tempfile
import warnings
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

from machine import Table, description

BATCH, TOKENS = 32, 128


@dataclass
class Case:
    """One process.

    Attributes:
        name: What it is, in the table.
        teacher: Whether it loads MiniLM's layers 0 and 1.
        qkv_layers: Depth of the student that it fits; None: no fit.
        steps: Optimizer steps of the fit.
    """

    name: str
    teacher: bool = True
    qkv_layers: int | None = None
    steps: int = 0


CASES = [
    Case("imports", teacher=False),
    Case("and the teacher"),
    *(Case(f"fit, qkv_layers=2, {n} steps", qkv_layers=2, steps=n) for n in (10, 40, 160)),
    *(Case(f"fit, qkv_layers={q}, 40 steps", qkv_layers=q, steps=40) for q in (1, 4)),
]


def run(case: Case, results: Connection) -> None:
    """Runs one case, and sends megabytes and the student's parameters."""
    from fit import our_steps

    from slicewise.cost import count_parameters
    from slicewise.students.approx import ApproximateAttention
    from slicewise.teacher import minilm
    from sweep.devices import native_precision

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    parameters = 0
    if case.teacher:
        teacher = minilm()
        if case.qkv_layers is not None:
            student = ApproximateAttention(teacher.hidden_size, qkv_layers=case.qkv_layers)
            parameters = count_parameters(student)
            with tempfile.TemporaryDirectory() as folder:
                our_steps(teacher, student, case.steps, native_precision("auto"), None, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.send(json.dumps({**asdict(case), "peak": peak, "parameters": parameters}))


def main() -> None:
    argparse.ArgumentParser(description="What a fit needs of memory.").parse_args()
    table = Table(
        "memory.md",
        "Memory of a fit",
        [
            f"`python benchmarks/memory.py`, {description()}.",
            f"The largest resident size of a process of its own; batches of {BATCH} x {TOKENS},",
            "H=384.",
        ],
        "what|student's parameters|peak, MB",
    )
    spawn = multiprocessing.get_context("spawn")
    for case in CASES:
        results, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=run, args=(case, sender))
        process.start()
        sender.close()
        found = json.loads(results.recv())
        process.join()
        table.add([case.name, f"{found['parameters']:,}", f"{found['peak']:.0f}"])


if __name__ == "__main__":
    main()
