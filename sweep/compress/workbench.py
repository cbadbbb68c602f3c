"""What trials and stages work with: the original, its slices, and their candidates."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slicewise.cost import count_parameters
from slicewise.data.batch import BatchIndex, Split
from slicewise.data.entering import EnteringDataModule
from slicewise.encoder.candidates import Proposal, Scales, Workshop, kept_whole, propose
from slicewise.encoder.damage import Observations
from slicewise.encoder.healing import TextBatchDataModule
from slicewise.encoder.sliced import SlicedEncoder, Span, original_encoder, partition
from slicewise.errors import ArgumentError
from slicewise.students.base import Student
from slicewise.teacher import TeacherSlice
from sweep.compress.settings import CompressSettings
from sweep.trial.build import build
from sweep.trial.parts import load_teacher, named_within, new_data

_kept: tuple[object, Workbench] | None = None


@dataclass
class Workbench:
    """The original and what may stand in the place of its slices.

    Attributes:
        teacher: A slice of the original.
        original: The whole of it, on the device that computes.
        slices: The proposals of each, by their codes.
        data: The texts.
        settings: What it was made of.
    """

    teacher: TeacherSlice
    original: SlicedEncoder
    slices: list[dict[str, Proposal]]
    data: EnteringDataModule
    settings: CompressSettings

    @property
    def spans(self) -> list[Span]:
        """Of the slices."""
        return [next(iter(slice_.values())).span for slice_ in self.slices]

    @property
    def codes(self) -> list[str]:
        """Of all candidates, first slice to last."""
        return [code for slice_ in self.slices for code in slice_]

    def proposal(self, code: str) -> Proposal:
        """The candidate of that code.

        Raises:
            ArgumentError: There is none.
        """
        for slice_ in self.slices:
            if code in slice_:
                return slice_[code]
        known = self.codes
        some = ", ".join(known[:3])
        raise ArgumentError("candidate", code, f"one of {len(known)}, such as {some}")

    def plan(self, text: str) -> list[Proposal]:
        """The candidates of a plan, one for each slice.

        Raises:
            ArgumentError: It has another number of them, or one that does not exist.
        """
        proposals = [self.proposal(code) for code in text.split()]
        if [proposal.span for proposal in proposals] != self.spans:
            raise ArgumentError("plan", text, f"a candidate for each of {len(self.slices)} slices")
        return proposals

    @functools.cached_property
    def workshop(self) -> Workshop:
        """Builds candidates from what the original makes of training texts."""
        return Workshop(self._observed(Split.TRAIN, self.settings.library.texts))

    @functools.cached_property
    def scales(self) -> Scales:
        """Measures candidates on validation texts."""
        observed = self._observed(Split.VALID, self.settings.library.damage_texts)
        return Scales(observed, self.settings.data.seq_length)

    @property
    def embedding_megabytes(self) -> float:
        """What of the original no slice holds, its weights at four bytes each."""
        return count_parameters(self.original.embeddings) * 4 / 1e6

    def _observed(self, split: Split, texts: int) -> Observations:
        return Observations.of_batches(self.original, self._batches(split, texts))

    def _batches(self, split: Split, texts: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens of so many texts, in groups of about one length."""
        groups = min(4, self.data.batch_size)
        module = TextBatchDataModule(self.data, groups)
        left = texts
        for number in itertools.count():
            batch = module.make_batch(BatchIndex(split, number), torch.device("cpu"))
            for ids_BT, keep_BT in batch.groups:
                yield ids_BT[:left], keep_BT[:left]
                left -= len(ids_BT)
                if left <= 0:
                    return


def open_workbench(settings: CompressSettings) -> Workbench:
    """The workbench of some settings; the last one is kept.

    Raises:
        ArgumentError, SlicewiseError: The teacher, the texts, or a candidate cannot be had.
    """
    global _kept
    key = (settings.teacher, settings.data.node, settings.partition, settings.library)
    if _kept is None or _kept[0] != key:
        _kept = None
        _kept = (key, _new_workbench(settings))
    return _kept[1]


def close_workbench() -> None:
    """Gives back the memory of what the original made of its texts."""
    global _kept
    _kept = None
    gc.collect()
    # The C library keeps what is freed: a gigabyte here. Only glibc has this, and needs it.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _new_workbench(settings: CompressSettings) -> Workbench:
    teacher = load_teacher(settings.teacher_of_all)
    data = new_data(settings.data, teacher)
    if not isinstance(data, EnteringDataModule):
        raise ArgumentError("data", type(data).__name__, "data=text: healing reads text")
    original = original_encoder(teacher).to(device_of(settings))
    slices = [
        {proposal.code: proposal for proposal in proposals}
        for proposals in _proposals(original, settings)
    ]
    return Workbench(teacher, original, slices, data, settings)


def _proposals(original: SlicedEncoder, settings: CompressSettings) -> list[list[Proposal]]:
    """The candidates of each slice; the layers around those that are cut have one, themselves."""
    first, count = settings.cut
    above = original.num_layers - first
    if (count is not None and not 0 < count <= above) or above < 1:
        allowed = f"null, or at most the original's {original.num_layers}"
        raise ArgumentError("teacher.num_layers", count, allowed)
    count = above if count is None else count
    spans = [
        Span(first + span.first_layer, span.num_layers)
        for span in partition(count, settings.partition)
    ]
    library, others = settings.library, list(_others(settings.library.others))
    with named_within("library"):
        inner = [propose(original, span, library.neurons, library.heads, others) for span in spans]
    around = [Span(layer, 1) for layer in range(original.num_layers)]
    below = [[kept_whole(original, span)] for span in around[:first]]
    return [*below, *inner, *([kept_whole(original, span)] for span in around[first + count :])]


def _others(nodes: Sequence[Any]) -> Iterator[tuple[type[Student], dict[str, Any]]]:
    for number, node in enumerate(nodes):
        key = f"library.others.{number}"
        if not isinstance(node, dict) or "_target_" not in node:
            example = "{_target_: slicewise.students.low_rank.LowRank, rank: 96}"
            raise ArgumentError(key, node, f"a family, such as {example}")
        arguments = {name: value for name, value in node.items() if not name.startswith("_")}
        family = build(key, {"_target_": node["_target_"], "_partial_": True}).func
        if not (isinstance(family, type) and issubclass(family, Student)):
            raise ArgumentError(f"{key}._target_", node["_target_"], "a subclass of Student")
        yield family, arguments


def device_of(settings: CompressSettings) -> torch.device:
    """Where this process computes."""
    wanted = settings.trainer.get("accelerator", "auto")
    on_gpu = wanted in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if on_gpu else "cpu")
