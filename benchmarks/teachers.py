"""Whether real checkpoints are served: python benchmarks/teachers.py PATH...

For each folder of a model: how far each layer, as a slice, is from the model's own next hidden
states on padded text; layers 0 and 1 fitted with the default recipe; and the whole compressed to
half of its layers' parameters. Fit and compression are the commands that a user would type, each in
a process of its own. Results go to benchmarks/results/teachers.md.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from machine import Table, description
from transformers import AutoModel

from slicewise.architecture import layers_of
from slicewise.teacher import architecture_of, load_slice
from slicewise.transfer import default_texts
from slicewise.whole import additive_mask

_TEXTS, _TOKENS = 16, 64


@torch.no_grad()
def parity(folder: str) -> float:
    """The largest difference of any layer to the model's own, over real tokens."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).train(False)
    whole = load_slice(folder, 0, 1).whole()
    ids_BT, keep_BT = whole.tokenize(default_texts()[:_TEXTS], _TOKENS)
    output = model(input_ids=ids_BT, attention_mask=keep_BT.long(), output_hidden_states=True)
    architecture = architecture_of(model.config, folder)
    layers = layers_of(model, architecture)
    differences = []
    for number, layer in enumerate(layers):
        y_BTH = layer(output.hidden_states[number], additive_mask(keep_BT))
        y_BTH = y_BTH[0] if isinstance(y_BTH, tuple) else y_BTH
        expected_BTH = output.hidden_states[number + 1]
        if number == len(layers) - 1:
            y_BTH, expected_BTH = architecture.final(model)(y_BTH), output.last_hidden_state
        differences.append((y_BTH - expected_BTH)[keep_BT].abs().max().item())
    return max(differences)


def run(module: str, arguments: Sequence[str], folder: Path) -> tuple[float, float]:
    """A command of ours in an empty folder; its seconds, and the most memory it had, in GB."""
    command = [sys.executable, "-m", module, "study=it", "trainer.accelerator=cpu", *arguments]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - started, usage.ru_maxrss / 1e6


def measure(path: str, fit: Sequence[str], compress: Sequence[str]) -> list[str]:
    """A row of the table."""
    path = str(Path(path).resolve())
    config = json.loads(Path(path, "config.json").read_text())
    teacher = ["teacher=bert_base", f"teacher.pretrained={path}"]
    row = [Path(path).name, config["model_type"], f"{parity(path):.0e}"]
    with tempfile.TemporaryDirectory() as temporary:
        seconds, memory = run("sweep", [*teacher, *fit], Path(temporary))
        trial: dict[str, Any] = json.loads(Path(temporary, "multirun/it/0/trial.json").read_text())
        metrics = trial.get("metrics", trial)
        row += [
            f"{metrics['valid_l1']:.4f}",
            f"{metrics['baseline_ratio']:.2f}",
            f"{metrics['text_cosine']:.4f}",
            f"{seconds:.0f} s, {memory:.1f} GB",
        ]
    with tempfile.TemporaryDirectory() as temporary:
        seconds, memory = run(
            "sweep.compress", [*teacher, "budget.parameters=0.5", *compress], Path(temporary)
        )
        result = json.loads(Path(temporary, "multirun/it/result.json").read_text())
        row += [
            f"{1 - result['damage_before']:.4f}" if result["damage_before"] is not None else "",
            f"{result['cosine']:.4f}",
            f"{result['overlap']:.1%}" if result["overlap"] is not None else "",
            "plain" if result["is_plain"] else "mixture",
            f"{seconds:.0f} s, {memory:.1f} GB",
        ]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", help="folders of real checkpoints")
    parser.add_argument("--fit", default="", help="overrides of the fit, with blanks between")
    parser.add_argument("--compress", default="", help="overrides of the compression, likewise")
    arguments = parser.parse_args()
    fit, compress = arguments.fit.split(), arguments.compress.split()
    table = Table(
        "teachers.md",
        "Real checkpoints: slice parity, fit and compression",
        [
            f"{description()}; {torch.get_num_threads()} threads. Layers 0 and 1 by the default "
            f"recipe ({' '.join(fit) or 'as it is'}); the whole to half of its layers' parameters "
            f"({' '.join(compress) or 'as it is'}): cosine to the original before healing and "
            "after, and how many of the ten nearest held-out texts are the original's.",
        ],
        "model|architecture|parity|valid L1|x baseline|text cosine|fit|before healing|cosine"
        "|overlap|form|compression",
    )
    for path in arguments.paths:
        table.add(measure(path, fit, compress))


if __name__ == "__main__":
    main()
