"""Loading the large libraries: nothing that no trial needs, and afterwards all is as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.loading import wants_gpu

LIBRARIES = ["torch", "transformers", "pytorch_lightning"]
UNUSED = ["matplotlib", "scipy", "torchaudio", "torchvision"]
PROGRAM = """
import gc, json, sys
from importlib.metadata import version
from importlib.util import find_spec
from sweep.loading import load_one_by_one
gc.{state}()
for _ in range(2):
    for name in load_one_by_one():
        if name == "pytorch_lightning":
            break
import transformers
from torchmetrics.utilities.imports import _MATPLOTLIB_AVAILABLE
found = {{
    "collected": gc.isenabled(),
    "frozen": gc.get_freeze_count() > 10_000,
    "loaded": [name for name in sys.argv[1:] if name in sys.modules],
    "drawing": "matplotlib" in sys.modules or bool(_MATPLOTLIB_AVAILABLE),
    "models": "transformers.models.auto.modeling_auto" in sys.modules,
    "there": [find_spec(name) is not None and version(name) for name in {unused}],
}}
print(json.dumps(found))
"""


@pytest.mark.parametrize("state", ["enable", "disable"])
def test_what_no_trial_needs_is_left_out(state: str, tmp_path: Path) -> None:
    """Where it is installed: packages of those names, which must not be loaded."""
    for package in UNUSED:
        for name, file, text in (
            (package, "__init__.py", f"raise RuntimeError('{package} has been loaded')"),
            (f"{package}-3.9.dist-info", "METADATA", f"Name: {package}\nVersion: 3.9\n"),
        ):
            (tmp_path / name).mkdir()
            (tmp_path / name / file).write_text(text)
    program = PROGRAM.format(state=state, unused=UNUSED)
    command = [sys.executable, "-c", program, *LIBRARIES]
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "collected": state == "enable",
        "frozen": True,
        "loaded": LIBRARIES,
        "drawing": False,
        "models": False,
        "there": ["3.9"] * len(UNUSED),
    }


FAMILIES = """
import sys
from sweep.loading import load_libraries
load_libraries()
print("transformers.models.auto.modeling_auto" in sys.modules, "sklearn" in sys.modules)
from transformers.utils import is_sklearn_available
print(is_sklearn_available())
"""


def test_families_of_models_are_loaded_without_what_only_texts_are_generated_with(
    tmp_path: Path,
) -> None:
    for name, file, text in (
        ("sklearn", "__init__.py", "raise RuntimeError('sklearn has been loaded')"),
        ("scikit_learn-3.9.dist-info", "METADATA", "Name: scikit-learn\nVersion: 3.9\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, "-c", FAMILIES],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.stdout == "True False\nTrue\n", done.stderr


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
