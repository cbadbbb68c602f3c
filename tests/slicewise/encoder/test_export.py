"""Exports: the same embeddings with nothing of ours, for plain models and as ONNX."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, BertModel, DistilBertConfig, DistilBertModel

import slicewise
from slicewise.encoder.export import as_transformers, export_model, why_not_plain
from slicewise.encoder.sliced import (
    Block,
    SlicedEncoder,
    Span,
    assemble,
    keep_slice,
    original_encoder,
    partition,
    teacher_slice,
)
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.bert_layer import BertLayer
from slicewise.students.linear import Linear
from slicewise.students.nothing import Nothing
from slicewise.students.original import Original
from slicewise.teacher import load_slice, minilm
from tests.slicewise.encoder.encoders import TEXTS, loud_original

# In an interpreter that knows nothing of slicewise.
ENCODE = """
import json, sys
sys.modules["slicewise"] = None
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
print("embeddings", json.dumps(model.encode(json.loads(sys.argv[2])).tolist()))
"""


def _narrow(original: SlicedEncoder, span: Span, **sizes: int) -> Block:
    teacher = teacher_slice(original, span)
    student = BertLayer(**{**BertLayer.sizes_from(teacher), **sizes})
    student.start_from(teacher)
    return Block(student, span, span.layers[: student.config["num_layers"]])


def _homogeneous(original: SlicedEncoder, neurons: int) -> SlicedEncoder:
    """Every second layer dropped, all others of one width; the first slice keeps one of two."""
    spans = partition(original.num_layers, [2, *[1] * (original.num_layers - 2)])
    blocks = [
        _narrow(original, span, num_layers=1, intermediate_size=neurons)
        if number % 2 == 0
        else Block(Nothing(original.hidden_size), span)
        for number, span in enumerate(spans)
    ]
    return assemble(original, blocks).eval()


def test_a_homogeneous_plan_needs_nothing_of_ours(
    tmp_path: Path, run_python: Callable[..., str]
) -> None:
    pytest.importorskip("sentence_transformers")
    encoder = _homogeneous(original_encoder(minilm(0, 1)), 512)
    assert export_model(encoder, tmp_path / "model")
    output = run_python(ENCODE, str(tmp_path / "model"), json.dumps(TEXTS))
    embeddings = json.loads(output.partition("embeddings ")[2])
    torch.testing.assert_close(torch.tensor(embeddings), encoder.encode(TEXTS), atol=1e-5, rtol=0)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (3, 512)
    assert config["architectures"] == ["BertModel"]
    # Nothing was made up on loading: BERT's own pooler came along.
    model, loading = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(model) is BertModel
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


def test_keeping_everything_exports_the_original(tmp_path: Path, minilm_folder: Path) -> None:
    original = original_encoder(minilm(0, 1))
    kept = assemble(original, [keep_slice(original, span) for span in partition(6, 3)])
    assert export_model(kept, tmp_path / "model")
    theirs, ours = (AutoModel.from_pretrained(path) for path in (minilm_folder, tmp_path / "model"))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_what_was_exported_is_loaded_and_exported_again(tmp_path: Path) -> None:
    encoder = _homogeneous(original_encoder(minilm(0, 1)), 256)
    export_model(encoder, tmp_path / "one")
    loaded = slicewise.load_model(tmp_path / "one")
    torch.testing.assert_close(loaded.encode(TEXTS), encoder.encode(TEXTS), atol=1e-5, rtol=0)
    assert export_model(loaded, tmp_path / "two")
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            again = tmp_path / "two" / path.relative_to(tmp_path / "one")
            assert again.read_bytes() == path.read_bytes(), path


def test_a_mixture_is_exported_as_it_is_saved(tmp_path: Path) -> None:
    original = loud_original()
    spans = partition(4, 1)
    kept = [keep_slice(original, span) for span in spans[1:]]
    encoder = assemble(original, [_narrow(original, spans[0], intermediate_size=16), *kept])
    assert not export_model(encoder, tmp_path / "model")
    assert torch.equal(
        slicewise.load_model(tmp_path / "model").encode(TEXTS), encoder.encode(TEXTS)
    )


def test_what_a_plain_model_cannot_hold_is_said() -> None:
    original = loud_original(2)
    first, second = partition(2, 1)
    kept = keep_slice(original, second)
    cases: list[tuple[Block, str]] = [
        (_narrow(original, first, intermediate_size=16), "layers of 16 and 48 neurons"),
        (_narrow(original, first, num_attention_heads=2), "layer 0: not all of the heads"),
        (_narrow(original, first, value_dim=8), "layer 0: not all of the heads"),
        (_narrow(original, first, attention_hidden_size=3), "layer 0: not all of the heads"),
        (Block(Linear(24), first), "layer 0: Linear is no layer"),
    ]
    for block, message in cases:
        encoder = assemble(original, [block, kept])
        assert why_not_plain(encoder).startswith(message)
        with pytest.raises(SlicewiseError, match=message):
            as_transformers(encoder)
    teacher = teacher_slice(original, first)
    own = Original(**Original.sizes_from(teacher))
    own.start_from(teacher)
    assert not why_not_plain(assemble(original, [Block(own, first), kept]))
    assert not why_not_plain(assemble(original, [Block(Nothing(24), Span(0, 2))]))


def test_a_plain_model_that_would_compute_something_else_is_refused() -> None:
    original = loud_original(1)
    span = Span(0, 1)
    teacher = teacher_slice(original, span)
    other = BertLayer(**{**BertLayer.sizes_from(teacher), "hidden_act": "relu"})
    other.start_from(teacher)
    with pytest.raises(SlicewiseError, match="BertModel is off by"):
        as_transformers(assemble(original, [Block(other, span)]))


def test_distilbert_has_other_names_for_it(tmp_path: Path, minilm_folder: Path) -> None:
    config = DistilBertConfig(
        vocab_size=30522, dim=24, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=64
    )
    torch.manual_seed(0)
    DistilBertModel(config).save_pretrained(tmp_path / "distilbert")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (tmp_path / "distilbert" / name).write_bytes((minilm_folder / name).read_bytes())
    original = original_encoder(load_slice(str(tmp_path / "distilbert"), 0, 1))
    encoder = _homogeneous(original, 32)
    assert export_model(encoder, tmp_path / "model")
    model: Any = AutoModel.from_pretrained(tmp_path / "model")
    assert type(model) is DistilBertModel
    assert (model.config.n_layers, model.config.hidden_dim) == (1, 32)
    ids_BT, keep_BT = encoder.tokenize(TEXTS, 64)
    with torch.no_grad():
        output_BTH = model(ids_BT, keep_BT.long()).last_hidden_state
        torch.testing.assert_close(
            output_BTH[keep_BT], encoder(ids_BT, keep_BT)[keep_BT], atol=1e-5, rtol=0
        )


# ONNX


def test_without_the_extra_onnx_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    encoder = _homogeneous(loud_original(), 16)
    with pytest.raises(ArgumentError, match=r"onnx=true: .*pip install 'slicewise\[onnx\]'"):
        export_model(encoder, tmp_path / "model", onnx=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["homogeneous", "mixture"])
def test_onnx_files_compute_the_same(kind: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    original = original_encoder(minilm(0, 1))
    encoder = _homogeneous(original, 512)
    if kind == "mixture":
        narrow = _narrow(original, Span(0, 2), num_layers=1, num_attention_heads=6)
        encoder = assemble(original, [narrow, *encoder.block_list[1:]])
    assert export_model(encoder, tmp_path / "model", onnx=True) == (kind == "homogeneous")
    expected_NH = encoder.encode(TEXTS)
    for name, least in (("model.onnx", 1 - 1e-6), ("model_int8.onnx", 0.97)):
        session = runtime.InferenceSession(tmp_path / "model" / "onnx" / name)
        assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask"]
        assert [o.name for o in session.get_outputs()] == ["last_hidden_state"]
        # One text, and several with padding: no size is fixed.
        for texts in (TEXTS[:1], TEXTS):
            ids_BT, keep_BT = encoder.tokenize(texts, 64)
            inputs = {"input_ids": ids_BT.numpy(), "attention_mask": keep_BT.long().numpy()}
            (output,) = session.run(None, inputs)
            pooled_BH = encoder.pooling(torch.from_numpy(output), keep_BT)
            cosine_B = torch.cosine_similarity(pooled_BH, expected_NH[: len(texts)])
            assert cosine_B.min() > least
            if name == "model.onnx":
                torch.testing.assert_close(pooled_BH, expected_NH[: len(texts)], atol=1e-4, rtol=0)
    sizes = [
        (tmp_path / "model" / "onnx" / name).stat().st_size
        for name in ("model.onnx", "model_int8.onnx")
    ]
    assert sizes[1] < 0.3 * sizes[0]
    # Whoever serves it need not be who made it.
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert modes == {(tmp_path / "plain").stat().st_mode}
