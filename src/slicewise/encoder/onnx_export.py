"""An encoder as ONNX files, which run with nothing of ours and without PyTorch's code.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

import copy
import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from slicewise.encoder.sliced import SlicedEncoder
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.whole import padding_mask

# Where sentence-transformers looks for it with `backend="onnx"`.
FOLDER = "onnx"
MODEL_NAME = "model.onnx"
INT8_NAME = "model_int8.onnx"
# Between what PyTorch and ONNX Runtime compute, on tokens that are real.
TOLERANCE = 1e-4

_OPSET = 18
_CHECKED_TEXTS = ("A short text.", "Another one, which is longer than the first by a few words.")


class _FromIds(nn.Module):
    """The function that the file holds, with the names that others feed and read."""

    def __init__(self, encoder: SlicedEncoder) -> None:
        super().__init__()
        self.embeddings = encoder.embeddings
        self.blocks = encoder.blocks
        self.final = encoder.final

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) and (B, T), 1 for real tokens, to (B, T, H)."""
        keep_BT = attention_mask > 0
        entered = self.embeddings(input_ids=input_ids, attention_mask=keep_BT)
        x_BTH: Tensor = entered.last_hidden_state
        mask = padding_mask(keep_BT)
        for block in self.blocks:
            x_BTH = block(x_BTH, mask)
        y_BTH: Tensor = self.final(x_BTH)
        return y_BTH


def write_onnx(encoder: SlicedEncoder, folder: Path, int8: bool = True) -> dict[str, float]:
    """Writes `onnx/model.onnx`, and `onnx/model_int8.onnx`, into a model's folder.

    Both are run by ONNX Runtime before this returns. The second has its weights in 8 bits, a
    quarter of the size, and quantizes activations as they come.

    Args:
        encoder: On any device; it is left as it was.
        folder: The model's.
        int8: Whether to write the second.

    Returns:
        By file name, the mean cosine of its embeddings to those of the encoder, on a few texts.

    Raises:
        ArgumentError: The extra `onnx` is not installed.
        SlicewiseError: ONNX Runtime computes something else than PyTorch does.
    """
    runtime: Any = _needed("onnxruntime")
    _needed("onnxscript")
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    model = _FromIds(copy.deepcopy(encoder).cpu().float()).eval()
    _export(model, place / MODEL_NAME)
    ids_BT, keep_BT = encoder.tokenize(_CHECKED_TEXTS, min(32, encoder.max_length))
    with torch.no_grad():
        expected_BTH = model(ids_BT, keep_BT.long())
    output_BTH = _run(runtime, place / MODEL_NAME, ids_BT, keep_BT)
    difference = (output_BTH - expected_BTH)[keep_BT].abs().max().item()
    if not difference <= TOLERANCE:
        raise SlicewiseError(
            f"{place / MODEL_NAME}: ONNX Runtime is off by {difference:.1e} from PyTorch, more "
            f"than {TOLERANCE:.0e}"
        )
    cosines = {MODEL_NAME: _cosine(encoder, output_BTH, expected_BTH, keep_BT)}
    if int8:
        with _quiet():
            quantization: Any = importlib.import_module("onnxruntime.quantization")
            quantization.quantize_dynamic(
                place / MODEL_NAME,
                place / INT8_NAME,
                # The embeddings too, which are most of a small encoder.
                op_types_to_quantize=["MatMul", "Gather"],
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                # To 7 bits: sums of products overflow where a CPU lacks VNNI.
                reduce_range=True,
            )
        output_BTH = _run(runtime, place / INT8_NAME, ids_BT, keep_BT)
        cosines[INT8_NAME] = _cosine(encoder, output_BTH, expected_BTH, keep_BT)
    return cosines


def _export(model: nn.Module, path: Path) -> None:
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    # Sizes that are nobody's: a size of 1 would be taken for fixed.
    ids_BT = torch.zeros(2, 7, dtype=torch.long)
    with _quiet():
        torch.onnx.export(
            model,
            (ids_BT, torch.ones_like(ids_BT)),
            path,
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_shapes=(shape, shape),
            dynamo=True,
            external_data=False,
            opset_version=_OPSET,
            verbose=False,
        )


def _run(runtime: Any, path: Path, ids_BT: Tensor, keep_BT: Tensor) -> Tensor:
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {"input_ids": ids_BT.numpy(), "attention_mask": keep_BT.long().numpy()}
    return torch.from_numpy(session.run(None, inputs)[0])


def _cosine(
    encoder: SlicedEncoder, output_BTH: Tensor, expected_BTH: Tensor, keep_BT: Tensor
) -> float:
    output_BH = encoder.pooling(output_BTH, keep_BT)
    return torch.cosine_similarity(output_BH, encoder.pooling(expected_BTH, keep_BT)).mean().item()


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ArgumentError(
            "onnx", True, "false, unless it is installed: pip install 'slicewise[onnx]'"
        ) from error


@contextmanager
def _quiet(names: Sequence[str] = ("torch.onnx", "onnxscript", "root")) -> Iterator[None]:
    """Without the exporter's remarks to its own developers."""
    loggers = [logging.getLogger(name if name != "root" else None) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
