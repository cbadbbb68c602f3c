"""Runs `python -m sweep.compress` on a teacher so small that all of it takes seconds."""

from __future__ import annotations

import shutil
import string
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from transformers import BertConfig, BertModel, BertTokenizer

from sweep.compress.__main__ import main
from sweep.compress.workbench import close_workbench

Compress = Callable[..., int]

RANDOM = (
    "teacher=random_bert",
    "teacher.hidden_size=24",
    "teacher.num_hidden_layers=3",
    "teacher.num_attention_heads=2",
    "teacher.intermediate_size=48",
)
SMALL = (
    "study=c",
    "data.batch_size=8",
    "data.seq_length=12",
    "library.neurons=[1.0,0.33]",
    "library.heads=[1.0,0.5]",
    "library.texts=64",
    "library.damage_texts=32",
    "choose.measured=3",
    "heal.steps=6",
    "evaluate.texts=32",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.enable_progress_bar=false",
)
TINY = (*RANDOM, *SMALL)
HALF = "budget.parameters=0.5"


@pytest.fixture
def compress(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compress]:
    """`python -m sweep.compress ...` in this process, with one worker in it."""

    def run(*arguments: str, small: tuple[str, ...] = TINY) -> int:
        monkeypatch.setattr(sys, "argv", ["compress", "hydra/launcher=basic", *small, *arguments])
        return main()

    yield run
    GlobalHydra.instance().clear()
    close_workbench()


def compress_in(place: Path, *arguments: str) -> Path:
    """A folder in which a compression has run: for fixtures of more than one test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["compress", "hydra/launcher=basic", *arguments])
        GlobalHydra.instance().clear()
        assert main() == 0
        GlobalHydra.instance().clear()
        close_workbench()
    return place


@pytest.fixture(scope="session")
def _halved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compress_in(tmp_path_factory.mktemp("halved"), *TINY, HALF)


@pytest.fixture
def halved(_halved_once: Path, folder: Path) -> Path:
    """The study's folder where the tiny model has been compressed to a half, to be changed."""
    shutil.copytree(_halved_once / "multirun", folder / "multirun")
    return folder / "multirun/c"


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as on the hub: a BERT of three layers, its tokenizer spells every word."""
    place = tmp_path_factory.mktemp("pretrained") / "tiny"
    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    words = [
        "return",
        "the",
        "##s",
        "value",
        *(f"##{letter}" for letter in letters if letter != "s"),
    ]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, *words]))}
    BertTokenizer(vocab=vocabulary).save_pretrained(place)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=32,
        # Wide enough for each head and neuron to matter: else one counts for less than rounding.
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(place)
    return place
