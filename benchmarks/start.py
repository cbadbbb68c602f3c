"""From the shell's prompt to a sweep's first step, and who takes it: python benchmarks/start.py

The seconds are those of the command as anyone types it, on a CPU and, where there is one, on a GPU.
The bars come from a second run of it, in one process, which notes what each part takes; they add up
to a little more, as noting takes time too. Results go to benchmarks/results/start.md, or
start_gpu.md.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ENVIRONMENT = {"SLICEWISE_TRUSTED": "clock.*", "PYTHONPATH": f"{HERE}:{ROOT}:{ROOT / 'src'}"}
COMMAND = [
    *("-m", "study=s", "student.qkv_layers=1,2,4", "hydra.sweeper.n_trials=1"),
    *("data.batch_size=32", "data.seq_length=128", "data.train_batches=2", "data.valid_batches=1"),
    *("trainer.enable_progress_bar=false", "trainer.val_check_interval=1.0"),
    "+callbacks.clock={_target_: clock.Clock, directory: '${hydra:runtime.output_dir}'}",
]
# What is noted: a name, and the functions that do it. Each has its own time, without what others of
# these take within it.
PARTS = {
    "torch": ["sweep.loading:torch"],
    "transformers": ["sweep.loading:transformers"],
    "Lightning": ["sweep.loading:pytorch_lightning"],
    "the study": ["sweep.workers.sweeper:open_storage", "sweep.workers.sweeper:open_study"],
    "composing": ["sweep.study.compose:TrialComposer.compose"],
    "claiming": ["sweep.study.shared:SharedStudy.claim"],
    "the teacher": ["sweep.trial.parts:load_teacher"],
    "the data": ["sweep.trial.parts:new_data"],
    "the student": ["sweep.trial.parts:build_student"],
    "operations counted": ["slicewise.cost:count_flops"],
    "latency": ["slicewise.cost:latency_ms"],
    "the original's side of the text": ["slicewise.transfer:transfer_test"],
    "targets' fingerprint": ["sweep.trial.cache:shared_targets"],
}
FIT = "Lightning's start of a fit"
REST = "all else: Python, Hydra, Optuna, small files"
BAR = 40


class Notes:
    """The seconds of each part, without those of the parts within it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    def noted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            self._inner.append(0.0)
            try:
                return function(*arguments, **named)
            finally:
                self._end(name, started)

        return run

    def _end(self, name: str, started: float) -> None:
        taken, inner = time.perf_counter() - started, self._inner.pop()
        self.seconds[name] = self.seconds.get(name, 0.0) + taken - inner
        self._inner[-1] += taken


def run_noted(arguments: list[str], began: float) -> None:
    """Runs the command in this process; prints the seconds of each part, up to the first step."""
    notes = Notes()
    import_module = importlib.import_module

    def import_noted(name: str, package: str | None = None) -> Any:
        if name in ("torch", "transformers", "pytorch_lightning"):
            part = next(part for part, places in PARTS.items() if f"sweep.loading:{name}" in places)
            return notes.noted(part, import_module)(name, package)
        return import_module(name, package)

    def watch() -> None:
        from clock import Clock

        Clock.setup = note_fit  # type: ignore[method-assign]
        Clock.on_train_batch_start = first_step  # type: ignore[method-assign]
        for part, places in PARTS.items():
            for place in places:
                module_name, _, path = place.partition(":")
                if module_name == "sweep.loading" or place in watched:
                    continue
                owner: Any = import_module(module_name)
                *outer, name = path.split(".")
                for step in outer:
                    owner = getattr(owner, step)
                original = getattr(owner, name)
                replacement = notes.noted(part, original)
                setattr(owner, name, replacement)
                watched.add(place)
                # Whoever has imported it by name.
                for module in list(sys.modules.values()):
                    if vars(module).get(name, None) is original if module else False:
                        setattr(module, name, replacement)

    watched: set[str] = set()
    importlib.import_module = import_noted
    from sweep import loading

    load_libraries = loading.load_libraries

    def load_and_watch(on_gpu: bool = False) -> None:
        load_libraries(on_gpu)
        watch()

    loading.load_libraries = load_and_watch
    import sweep.workers.sweeper as sweeper
    from sweep.__main__ import main

    for name in ("open_storage", "open_study"):
        setattr(sweeper, name, notes.noted("the study", getattr(sweeper, name)))
        watched.add(f"sweep.workers.sweeper:{name}")

    def first_step(self: Any, *_: Any) -> None:
        total = time.time() - began
        notes.seconds[FIT] = time.perf_counter() - fit_began[0]
        notes.seconds[REST] = total - sum(notes.seconds.values())
        print("NOTES", json.dumps(notes.seconds), flush=True)
        os._exit(0)

    fit_began = [0.0]

    def note_fit(self: Any, *_: Any, **__: Any) -> None:
        fit_began[0] = fit_began[0] or time.perf_counter()

    sys.argv = ["sweep", *arguments, "hydra/launcher=basic"]
    sys.exit(main())


def seconds_to_first_step(arguments: list[str]) -> float:
    """Of the command as it is typed, in an empty folder."""
    from clock import CLOCK_NAME

    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        _run(["-m", "sweep", *arguments], folder)
        clock = json.loads(Path(folder, "multirun/s/0", CLOCK_NAME).read_text())
    return float(clock["began"]) - began


def parts_of_start(arguments: list[str]) -> dict[str, float]:
    """The seconds of each part, of a run in one process."""
    with tempfile.TemporaryDirectory() as folder:
        call = json.dumps({"arguments": arguments, "began": time.time()})
        program = (
            "import json, sys, start; told = json.loads(sys.argv[1]); "
            "start.run_noted(told['arguments'], told['began'])"
        )
        said = _run(["-c", program, call], folder)
    [line] = [line for line in said.splitlines() if line.startswith("NOTES ")]
    seconds: dict[str, float] = json.loads(line.removeprefix("NOTES "))
    return seconds


def _run(arguments: list[str], folder: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def main() -> None:
    # Not above: a process that notes what loading takes has loaded nothing.
    import torch
    from machine import Table, description

    parser = argparse.ArgumentParser(description="From the prompt to the first step.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="of the sweep, such as experiment=tiny")
    there = ["cpu", *(["gpu"] if torch.cuda.is_available() else [])]
    parser.add_argument("--device", choices=there, help="both unless given, where there is a GPU")
    options = parser.parse_args()
    for device in [options.device] if options.device else there:
        arguments = [*COMMAND, *options.overrides, f"trainer.accelerator={device}"]
        times = [seconds_to_first_step(arguments) for _ in range(options.rounds)]
        parts = parts_of_start(arguments)
        total = sum(parts.values())
        table = Table(
            "start_gpu.md" if device == "gpu" else "start.md",
            f"From the shell's prompt to the first step, on a {device.upper()}",
            [
                f"`python benchmarks/start.py {' '.join(options.overrides)}`".replace(" `", "`")
                + f", {description()}.",
                f"{statistics.median(times):.1f} s as it is typed (median of {options.rounds}: "
                f"{min(times):.1f} to {max(times):.1f}); {total:.1f} s in one process, where each",
                "part is noted:",
            ],
            "part|seconds|",
        )
        longest = max(parts.values())
        for part, seconds in sorted(parts.items(), key=lambda item: -item[1]):
            table.add([part, f"{seconds:.2f}", f"`{'█' * round(BAR * seconds / longest)}`"])


if __name__ == "__main__":
    main()
