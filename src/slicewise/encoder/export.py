"""Encoders for everybody: folders that others load, plain models where that can be."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModel, PreTrainedModel

from slicewise.architecture import layers_of
from slicewise.atomic import write_atomically
from slicewise.encoder.files import copy_files, new_folder
from slicewise.encoder.folder import write_sliced
from slicewise.encoder.onnx_export import write_onnx
from slicewise.encoder.sliced import Block, SlicedEncoder
from slicewise.errors import SlicewiseError
from slicewise.layers import EncoderLayer
from slicewise.students.base import Student
from slicewise.students.bert_layer import BertLayer
from slicewise.students.nothing import Nothing
from slicewise.students.original import Original
from slicewise.teacher import architecture_of

_CHECKED_TEXTS = ("A short text.", "Another one, which is longer than the first by a few words.")
_TOLERANCE = 1e-4


def export_model(
    encoder: SlicedEncoder, path: str | Path, onnx: bool = False, card: str | None = None
) -> bool:
    """Writes an encoder for others to load; the folder appears whole or not at all.

    Where all layers that are left are alike but for their weights, as those of a homogeneous plan
    are, it is a plain model of the original's family: `AutoModel.from_pretrained` and
    `SentenceTransformer` load it with nothing of ours installed. Any other is written as
    `save_model` does.

    Args:
        encoder: On any device.
        path: The folder; what is there is replaced.
        onnx: Also write `onnx/model.onnx` and `onnx/model_int8.onnx`, which `SentenceTransformer`
            runs with `backend="onnx"` and nothing of ours installed, whatever the blocks are.
        card: The model card, `README.md`; None: none.

    Returns:
        Whether it is a plain model.

    Raises:
        ArgumentError: ONNX files are asked for, and the extra `onnx` is not installed.
        SlicewiseError: A block holds no student, or ONNX Runtime computes something else.

    Example:
        >>> import tempfile
        >>> from slicewise.encoder.folder import load_model
        >>> from slicewise.encoder.sliced import assemble, keep_slice, original_encoder, partition
        >>> from slicewise.teacher import random_bert
        >>> sizes = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
        >>> original = original_encoder(random_bert(num_hidden_layers=3, **sizes))
        >>> first, dropped, last = partition(3, 1)
        >>> nothing = Block(Nothing(24), dropped)
        >>> blocks = [keep_slice(original, first), nothing, keep_slice(original, last)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_model(assemble(original, blocks), f"{folder}/model")
        ...     AutoModel.from_pretrained(f"{folder}/model").config.num_hidden_layers
        True
        2
    """
    why_not = why_not_plain(encoder)
    with new_folder(path) as folder:
        if why_not:
            write_sliced(encoder, folder)
        else:
            _write_plain(encoder, folder)
        if onnx:
            write_onnx(encoder, folder)
        if card is not None:
            (folder / "README.md").write_text(card)
    return not why_not


def why_not_plain(encoder: SlicedEncoder) -> str:
    """Says what keeps an encoder from being a plain model of its family; empty if nothing does.

    Example: at `export_model`.
    """
    shapes: set[int] = set()
    kinds: list[Mapping[str, Any] | None] = []
    for block in encoder.block_list:
        student = block.module
        if isinstance(student, Nothing):
            continue
        if not isinstance(student, BertLayer | Original):
            return f"{block.span}: {type(student).__name__} is no layer of the family"
        config = student.config
        kinds += _kinds(student)
        heads = config["num_attention_heads"]
        hidden_size = encoder.hidden_size
        whole = (
            heads == _num_heads(encoder)
            and config.get("value_dim", hidden_size) == hidden_size
            and config.get("attention_hidden_size", hidden_size // heads) * heads == hidden_size
        )
        if not whole:
            return f"{block.span}: not all of the heads, or narrower ones"
        shapes.add(config["intermediate_size"])
    if len(shapes) > 1:
        return f"layers of {' and '.join(map(str, sorted(shapes)))} neurons"
    original: Any = encoder.embeddings.config
    architecture = architecture_of(original, "the original")
    tied = {str(kind["tied"]) for kind in kinds if kind and "tied" in kind}
    computing = [block for block in encoder.block_list if not isinstance(block.module, Nothing)]
    if tied and len(computing) > 1:
        return "layers that the architecture ties, each of several slices with its own weights"
    return architecture.why_not_plain(original, kinds)


@torch.no_grad()
def as_transformers(encoder: SlicedEncoder) -> PreTrainedModel:
    """An encoder as a plain model of its family, on the CPU.

    Args:
        encoder: One for which `why_not_plain` says nothing.

    Raises:
        SlicewiseError: A plain model cannot hold it.
    """
    why_not = why_not_plain(encoder)
    if why_not:
        raise SlicewiseError(f"a plain model cannot hold it: {why_not}")
    layers = _layers(encoder.block_list)
    original: Any = encoder.embeddings.config
    architecture = architecture_of(original, "the original")
    config = architecture.with_layers(original, _numbers(encoder.block_list))
    if layers:
        neurons = layers[0].feed_forward.intermediate.out_features
        setattr(config, architecture.neurons_key, neurons)
    model: PreTrainedModel = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    if hasattr(model, "pooler"):
        # Without one in the original, transformers makes a new one whenever it loads.
        (pooler,) = getattr(encoder.embeddings, "left_out", (None,))
        setattr(model, "pooler", copy.deepcopy(pooler))  # noqa: B010
    model.load_state_dict(encoder.embeddings.state_dict(), strict=False)
    architecture.final(model).load_state_dict(encoder.final.state_dict())
    for theirs, ours in zip(layers_of(model, architecture), layers, strict=True):
        architecture.write(ours, theirs)
    model.train(False)
    _check_same(model, encoder)
    return model


def _write_plain(encoder: SlicedEncoder, folder: Path) -> None:
    """As transformers' `save_pretrained`, without its progress bars."""
    model = as_transformers(encoder)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(
        folder / "model.safetensors",
        lambda unfinished: save_file(tensors, unfinished, metadata={"format": "pt"}),
    )
    if encoder.files is not None:
        copy_files(encoder.files, folder, encoder.pooling)


def _layers(blocks: Sequence[Block]) -> list[EncoderLayer]:
    """All layers that are left."""
    return [
        layer
        for block in blocks
        if isinstance(block.module, BertLayer | Original)
        for layer in block.module.encoder
    ]


def _kinds(student: Student) -> list[Mapping[str, Any] | None]:
    """Of each layer of a student, what it is besides its sizes."""
    description = student.config.get("architecture")
    if description is None:
        return [None] * int(student.config["num_layers"])
    return list(description["layers"])


def _numbers(blocks: Sequence[Block]) -> list[int]:
    """Which layers of the original those that are left are made of."""
    return [
        number
        for block in blocks
        if isinstance(block.module, BertLayer | Original)
        for number in (block.layers or block.span.layers)[: block.module.config["num_layers"]]
    ]


def _num_heads(encoder: SlicedEncoder) -> int:
    config: Any = encoder.embeddings.config
    heads: int = config.num_attention_heads
    return heads


def _check_same(model: PreTrainedModel, encoder: SlicedEncoder) -> None:
    """Says so where the family computes something else than our layers, with the same weights."""
    encoder = copy.deepcopy(encoder).cpu().float().eval()
    ids_BT, keep_BT = encoder.tokenize(_CHECKED_TEXTS, min(32, encoder.max_length))
    theirs_BTH = model(input_ids=ids_BT, attention_mask=keep_BT.long()).last_hidden_state
    difference = (theirs_BTH - encoder(ids_BT, keep_BT))[keep_BT].abs().max().item()
    if not difference <= _TOLERANCE:
        raise SlicewiseError(
            f"{type(model).__name__} is off by {difference:.1e} from the encoder that was to be "
            f"exported, more than {_TOLERANCE:.0e}"
        )
