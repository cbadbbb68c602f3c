from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from slicewise.digest import module_digest
from slicewise.teacher import TeacherSlice, load_slice, random_bert

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES["intermediate_size"] = 32


def _saved(folder: Path, **config: Any) -> TeacherSlice:
    """Loaded from a folder of its own, as any checkpoint is; always the same weights."""
    torch.manual_seed(5)
    BertModel(BertConfig(vocab_size=50, **{**SIZES, **config})).save_pretrained(folder)
    return load_slice(str(folder), 1, 1)


def test_it_does_not_matter_where_a_module_comes_from(tmp_path: Path) -> None:
    one, other = _saved(tmp_path / "one"), _saved(tmp_path / "other")
    assert one.source != other.source
    assert module_digest(one) == module_digest(other)
    in_training = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    digest = module_digest(in_training)
    assert module_digest(in_training.eval()) == digest


@pytest.mark.parametrize(
    "config", [{"hidden_act": "relu"}, {"layer_norm_eps": 1e-3}, {"num_attention_heads": 4}]
)
def test_the_same_weights_put_to_another_use(tmp_path: Path, config: dict[str, Any]) -> None:
    one, other = _saved(tmp_path / "one"), _saved(tmp_path / "other", **config)
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert module_digest(one) != module_digest(other)


def test_every_weight_counts() -> None:
    teacher = random_bert(**SIZES)
    digests = {module_digest(teacher)}
    for parameter in teacher.parameters():
        parameter.view(-1)[-1].add_(1e-3)
        digests.add(module_digest(teacher))
    assert len(digests) == 1 + len(list(teacher.parameters()))


def test_the_order_of_modules_counts() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert module_digest(one, other) != module_digest(other, one)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_dtype_and_shape(dtype: torch.dtype) -> None:
    module = nn.Linear(2, 2).to(dtype)
    module.register_buffer("scalar", torch.tensor(1.0, dtype=dtype))
    digest = module_digest(module)
    module.register_buffer("scalar", torch.tensor(2.0, dtype=dtype))
    assert module_digest(module) != digest
