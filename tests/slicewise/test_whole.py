from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from slicewise.attention import MASKED
from slicewise.cost import count_parameters
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.teacher import TeacherSlice, load_slice, minilm, random_bert
from slicewise.whole import HashedWords, Pooling, additive_mask

WORDS = ["the", "cat", "sat", "on", "a", "mat", "dog", "ran", ".", "##s"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]"]
SMALL: dict[str, Any] = {
    "vocab_size": len(SPECIAL) + len(WORDS),
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL, pad_token_id=0),
    "electra": ElectraConfig(embedding_size=12, **SMALL),
    "distilbert": DistilBertConfig(
        vocab_size=SMALL["vocab_size"],
        dim=24,
        n_layers=4,
        n_heads=3,
        hidden_dim=32,
        max_position_embeddings=40,
    ),
}
TEXTS = ["The cat sat on a mat.", "A dog ran.", "Dogs"]


def _save(config: PreTrainedConfig, folder: Path) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    # Every family here reads BERT's vocabulary, so that one tokenizer does for all.
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + WORDS))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    model.train(False)
    return model


def _said_by_transformers(model: PreTrainedModel, ids: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
    """What enters each layer, and what leaves the last."""
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=keep.long(), output_hidden_states=True)
    hidden_states: tuple[Tensor, ...] = output.hidden_states
    return hidden_states


def _assert_whole_is(
    teacher: TeacherSlice, model: PreTrainedModel, first_layer: int, texts: list[str]
) -> None:
    whole = teacher.whole()
    ids, keep = whole.tokenize(texts, 32)
    expected = _said_by_transformers(model, ids, keep)
    entering = whole.enter(ids, keep)
    # No one says what a model makes of padding.
    torch.testing.assert_close(entering[keep], expected[first_layer][keep], atol=1e-5, rtol=0)
    leaving = teacher(entering, additive_mask(keep))
    pooled = (expected[-1] * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
    pooled = torch.nn.functional.normalize(pooled, dim=-1)
    torch.testing.assert_close(whole.leave(leaving, keep), pooled, atol=1e-5, rtol=0)


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bert"
    _save(FAMILIES["bert"], folder)
    return folder


# What the whole model computes


@pytest.mark.parametrize(("first_layer", "num_layers"), [(0, 2), (2, 3), (0, 6)])
def test_minilm_is_transformers_own(
    first_layer: int, num_layers: int, minilm_model: PreTrainedModel
) -> None:
    texts = ["A short one.", "One that goes on for rather longer than the other one does."]
    _assert_whole_is(minilm(first_layer, num_layers), minilm_model, first_layer, texts)


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_transformers_own(family: str, tmp_path: Path) -> None:
    model = _save(FAMILIES[family], tmp_path)
    for first_layer, num_layers in [(0, 2), (1, 2), (3, 1)]:
        teacher = load_slice(str(tmp_path), first_layer, num_layers)
        _assert_whole_is(teacher, model, first_layer, TEXTS)


def test_attention_implementation_is_the_models_own(bert_folder: Path) -> None:
    config = json.loads((bert_folder / "config.json").read_text())
    config["_attn_implementation"] = "eager"
    (bert_folder / "config.json").write_text(json.dumps(config))
    model = AutoModel.from_pretrained(bert_folder, attn_implementation="eager")
    _assert_whole_is(load_slice(str(bert_folder), 1, 1), model, 1, TEXTS)


def test_padding_changes_no_real_token(bert_folder: Path) -> None:
    teacher = load_slice(str(bert_folder), 1, 2)
    whole = teacher.whole()
    ids, keep = whole.tokenize(TEXTS, 32)
    other = ids.masked_fill(~keep, 9)
    one, two = whole.enter(ids, keep), whole.enter(other, keep)
    assert not torch.equal(one, two)
    assert torch.equal(one[keep], two[keep])
    torch.testing.assert_close(whole.leave(one, keep), whole.leave(two, keep), atol=1e-6, rtol=0)


def test_random_bert_has_the_same_layers_below_each_time() -> None:
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 8}
    one, other = (random_bert(1, 1, num_hidden_layers=4, **sizes).whole() for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert (len(one.below.layers), len(one.above.layers)) == (1, 2)  # type: ignore[arg-type]
    different = random_bert(1, 1, num_hidden_layers=4, seed=1, **sizes).whole()
    assert not torch.equal(
        one.enter(*one.tokenize(TEXTS, 9)), different.enter(*one.tokenize(TEXTS, 9))
    )


def test_random_slice_continues_the_layers_below() -> None:
    """The slice 0..1 and the slice 1 of the same geometry end in the same layer."""
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 8}
    both, upper = random_bert(0, 2, **sizes), random_bert(1, 1, **sizes)
    below = upper.whole().below
    x_BTH = torch.randn(2, 3, 24)
    assert torch.equal(both(x_BTH), upper(below(x_BTH, None)))


def test_random_whole_leaves_the_global_generator_alone(tiny_teacher: TeacherSlice) -> None:
    before = torch.get_rng_state()
    tiny_teacher.whole()
    assert torch.equal(before, torch.get_rng_state())


# Loading


def test_whole_is_loaded_once_and_is_no_part_of_the_slice(tiny_teacher: TeacherSlice) -> None:
    before = count_parameters(tiny_teacher)
    whole = tiny_teacher.whole()
    assert tiny_teacher.whole() is whole
    assert count_parameters(tiny_teacher) == before
    assert not any(name.startswith("_whole") for name in tiny_teacher.state_dict())


def test_whole_never_learns(tiny_teacher: TeacherSlice) -> None:
    whole = tiny_teacher.whole().train()
    assert not any(module.training for module in whole.modules())
    assert not any(parameter.requires_grad for parameter in whole.parameters())


def test_loaded_in_inference_mode_it_can_be_used_in_training(tiny_teacher: TeacherSlice) -> None:
    with torch.inference_mode():
        whole = tiny_teacher.whole()
    assert not any(parameter.is_inference() for parameter in whole.parameters())


def test_slice_of_no_known_model() -> None:
    teacher = TeacherSlice(torch.nn.ModuleList(), 24, "by hand")
    with pytest.raises(SlicewiseError, match="the model around the slice is not known: by hand"):
        teacher.whole()


@pytest.mark.parametrize(
    "gone", ["embeddings.word_embeddings.weight", "encoder.layer.3.output.dense.bias"]
)
def test_tensors_missing_outside_the_slice(gone: str, bert_folder: Path) -> None:
    tensors = load_file(bert_folder / "model.safetensors")
    del tensors[gone]
    save_file(tensors, bert_folder / "model.safetensors", metadata={"format": "pt"})
    teacher = load_slice(str(bert_folder), 1, 1)
    with pytest.raises(SlicewiseError, match="lacks 1 tensors of the model around") as caught:
        teacher.whole()
    assert gone in str(caught.value)


def test_bert_without_its_pooler(bert_folder: Path) -> None:
    tensors = load_file(bert_folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler")}
    assert len(kept) < len(tensors)
    save_file(kept, bert_folder / "model.safetensors", metadata={"format": "pt"})
    load_slice(str(bert_folder), 1, 1).whole()


def test_folder_without_a_tokenizer(bert_folder: Path) -> None:
    (bert_folder / "vocab.txt").unlink()
    teacher = load_slice(str(bert_folder), 1, 1)
    with pytest.raises(ArgumentError, match="allowed: a model with its tokenizer"):
        teacher.whole()


def test_tokenizer_that_is_damaged(bert_folder: Path) -> None:
    (bert_folder / "tokenizer.json").write_text('{"version": "1.')
    teacher = load_slice(str(bert_folder), 1, 1)
    with pytest.raises(ArgumentError, match="allowed: a model with its tokenizer; it says: "):
        teacher.whole()


def test_tokenizer_of_another_model(bert_folder: Path) -> None:
    (bert_folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS, "more"]))
    with pytest.raises(SlicewiseError, match="has an id 16, the model has 16 ids"):
        load_slice(str(bert_folder), 1, 1).whole()


@pytest.mark.parametrize(("family", "positions"), [("bert", 40), ("roberta", 39)])
def test_longest_text(family: str, positions: int, tmp_path: Path) -> None:
    _save(FAMILIES[family], tmp_path)
    teacher = load_slice(str(tmp_path), 1, 1)
    whole = teacher.whole()
    assert whole.max_length == positions
    assert whole.enter(*whole.tokenize(["cat " * 50], positions)).shape == (1, positions, 24)


# Tokens


def test_tokens_of_a_folder(bert_folder: Path) -> None:
    whole = load_slice(str(bert_folder), 1, 1).whole()
    ids, keep = whole.tokenize(["the CAT", "dogs sat on a mat"], 6)
    assert ids.tolist() == [[2, 6, 7, 3, 0, 0], [2, 12, 15, 8, 9, 3]]
    assert keep.tolist() == [[True] * 4 + [False] * 2, [True] * 6]
    # Neither the special ones nor what is held in reserve.
    assert list(whole.tokenizer.word_ids) == list(range(6, 16))


@given(text=st.text(st.characters()), max_length=st.integers(2, 20))
def test_any_text_has_hashed_words(text: str, max_length: int) -> None:
    tokenizer = HashedWords(50)
    [ids] = tokenizer.encode([text], max_length)
    assert 2 <= len(ids) <= max_length
    assert (ids[0], ids[-1]) == (tokenizer.first_id, tokenizer.last_id)
    assert set(ids[1:-1]) <= set(tokenizer.word_ids)


def test_equal_words_have_equal_hashes(run_python: Callable[..., str]) -> None:
    [[_, *ids, _]] = HashedWords(4096).encode(["Hello, world: hello!"], 20)
    assert len(ids) == 6
    assert ids[0] == ids[4]
    program = """
from slicewise.whole import HashedWords
print(*HashedWords(4096).encode(["Hello, world: hello!"], 20)[0][1:-1])
"""
    assert [*map(int, run_python(program, PYTHONHASHSEED="3").split())] == ids


def test_mask_of_full_rows_is_none() -> None:
    assert additive_mask(torch.ones(2, 3, dtype=torch.bool)) is None
    mask = additive_mask(torch.tensor([[True, True], [True, False]]))
    assert mask is not None
    assert mask.shape == (2, 1, 1, 2)
    assert mask.flatten().tolist() == [0, 0, 0, MASKED]


# Pooling

HIDDEN = torch.tensor([[[3.0, 0.0], [1.0, 4.0], [9.0, 9.0]]])
KEEP = torch.tensor([[True, True, False]])


@pytest.mark.parametrize(
    ("mode", "expected"), [("mean", [2.0, 2.0]), ("max", [3.0, 4.0]), ("cls", [3.0, 0.0])]
)
def test_pooling_over_real_tokens(mode: str, expected: list[float]) -> None:
    assert Pooling(mode, normalize=False)(HIDDEN, KEEP).tolist() == [expected]
    assert Pooling(mode)(HIDDEN, KEEP).norm().item() == pytest.approx(1)


def _modules(folder: Path, config: dict[str, object], *kinds: str) -> None:
    modules = [{"type": f"sentence_transformers.models.{k}", "path": f"1_{k}"} for k in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "lasttoken"}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "mean"),
        ({}, "mean"),
    ],
)
def test_pooling_as_the_folder_says(config: dict[str, object], mode: str, tmp_path: Path) -> None:
    _modules(tmp_path, config, "Transformer", "Pooling")
    pooling = Pooling.of(str(tmp_path))
    assert (pooling.mode, pooling.normalize) == (mode, False)
    _modules(tmp_path, config, "Transformer", "Pooling", "Normalize")
    assert Pooling.of(str(tmp_path)).normalize


def test_pooling_where_nothing_is_said(tmp_path: Path) -> None:
    pooling = Pooling.of(str(tmp_path))
    assert (pooling.mode, pooling.normalize) == ("mean", True)
    (tmp_path / "modules.json").write_text("[{")
    assert Pooling.of(str(tmp_path)).mode == "mean"
