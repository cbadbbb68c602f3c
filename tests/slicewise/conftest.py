"""What the tests of the library share: small teachers, students, data and trainers."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from slicewise.data.noise import NoiseDataModule
from slicewise.distiller import Distiller
from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import MINILM_PACKAGE, TeacherSlice, random_bert

SEQ_LENGTH = 6

RunPython = Callable[..., str]


@pytest.fixture(scope="session")
def run_python() -> RunPython:
    """Runs a program in a fresh interpreter, returns what it prints, fails if it fails."""

    def run(program: str, *arguments: str, **environment: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The model files of the installed package, found as a user of it would."""
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    assert spec is not None, "the extra `minilm` is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="session")
def minilm_model(minilm_folder: Path) -> PreTrainedModel:
    """The whole of all-MiniLM-L6-v2, in eval mode."""
    model: PreTrainedModel = AutoModel.from_pretrained(minilm_folder, dtype=torch.float32)
    model.train(False)
    return model


@pytest.fixture
def tiny_teacher() -> TeacherSlice:
    """Two layers, 24 wide."""
    return random_bert(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )


@pytest.fixture
def new_student() -> Callable[..., ApproximateAttention]:
    """Makes a student for `tiny_teacher`: the same weights each time."""

    def make(**arguments: int | float) -> ApproximateAttention:
        sizes = {"num_attention_heads": 2, "attention_hidden_size": 4, "qkv_layers": 1}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return ApproximateAttention(24, **{**sizes, **arguments})  # type: ignore[arg-type]

    return make


@pytest.fixture
def new_data() -> Callable[..., NoiseDataModule]:
    """Makes noise for `tiny_teacher`, 4 training and 2 validation batches unless told."""

    def make(**arguments: int) -> NoiseDataModule:
        sizes = {"batch_size": 3, "seq_length": SEQ_LENGTH, "train_batches": 4, "valid_batches": 2}
        return NoiseDataModule(24, **{**sizes, **arguments})

    return make


@pytest.fixture
def new_distiller(
    tiny_teacher: TeacherSlice, new_student: Callable[..., ApproximateAttention]
) -> Callable[..., Distiller]:
    """Makes a fit of a fresh student to `tiny_teacher`."""

    def make(**arguments: object) -> Distiller:
        student = new_student()
        return Distiller(tiny_teacher, student, SEQ_LENGTH, **arguments)  # type: ignore[arg-type]

    return make


@pytest.fixture
def new_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Makes a quiet Trainer on the CPU that writes nothing unless told."""

    def make(**arguments: object) -> Trainer:
        defaults: dict[str, object] = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": tmp_path,
        }
        return Trainer(**{**defaults, **arguments})  # type: ignore[arg-type]

    return make


@pytest.fixture
def additive_mask() -> Callable[..., Tensor]:
    """Makes the additive mask (B, 1, 1, T) of sentences of the given lengths."""

    def make(*lengths: int, seq_length: int = SEQ_LENGTH) -> Tensor:
        keep_BT = torch.arange(seq_length) < torch.tensor(lengths)[:, None]
        lowest = torch.finfo(torch.float32).min
        return torch.zeros(keep_BT.shape).masked_fill(~keep_BT, lowest)[:, None, None, :]

    return make
