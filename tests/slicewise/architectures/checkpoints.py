"""Small random checkpoints of every architecture, made by transformers' own classes."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AutoModel,
    BertConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from slicewise.architecture import known_architectures
from slicewise.teacher import TeacherSlice, load_slice

HIDDEN_SIZE = 24
WORDS = [f"word{n}" for n in range(60)]

_SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": HIDDEN_SIZE,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
_DEBERTA = {
    **_SIZES,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 4,
    "max_relative_positions": 16,
    "norm_rel_ebd": "layer_norm",
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "bert": BertConfig(**_SIZES),
    "roberta": RobertaConfig(**_SIZES),
    "xlm_roberta": XLMRobertaConfig(**_SIZES),
    "camembert": CamembertConfig(**_SIZES),
    "electra": ElectraConfig(embedding_size=12, **{**_SIZES, "hidden_act": "relu"}),
    "distilbert": DistilBertConfig(
        vocab_size=64,
        dim=HIDDEN_SIZE,
        n_layers=4,
        n_heads=3,
        hidden_dim=40,
        max_position_embeddings=40,
        activation="relu",
    ),
    "mpnet": MPNetConfig(**{**_SIZES, "pad_token_id": 1}),
    # Global, local, local, global; what is local sees four tokens to each side.
    "modernbert": ModernBertConfig(
        **_SIZES, local_attention=8, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3
    ),
    # The third version shares the maps of content and position, the second has some for each.
    "deberta_v2": DebertaV2Config(**_DEBERTA, share_att_key=True, position_biased_input=False),
    "albert": AlbertConfig(embedding_size=12, **_SIZES),
}
VARIANTS: dict[str, PreTrainedConfig] = {
    "deberta_v2 without shared maps": DebertaV2Config(**_DEBERTA),
    "deberta_v2 by content alone": DebertaV2Config(**_SIZES),
    "albert in two groups": AlbertConfig(embedding_size=12, num_hidden_groups=2, **_SIZES),
    "modernbert with biases": ModernBertConfig(
        **_SIZES,
        local_attention=8,
        attention_bias=True,
        mlp_bias=True,
        norm_bias=True,
        cls_token_id=2,
        sep_token_id=3,
    ),
}
NAMES = sorted(CONFIGS)
ALL = {**CONFIGS, **VARIANTS}
assert known_architectures() == NAMES, "an adapter without a checkpoint here"


@functools.cache
def model_of(name: str) -> PreTrainedModel:
    """A model whose weights are so large that attention, positions and neurons matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model: PreTrainedModel = AutoModel.from_config(ALL[name])  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return model.train(False)


@functools.cache
def folder_of(name: str) -> str:
    """A checkpoint with its tokenizer, for as long as the process lives."""
    _folders.append(tempfile.TemporaryDirectory(prefix="slicewise-checkpoint-"))
    folder = _folders[-1].name
    model_of(name).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return str(Path(folder))


@functools.cache
def slice_of(name: str, first_layer: int, num_layers: int) -> TeacherSlice:
    """Layers of a checkpoint, loaded once: they are frozen."""
    return load_slice(folder_of(name), first_layer, num_layers)


_folders: list[tempfile.TemporaryDirectory[str]] = []


def _tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
