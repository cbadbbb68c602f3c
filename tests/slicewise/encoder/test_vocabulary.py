"""A smaller vocabulary: the same on the texts it was cut for, and every word can still be spelt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

import slicewise
from slicewise.encoder.export import export_model
from slicewise.encoder.sliced import (
    SlicedEncoder,
    assemble,
    keep_slice,
    original_encoder,
    partition,
)
from slicewise.encoder.vocabulary import reduce_vocabulary
from slicewise.errors import ArgumentError
from slicewise.teacher import load_slice, minilm
from tests.slicewise.encoder.encoders import TEXTS, loud_original

OTHER = ["Zebras quizzically overwhelm xylophonists."]


@pytest.fixture(scope="module")
def encoder() -> SlicedEncoder:
    """MiniLM, all of it, in students."""
    original = original_encoder(minilm(0, 1))
    return assemble(original, [keep_slice(original, span) for span in partition(6, 3)]).eval()


@pytest.fixture(scope="module")
def smaller(encoder: SlicedEncoder, tmp_path_factory: pytest.TempPathFactory) -> SlicedEncoder:
    return reduce_vocabulary(encoder, TEXTS, tmp_path_factory.mktemp("vocabulary") / "files")


def test_on_the_texts_it_is_the_same(encoder: SlicedEncoder, smaller: SlicedEncoder) -> None:
    assert torch.equal(smaller.encode(TEXTS), encoder.encode(TEXTS))
    words = smaller.embeddings.get_submodule("embeddings.word_embeddings").weight
    # The texts' pieces, and single characters at the beginning of words and in them.
    assert 1500 < len(words) < 2100
    assert not any(p.requires_grad for p in smaller.embeddings.parameters())


def test_the_encoder_is_left_as_it_was(encoder: SlicedEncoder, smaller: SlicedEncoder) -> None:
    assert encoder.embeddings.config.vocab_size == 30522
    assert encoder.embeddings.get_submodule("embeddings.word_embeddings").weight.shape[0] == 30522
    ours = {p.data_ptr() for p in smaller.blocks.parameters()}
    assert ours == {p.data_ptr() for p in encoder.blocks.parameters()}


@settings(max_examples=30, deadline=None)
@given(text=st.text("abcxyz QÄß.,!", min_size=1, max_size=40))
def test_every_word_can_still_be_spelt(text: str, smaller: SlicedEncoder) -> None:
    """No piece is unknown that was not before."""
    unknown = smaller.tokenizer._tokenizer.unk_token_id  # type: ignore[attr-defined]
    (ids,) = smaller.tokenizer.encode([text], 512)
    assert unknown not in ids
    assert ids[0] == smaller.tokenizer.first_id
    assert ids[-1] == smaller.tokenizer.last_id


def test_other_texts_are_read_in_more_pieces(
    encoder: SlicedEncoder, smaller: SlicedEncoder
) -> None:
    (before,), (after,) = (each.tokenizer.encode(OTHER, 512) for each in (encoder, smaller))
    assert len(after) > len(before)
    cosine = torch.cosine_similarity(encoder.encode(OTHER), smaller.encode(OTHER))
    assert 0 < cosine.item() < 0.99


def test_it_is_saved_and_exported_with_its_tokenizer(
    smaller: SlicedEncoder, tmp_path: Path
) -> None:
    assert export_model(smaller, tmp_path / "plain")
    slicewise.save_model(smaller, tmp_path / "sliced")
    for name in ("plain", "sliced"):
        loaded = slicewise.load_model(tmp_path / name)
        for texts in (TEXTS, OTHER):
            torch.testing.assert_close(
                loaded.encode(texts), smaller.encode(texts), atol=1e-5, rtol=0
            )
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        assert tokenizer(TEXTS[0])["input_ids"] == smaller.tokenizer.encode(TEXTS[:1], 64)[0]
        assert tokenizer.pad_token_id == 0
    model = AutoModel.from_pretrained(tmp_path / "plain")
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(tmp_path / "plain"))
    vocabulary = (tmp_path / "plain" / "vocab.txt").read_text().splitlines()
    read = json.loads((tmp_path / "plain" / "tokenizer.json").read_text())["model"]["vocab"]
    assert {piece: number for number, piece in enumerate(vocabulary)} == read
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "plain"), device="cpu")
    torch.testing.assert_close(
        model.encode(TEXTS, convert_to_tensor=True), smaller.encode(TEXTS), atol=1e-5, rtol=0
    )


def test_rare_pieces_can_be_left_out(encoder: SlicedEncoder, tmp_path: Path) -> None:
    often = reduce_vocabulary(encoder, [*TEXTS, *TEXTS[:1]], tmp_path / "files", least=2)
    assert torch.equal(often.encode(TEXTS[:1]), encoder.encode(TEXTS[:1]))
    assert not torch.allclose(often.encode(TEXTS[1:2]), encoder.encode(TEXTS[1:2]), atol=1e-3)


def _of_kind(kind: str, folder: Path) -> SlicedEncoder:
    """A small BERT whose tokenizer is of another kind."""
    pieces = ["<pad>", "<s>", "</s>", "<unk>", "▁", *"abcdef", "▁a", "bc", "▁abc", "de", "▁f"]
    if kind == "unigram":
        scores = [(piece, -float(len(pieces) - len(piece))) for piece in pieces]
        tokenizer = Tokenizer(models.Unigram(scores, unk_id=3, byte_fallback=False))
    else:
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("b", "c")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>", "<unk>"])
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings_ = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_))
    original = original_encoder(load_slice(str(folder), 0, 1))
    return assemble(original, [keep_slice(original, span) for span in partition(1, 1)]).eval()


def test_a_unigram_vocabulary_is_cut_as_well(tmp_path: Path) -> None:
    encoder = _of_kind("unigram", tmp_path)
    smaller = reduce_vocabulary(encoder, ["abc de"], tmp_path / "files")
    # All but "bc", which no text has.
    assert smaller.embeddings.config.vocab_size == encoder.embeddings.config.vocab_size - 1
    for texts in (["abc de"], ["de abc abc", "f"]):
        assert torch.equal(smaller.encode(texts), encoder.encode(texts))
    (before,), (after,) = (each.tokenizer.encode(["abc bc"], 32) for each in (encoder, smaller))
    assert len(after) == len(before) + 1


def test_what_cannot_be_cut_is_refused(tmp_path: Path, encoder: SlicedEncoder) -> None:
    with pytest.raises(ArgumentError, match="a vocabulary of BPE cannot be cut"):
        reduce_vocabulary(_of_kind("bpe", tmp_path), ["abc"], tmp_path / "files")
    assert not (tmp_path / "files").exists()
    with pytest.raises(ArgumentError, match="no tokenizer with files"):
        reduce_vocabulary(loud_original(), TEXTS, tmp_path / "files")
    with pytest.raises(ArgumentError, match="at least one text"):
        reduce_vocabulary(encoder, [], tmp_path / "files")
