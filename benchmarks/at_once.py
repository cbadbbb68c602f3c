"""What Lightning does between two batches, and what is left of it: python benchmarks/at_once.py

The same steps, so many in a batch of Lightning's as `steps.at_once` says; the last row has all that
are timed in one, so that nothing of Lightning's lies between. Results go to
benchmarks/results/at_once.md.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import warnings

from fit import ON_GPU, WARM_UP, cached_targets, new_teacher, our_steps
from machine import Table, description

from slicewise import steps as manual
from slicewise.students.approx import ApproximateAttention
from sweep.devices import native_precision


def main() -> None:
    parser = argparse.ArgumentParser(description="What Lightning does between two batches.")
    parser.add_argument("--hidden", type=int, nargs="+", default=[384, 768])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    table = Table(
        "at_once.md",
        "Several steps in one batch of Lightning's",
        [
            f"`python benchmarks/at_once.py`, {description()}; targets cached, so that steps are",
            f"short. Medians of {options.rounds} rounds, in ms.",
        ],
        "H|steps.at_once|a step|Lightning's part",
    )
    # More than a fit would take, for the row without Lightning.
    manual._MOST_AT_ONCE = 512
    for hidden_size in options.hidden:
        device = "cuda" if ON_GPU else "cpu"
        teacher = new_teacher(hidden_size).to(device)
        precision = native_precision("auto")
        steps = 512 - WARM_UP
        counts = (256, 32, 8, 1)
        with (
            tempfile.TemporaryDirectory() as folder,
            cached_targets(teacher, precision, steps) as targets,
        ):
            medians = {}
            for at_once in counts:
                seconds = []
                for _ in range(options.rounds):
                    student = ApproximateAttention(hidden_size).to(
                        teacher.layers[0].parameters().__next__().device
                    )
                    seconds += our_steps(
                        teacher, student, steps, precision, targets, folder, at_once=at_once
                    )
                medians[at_once] = statistics.median(seconds)
        for at_once in reversed(counts):
            part = 1 - medians[counts[0]] / medians[at_once]
            table.add(
                [
                    f"{hidden_size}",
                    f"{at_once}",
                    f"{1000 * medians[at_once]:.3f}",
                    f"{100 * part:.0f}%",
                ]
            )


if __name__ == "__main__":
    main()
