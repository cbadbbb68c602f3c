from __future__ import annotations

import json
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.approx import ApproximateAttention
from slicewise.students.folder import load_student, save_student

NewStudent = Callable[..., ApproximateAttention]


@pytest.fixture
def folder(tmp_path: Path, new_student: NewStudent) -> Path:
    """A whole student on disk."""
    return save_student(new_student(), tmp_path / "student")


def _rewrite(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def _message(folder: Path) -> str:
    with pytest.raises(SlicewiseError) as caught:
        load_student(folder)
    message = str(caught.value)
    assert str(folder) in message
    return message


@settings(max_examples=25, deadline=None)
@given(
    input_dim=st.integers(1, 12),
    heads=st.integers(1, 3),
    head_size=st.integers(1, 5),
    value_head_size=st.integers(1, 5),
    qkv_layers=st.integers(0, 3),
    dropout=st.floats(0, 0.99),
    eps=st.floats(1e-12, 1e-3),
)
def test_round_trip(
    input_dim: int,
    heads: int,
    head_size: int,
    value_head_size: int,
    qkv_layers: int,
    dropout: float,
    eps: float,
) -> None:
    student = ApproximateAttention(
        input_dim, heads, head_size, heads * value_head_size, None, qkv_layers, dropout, eps
    )
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_student(save_student(student, folder))
    assert type(loaded) is ApproximateAttention
    assert loaded.config == student.config
    state = student.state_dict()
    assert list(loaded.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    x_BTH = torch.randn(2, 4, input_dim)
    with torch.no_grad():
        assert torch.equal(loaded(x_BTH), student.eval()(x_BTH))


def test_folder_holds_two_plain_files(folder: Path, new_student: NewStudent) -> None:
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    target = "slicewise.students.approx.ApproximateAttention"
    assert config == {"_target_": target, **new_student().config}
    assert list(load_file(folder / "model.safetensors")) == sorted(new_student().state_dict())


def test_loaded_student_is_in_eval_mode(folder: Path) -> None:
    assert not any(module.training for module in load_student(folder).modules())


def test_saving_does_not_change_the_student(tmp_path: Path, new_student: NewStudent) -> None:
    student = new_student()
    save_student(student, tmp_path)
    assert student.training


def test_path_may_be_text_and_new_folders_are_made(tmp_path: Path, new_student: NewStudent) -> None:
    path = str(tmp_path / "a" / "b")
    assert save_student(new_student(), path) == Path(path)
    assert load_student(path).config == new_student().config


def test_saving_again_replaces(folder: Path, new_student: NewStudent) -> None:
    save_student(new_student(qkv_layers=0), folder)
    assert load_student(folder).config["qkv_layers"] == 0
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_loads_without_hydra_optuna_transformers_or_lightning(
    folder: Path, run_python: Callable[..., str]
) -> None:
    program = """
import json, sys
for name in ("hydra", "omegaconf", "optuna", "sweep", "transformers", "pytorch_lightning"):
    sys.modules[name] = None
import slicewise, torch
student = slicewise.load_student(sys.argv[1])
with torch.no_grad():
    print(json.dumps(student(torch.linspace(-1, 1, 2 * 3 * 24).reshape(2, 3, 24)).tolist()))
"""
    output = torch.tensor(json.loads(run_python(program, str(folder))))
    with torch.no_grad():
        expected = load_student(folder)(torch.linspace(-1, 1, 2 * 3 * 24).reshape(2, 3, 24))
    torch.testing.assert_close(output, expected, atol=1e-6, rtol=0)


# Folders of version 0.1.0, which say "family"


OLD_FOLDERS = sorted(path for path in (Path(__file__).parent / "version_0_1_0").iterdir())


def test_all_old_families_are_here() -> None:
    names = [path.name for path in OLD_FOLDERS]
    assert names == ["approx", "approx_ffn", "bert_layer", "linear", "low_rank", "original"]


@pytest.mark.parametrize("old", OLD_FOLDERS, ids=lambda path: path.name)
def test_old_folder_loads_and_computes_what_it_did(old: Path, tmp_path: Path) -> None:
    assert json.loads((old / "config.json").read_text())["family"] == old.name
    student = load_student(old)
    tensors = load_file(old / "expected.safetensors")
    again = load_student(save_student(student, tmp_path))
    for each in (student, again):
        with torch.no_grad():
            output = each(tensors["input"], tensors["mask"])
        torch.testing.assert_close(output, tensors["output"], atol=1e-6, rtol=0)


# A family of one's own


OWN_FAMILY = Path(__file__).parents[2] / "own_family"


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The student of a package outside slicewise, which is no longer on the path."""
    with monkeypatch.context() as patch:
        patch.syspath_prepend(OWN_FAMILY)
        from my_package.mine import Bottleneck

        folder = save_student(Bottleneck(24), tmp_path / "own")
    for name in ("my_package", "my_package.mine"):
        monkeypatch.delitem(sys.modules, name)
    return folder


@pytest.mark.parametrize(
    "trusted", ["my_package.*", "my_package.mine.*", "my_package.mine.Bottleneck"]
)
@pytest.mark.parametrize("by", ["argument", "environment"])
def test_own_family_loads_where_it_is_trusted(
    own_folder: Path, trusted: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(OWN_FAMILY)
    if by == "environment":
        monkeypatch.setenv("SLICEWISE_TRUSTED", trusted)
    student = load_student(own_folder, [trusted] if by == "argument" else ())
    assert type(student).__qualname__ == "Bottleneck"
    assert student(torch.randn(2, 6, 24)).shape == (2, 6, 24)


def test_own_family_is_not_even_imported_where_it_is_not(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(OWN_FAMILY)
    message = _message(own_folder)
    assert "_target_=my_package.mine.Bottleneck: allowed: slicewise.students.*\n" in message
    assert message.endswith("SLICEWISE_TRUSTED='my_package.*' python ...")
    assert "my_package" not in sys.modules


def test_own_family_that_is_not_here(own_folder: Path) -> None:
    with pytest.raises(SlicewiseError, match="No module named 'my_package'"):
        load_student(own_folder, ["my_package.*"])


def test_class_that_nobody_finds_again_is_not_saved(tmp_path: Path) -> None:
    class Local(ApproximateAttention):
        pass

    with pytest.raises(ArgumentError, match=r"Local: allowed: a class at the top of its module"):
        save_student(Local(24), tmp_path / "student")
    assert not (tmp_path / "student").exists()


# Folders that are not a student's


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    message = _message(folder)
    assert f"not a student's folder: it has no {name}" in message
    assert "multirun/<study>/<number>/student" in message


@pytest.mark.parametrize("name", ["empty", "no/such/folder"])
def test_folder_without_a_student(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    assert "it has no config.json and no model.safetensors" in _message(tmp_path / name)


def test_file_in_place_of_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "student"
    path.write_text("a student")
    assert "not a student's folder" in _message(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"_target_": "slicew', id="cut short"),
        pytest.param(b"\xff\xfe\x00", id="not text"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"3", id="a number"),
        pytest.param(b"[" * 100_000, id="without end"),
        pytest.param(b"{}", id="no class"),
        pytest.param(b'{"family": "approx"}', id="no sizes"),
        pytest.param(b'{"family": "approx", "input_dim": 24, "wings": 2}', id="unknown size"),
    ],
)
def test_damaged_config(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    assert f"{folder / 'config.json'} does not describe a student" in _message(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"wings": 2}, "'wings'"),
        ({"value_dim": 13}, "value_dim=13: allowed: a multiple of num_attention_heads=2"),
        ({"qkv_layers": "two"}, "qkv_layers=two: allowed: an integer of at least 0"),
        ({"input_dim": None}, "input_dim=null: allowed: an integer of at least 1"),
        ({"layer_norm_eps": "tiny"}, "layer_norm_eps=tiny: allowed: a number"),
        ({"num_attention_heads": 2.5}, "num_attention_heads=2.5: allowed: an integer"),
    ],
)
def test_config_that_builds_nothing(folder: Path, changes: dict[str, Any], expected: str) -> None:
    _rewrite(folder, **changes)
    message = _message(folder)
    assert "does not describe a student" in message
    assert expected in message


@pytest.mark.parametrize(
    "family", ["transformer9", "os", "../approx", "base", "", None, 7, ["approx"]]
)
def test_unknown_family_of_an_old_folder(folder: Path, family: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["_target_"]
    (folder / "config.json").write_text(json.dumps({"family": family, **config}))
    assert "allowed: approx, approx_ffn, bert_layer, linear, low_rank, original" in _message(folder)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "slicewise.students.folder.os.system",
        "slicewise.students.folder.json.loads",
        "slicewise.students.base.Student",
        "slicewise.students.low_rank.LowRankLinear",
        "slicewise.trust.importlib.import_module",
        "my_package.mine.Bottleneck",
        None,
        7,
    ],
)
def test_class_that_is_none_of_ours_is_refused(folder: Path, target: object) -> None:
    """See `test_trust` for what else is."""
    _rewrite(folder, _target_=target)
    shown = "null" if target is None else target
    assert _message(folder).startswith(f"{folder / 'config.json'}: _target_={shown}: ")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights(folder: Path, keep: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert f"{weights} is damaged" in _message(folder)


def test_weights_of_another_shape(folder: Path) -> None:
    _rewrite(folder, attention_hidden_size=5)
    message = _message(folder)
    assert "the weights do not fit the config" in message
    assert "query.2.weight" in message


def test_weights_that_lack_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["LayerNorm.bias"]
    save_file(tensors, folder / "model.safetensors")
    message = _message(folder)
    assert "the weights do not fit the config" in message
    assert "LayerNorm.bias" in message


def test_weights_with_a_tensor_too_many(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "query.9.weight": torch.zeros(1)}, folder / "model.safetensors")
    assert "query.9.weight" in _message(folder)


class _Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.marker,)


def test_pickled_weights_are_refused_and_never_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    content = pickle.dumps({"query.0.weight": _Payload(marker)})
    (folder / "model.safetensors").write_bytes(content)
    assert "is damaged" in _message(folder)
    assert not marker.exists()
    # The payload works where someone does unpickle it.
    pickle.loads(content)
    assert marker.exists()
