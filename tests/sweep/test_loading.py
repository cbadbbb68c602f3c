"""Loading the large libraries: nothing that no trial needs, and afterwards all is as it was."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sweep.loading import wants_gpu

LIBRARIES = ["torch", "transformers", "pytorch_lightning"]
PROGRAM = """
import gc, json, sys
from importlib.metadata import version
from sweep.loading import load_libraries
gc.{state}()
load_libraries()
load_libraries()
from torchmetrics.utilities.imports import _MATPLOTLIB_AVAILABLE
found = {{
    "collected": gc.isenabled(),
    "frozen": gc.get_freeze_count() > 10_000,
    "loaded": [name for name in sys.argv[1:] if name in sys.modules],
    "unused": [name for name in ("matplotlib", "scipy") if name in sys.modules],
    "plots": bool(_MATPLOTLIB_AVAILABLE),
}}
import scipy.signal
from transformers.utils import is_scipy_available
found["scipy"] = is_scipy_available() and version("scipy") == scipy.__version__
print(json.dumps(found))
"""


@pytest.mark.parametrize("state", ["enable", "disable"])
def test_what_no_trial_needs_is_left_out(state: str) -> None:
    program = PROGRAM.format(state=state)
    command = [sys.executable, "-c", program, *LIBRARIES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "collected": state == "enable",
        "frozen": True,
        "loaded": LIBRARIES,
        "unused": [],
        "plots": False,
        "scipy": True,
    }


@pytest.mark.parametrize(
    ("trainer", "wanted"),
    [
        ({}, True),
        ({"accelerator": "auto", "devices": 1}, True),
        ({"accelerator": "gpu", "devices": "auto"}, True),
        ({"accelerator": "cpu"}, False),
        ({"devices": [3]}, False),
        ({"devices": 2}, False),
    ],
)
def test_only_who_takes_the_first_gpu_has_it_started(
    trainer: dict[str, object], wanted: bool
) -> None:
    assert wants_gpu(trainer) is wanted
