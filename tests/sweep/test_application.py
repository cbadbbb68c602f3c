"""The command line before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

Command = Callable[..., subprocess.CompletedProcess[str]]

HEAVY = ("torch", "pytorch_lightning", "transformers", "optuna", "sqlalchemy", "numpy")


def test_help_says_how_to_start(command: Command) -> None:
    done = command("sweep", "--help")
    assert done.returncode == 0
    assert "python -m sweep -m student.qkv_layers=1,2,4" in done.stdout
    assert "teacher: bert_base, minilm, random_bert" in done.stdout


@pytest.mark.parametrize(
    ("module", "overrides"),
    [
        ("sweep", ["-m", "experiment=tiny", "~search", "seed=1,2", "hydra.verbose=true"]),
        ("sweep.compress", ["budget.parameters=0.5"]),
    ],
)
def test_hydras_own_help_is_shown_whatever_else_is_typed(
    command: Command, module: str, overrides: list[str]
) -> None:
    shown = command(module, *overrides, "--hydra-help")
    assert shown.returncode == 0, shown.stderr
    assert "--cfg" in shown.stdout


def test_the_configuration_is_yaml(command: Command) -> None:
    done = command("sweep", "--cfg", "job", "student.qkv_layers=3")
    assert done.returncode == 0
    assert yaml.safe_load(done.stdout)["student"]["qkv_layers"] == 3


def test_help_loads_nothing_heavy(folder: Path) -> None:
    program = (
        "import sys, sweep.__main__ as program\n"
        "sys.argv = ['sweep', '--help']\n"
        "try: program.main()\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def test_help_leaves_no_trace(command: Command, folder: Path) -> None:
    command("sweep", "--help")
    command("sweep", "--cfg", "job")
    assert list(folder.iterdir()) == []
