"""What a step of Muon costs, torch's and ours: python benchmarks/muon.py

Over the matrices of MiniLM's six layers, with gradients that are noise; AdamW beside them. On a
processor that would have to emulate bfloat16 ours orthogonalises in single precision; on one that
computes in it itself both are the same. By turns; medians over the rounds, written to
benchmarks/results/muon.md.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from machine import Table, description
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from slicewise.muon import MuonWithAdamW
from slicewise.processor import computes_in_bfloat16
from slicewise.teacher import minilm


def main(rounds: int) -> None:
    torchs = Muon(_matrices(), lr=1e-3, weight_decay=1e-4, adjust_lr_fn="match_rms_adamw")
    optimizers: dict[str, Optimizer] = {
        "Muon, torch's": torchs,
        "Muon, ours": MuonWithAdamW(_matrices()),
        "AdamW": AdamW(_matrices()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in optimizers}
    for _ in range(1 + rounds):
        for name, optimizer in optimizers.items():
            began = time.perf_counter()
            optimizer.step()
            seconds[name].append(time.perf_counter() - began)
    # The first step makes the state.
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    capability = torch.backends.cpu.get_cpu_capability()
    native = "computes in bfloat16 itself" if computes_in_bfloat16() else "would emulate bfloat16"
    text = [
        "`python benchmarks/muon.py`",
        f"{description()}. The matrices of MiniLM's six layers; medians of {rounds} steps each, by "
        f"turns. The processor ({capability}) {native}.",
    ]
    table = Table("muon.md", "A step of Muon", text, "optimizer|ms a step|times as fast")
    slowest = medians["Muon, torch's"]
    for name, median in medians.items():
        table.add([name, f"{1000 * median:,.0f}", f"{slowest / median:.1f}"])


def _matrices() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    matrices = [parameter for parameter in minilm(0, 6).parameters() if parameter.ndim == 2]
    for matrix in matrices:
        matrix.requires_grad_(True)
        matrix.grad = torch.randn(matrix.shape, generator=generator)
    return matrices


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a step of Muon costs.")
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
