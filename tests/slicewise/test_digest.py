from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from slicewise.digest import frozen_digest, module_digest
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


def test_a_frozen_module_is_hashed_once_and_again_where_it_was_written_to_or_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: list[nn.Module] = []

    def counted(module: nn.Module) -> str:
        hashed.append(module)
        return module_digest(module)

    monkeypatch.setattr("slicewise.digest.module_digest", counted)
    teacher = random_bert(**SIZES)
    digests = [frozen_digest(teacher) for _ in range(3)]
    assert set(digests) == {module_digest(teacher)}
    assert len(hashed) == 1
    first = next(teacher.parameters())
    first.add_(1)
    assert frozen_digest(teacher) == module_digest(teacher) not in digests
    first.sub_(1)
    teacher.layers.add_module("another", nn.Identity())
    changed = frozen_digest(teacher)
    assert changed == module_digest(teacher) not in digests
    teacher.double()
    assert frozen_digest(teacher) == module_digest(teacher) != changed
    assert len(hashed) == 4


def test_modules_that_are_gone_are_not_kept_for_their_digests() -> None:
    module = nn.LayerNorm(2).requires_grad_(False)
    gone = weakref.ref(module)
    frozen_digest(module)
    del module
    gc.collect()
    assert gone() is None
