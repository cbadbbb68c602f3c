"""An adapter of another package: one file, found by its entry point."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, RobertaConfig, RobertaModel

from slicewise.architecture import find_architecture, known_architectures
from slicewise.errors import SlicewiseError

FILE = """
from slicewise.architectures.bert import Bert

class Splendid(Bert):
    title = "Splendid"

architecture = Splendid()
nothing = None
"""
ENTRIES = """[slicewise.architectures]
splendid-one = my_splendid:architecture
splendid-two = my_splendid:nothing
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_splendid.py").write_text(FILE)
    info = tmp_path / "my_splendid-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my_splendid\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    monkeypatch.syspath_prepend(tmp_path)
    find_architecture.cache_clear()


@pytest.mark.usefixtures("installed")
def test_it_is_found_by_the_name_of_transformers() -> None:
    found = find_architecture("splendid-one")
    assert found is not None
    assert found.title == "Splendid"
    assert {"splendid_one", "bert"} <= set(known_architectures())
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32}
    model = RobertaModel(RobertaConfig(vocab_size=9, num_hidden_layers=2, **sizes))
    assert found.layer_names(model) == ["encoder.layer.0", "encoder.layer.1"]
    assert torch.is_tensor(found.parts_of(model.encoder.layer[0])["attention.query"].weight)


@pytest.mark.usefixtures("installed")
def test_what_is_no_adapter_is_refused() -> None:
    with pytest.raises(SlicewiseError, match="my_splendid:nothing is no adapter"):
        find_architecture("splendid-two")


def test_who_has_none_has_none() -> None:
    assert find_architecture(GPT2Config.model_type) is None
