"""Encoders on disk: the same to the last bit, for slicewise, AutoModel and SentenceTransformer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    RobertaConfig,
    RobertaModel,
)

import slicewise
from slicewise.encoder.files import new_folder
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
from slicewise.errors import SlicewiseError
from slicewise.students.base import Student
from slicewise.students.bert_layer import BertLayer
from slicewise.students.low_rank import LowRank
from slicewise.students.nothing import Nothing
from slicewise.teacher import load_slice, minilm
from tests.slicewise.encoder.encoders import TEXTS, loud_original

WEIGHTS = "model.slicewise.safetensors"


def _mixture(original: SlicedEncoder) -> SlicedEncoder:
    """A narrower layer, nothing, factors, and what is left kept whole."""
    spans = partition(original.num_layers, [1, 1, 1, original.num_layers - 3])
    narrow = _started(original, spans[0], BertLayer, num_attention_heads=2, intermediate_size=16)
    factors = _started(original, spans[2], LowRank, rank=8)
    return assemble(
        original,
        [
            Block(narrow, spans[0], [0]),
            Block(Nothing(original.hidden_size), spans[1]),
            Block(factors, spans[2]),
            keep_slice(original, spans[3]),
        ],
    ).eval()


def _started(
    original: SlicedEncoder, span: Span, family: type[Student], **arguments: Any
) -> Student:
    teacher = teacher_slice(original, span)
    student = family(**{**family.sizes_from(teacher), **arguments})
    student.start_from(teacher)
    return student


@pytest.fixture(scope="module")
def mixture() -> SlicedEncoder:
    """Of MiniLM."""
    return _mixture(original_encoder(minilm(0, 6)))


@pytest.fixture(scope="module")
def folder(mixture: SlicedEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slicewise.save_model(mixture, tmp_path_factory.mktemp("saved") / "model")


def test_a_folder_keeps_an_encoder_to_the_bit(mixture: SlicedEncoder, folder: Path) -> None:
    loaded = slicewise.load_model(folder)
    assert torch.equal(loaded.encode(TEXTS), mixture.encode(TEXTS))
    assert [(b.span, b.layers) for b in loaded.block_list] == [
        (b.span, b.layers) for b in mixture.block_list
    ]
    assert loaded.max_length == mixture.max_length == 512
    assert not any(part.training for part in loaded.modules())


def test_it_is_saved_again_from_where_it_was_loaded(folder: Path, tmp_path: Path) -> None:
    again = slicewise.save_model(slicewise.load_model(folder), tmp_path / "again")
    assert sorted(p.name for p in again.rglob("*")) == sorted(p.name for p in folder.rglob("*"))
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes(), path


def test_hashed_words_and_random_weights_are_kept(tmp_path: Path) -> None:
    mixture = _mixture(loud_original())
    loaded = slicewise.load_model(slicewise.save_model(mixture, tmp_path / "model"))
    assert torch.equal(loaded.encode(TEXTS), mixture.encode(TEXTS))


def test_any_model_of_the_family_is_loaded(minilm_folder: Path) -> None:
    loaded = slicewise.load_model(minilm_folder)
    original = original_encoder(minilm(0, 1))
    torch.testing.assert_close(loaded.encode(TEXTS), original.encode(TEXTS), atol=1e-5, rtol=0)
    assert [block.span for block in loaded.block_list] == partition(6, 1)


def test_auto_model_makes_the_same_of_it(mixture: SlicedEncoder, folder: Path) -> None:
    model = AutoModel.from_pretrained(folder)
    ids_BT, keep_BT = mixture.tokenize(TEXTS, 64)
    with torch.no_grad():
        output = model(ids_BT, keep_BT.long(), output_hidden_states=True)
        expected_BTH = mixture(ids_BT, keep_BT)
        alone = model(ids_BT[1:2, : int(keep_BT[1].sum())]).last_hidden_state
    torch.testing.assert_close(output.last_hidden_state, expected_BTH, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone[0], expected_BTH[1][keep_BT[1]], atol=1e-5, rtol=0)
    assert len(output.hidden_states) == 5
    assert AutoModel.from_pretrained(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_sentence_transformers_makes_the_same_of_it(
    mixture: SlicedEncoder, folder: Path, tmp_path: Path
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    expected_NH = mixture.encode(TEXTS)
    for _ in range(2):
        torch.testing.assert_close(
            model.encode(TEXTS, convert_to_tensor=True), expected_NH, atol=1e-5, rtol=0
        )
        # And what it saves itself.
        model.save(str(tmp_path / "theirs"))
        model = sentence_transformers.SentenceTransformer(str(tmp_path / "theirs"), device="cpu")


@pytest.mark.parametrize(
    ("config", "family"),
    [
        (BertConfig(hidden_size=24, num_attention_heads=2, intermediate_size=32), BertModel),
        (DistilBertConfig(dim=24, n_heads=2, hidden_dim=32), DistilBertModel),
    ],
    ids=["bert", "distilbert"],
)
def test_a_familys_own_models_stay_what_they_are(config: Any, family: type, tmp_path: Path) -> None:
    """With slicewise imported, and whether or not a config names its architecture."""
    config.num_hidden_layers, config.vocab_size = 2, 50
    model = AutoModel.from_config(config)
    assert type(model) is family
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is family
    assert all(map(torch.equal, model.parameters(), again.parameters()))


def test_transformers_learns_of_us_before_and_after(
    folder: Path, run_python: Callable[..., str]
) -> None:
    """Whichever is imported first; and without slicewise nobody takes the weights for others."""
    load = "print(type(AutoModel.from_pretrained(sys.argv[1])).__name__)"
    ours_first = "import sys, slicewise\nfrom transformers import AutoModel\n" + load
    ours_last = "import sys\nfrom transformers import AutoModel\nimport slicewise\n" + load
    for program in (ours_first, ours_last):
        assert run_python(program, str(folder)).strip().endswith("SlicedModel")
    without = """
import sys
from transformers import AutoModel
try:
    AutoModel.from_pretrained(sys.argv[1])
except OSError as error:
    print(error)
"""
    assert "no file named" in run_python(without, str(folder))


def test_other_families_go_the_same_way(tmp_path: Path) -> None:
    """RoBERTa counts its positions from the one after the padding's."""
    config = RobertaConfig(
        vocab_size=300,
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=34,
    )
    torch.manual_seed(0)
    RobertaModel(config).save_pretrained(tmp_path / "roberta")
    _write_byte_tokenizer(tmp_path / "roberta")
    mixture = _mixture(original_encoder(load_slice(str(tmp_path / "roberta"), 0, 1)))
    folder = slicewise.save_model(mixture, tmp_path / "model")
    loaded = slicewise.load_model(folder)
    assert torch.equal(loaded.encode(TEXTS), mixture.encode(TEXTS))
    assert loaded.max_length == 32
    ids_BT, keep_BT = mixture.tokenize(TEXTS, 32)
    with torch.no_grad():
        output_BTH = AutoModel.from_pretrained(folder)(ids_BT, keep_BT).last_hidden_state
        torch.testing.assert_close(output_BTH, mixture(ids_BT, keep_BT), atol=1e-5, rtol=0)
    # It had no files of sentence-transformers.
    modules = json.loads((folder / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    torch.testing.assert_close(
        model.encode(TEXTS, convert_to_tensor=True), mixture.encode(TEXTS), atol=1e-5, rtol=0
    )


def _write_byte_tokenizer(folder: Path) -> None:
    """Of RoBERTa's kind, with no merges: bytes are its words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 32, **names})
    )


# What is damaged, or not to be trusted


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return slicewise.save_model(_mixture(loud_original()), tmp_path / "small")


def _edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))
    return folder


def test_a_folder_names_no_code_of_its_own(small: Path, tmp_path: Path) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["slicewise"]["blocks"][0]["student"]["_target_"] = "os.system"

    _edited(small, edit)
    with pytest.raises(SlicewiseError, match=r"_target_=os\.system: allowed: slicewise\.students"):
        slicewise.load_model(small)
    with pytest.raises(SlicewiseError, match=r"_target_=os\.system"):
        AutoModel.from_pretrained(small)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["slicewise"].pop("blocks"), "does not describe|blocks"),
        (lambda c: c["slicewise"].update(version=2), r"version=2: allowed: 1"),
        (lambda c: c["slicewise"]["blocks"][0].update(num_layers="x"), "blocks"),
        (lambda c: c["slicewise"]["blocks"].pop(), "Unexpected key|do not fit"),
        (lambda c: c["slicewise"]["blocks"].pop(0), "each has to begin where"),
        (lambda c: c["slicewise"]["pooling"].update(mode="sum"), r"pooling\.mode=sum"),
        (lambda c: c["slicewise"]["blocks"][0]["student"].update(input_dim=-1), "input_dim=-1"),
        (lambda c: c.update(vocab_size=9), "do not fit the config"),
    ],
)
def test_a_description_that_is_wrong_is_refused(
    edit: Callable[[dict[str, Any]], None], message: str, small: Path
) -> None:
    with pytest.raises(SlicewiseError, match=message):
        slicewise.load_model(_edited(small, edit))


def test_damaged_files_are_named(small: Path, tmp_path: Path) -> None:
    with pytest.raises(SlicewiseError, match=r"no config\.json"):
        slicewise.load_model(tmp_path)
    content = (small / WEIGHTS).read_bytes()
    (small / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(SlicewiseError, match=rf"{WEIGHTS} is damaged"):
        slicewise.load_model(small)
    (small / WEIGHTS).unlink()
    with pytest.raises(SlicewiseError, match=rf"it has no {WEIGHTS}"):
        slicewise.load_model(small)
    (small / "config.json").write_text("{")
    with pytest.raises(SlicewiseError, match=r"config\.json is damaged"):
        slicewise.load_model(small)


def test_weights_of_another_are_refused(small: Path) -> None:
    tensors = load_file(small / WEIGHTS)
    tensors.popitem()
    save_file(tensors, small / WEIGHTS)
    with pytest.raises(SlicewiseError, match="the weights do not fit the config"):
        slicewise.load_model(small)


def test_the_teachers_own_layers_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(SlicewiseError, match="layer 0: TeacherSlice is no student"):
        slicewise.save_model(loud_original(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def _write_to_a_full_disk(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "new").touch()
        raise OSError("the disk is full")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with new_folder(path) as folder:
        (folder / "old").touch()
    with pytest.raises(OSError, match="full"):
        _write_to_a_full_disk(path)
    assert [p.name for p in path.iterdir()] == ["old"]
    with new_folder(path) as folder:
        (folder / "new").touch()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


_BEGINS = """
import sys, time
from slicewise.encoder.files import new_folder

with new_folder(sys.argv[1]) as folder:
    (folder / "weights").touch()
    print(folder.name, flush=True)
    time.sleep(600)
"""


def _begun(path: Path) -> tuple[subprocess.Popen[str], str]:
    """A process that is writing a folder, and what that is called meanwhile."""
    command = [sys.executable, "-c", _BEGINS, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_what_a_killed_process_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "model"
    (tmp_path / ".model.0123abcd.old").mkdir()
    kept = [".model.mine.part", ".model2.0123abcd.part", "model.0123abcd.part"]
    for name in kept:
        (tmp_path / name).mkdir()
    (killed, left), (living, writing) = _begun(path), _begun(path)
    try:
        killed.kill()
        killed.wait()
        assert (tmp_path / left / "weights").exists()
        with new_folder(path) as folder:
            (folder / "new").touch()
        assert {p.name for p in tmp_path.iterdir()} == {*kept, writing, "model"}
    finally:
        living.kill()
        living.wait()


@pytest.mark.parametrize(
    "first",
    ["BertConfig", "BertModel", "RobertaConfig", "XLMRobertaModel", "ElectraConfig", "AutoConfig"],
)
def test_whatever_is_imported_of_transformers_first_can_be(
    run_python: Callable[..., str], first: str
) -> None:
    said = run_python(
        f"import slicewise\nfrom transformers import {first}\nprint({first}.__name__)"
    )
    assert said.strip() == first
