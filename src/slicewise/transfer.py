"""Whether a student would survive in the model: its slice of the model replaced, on real text.

Shapes: B batch, T tokens, H hidden size, K real tokens of a batch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slicewise.cuda_graph import Captured, addresses_of
from slicewise.data.corpus import stdlib_test_sentences
from slicewise.errors import ArgumentError
from slicewise.fetched import Fetched
from slicewise.teacher import TeacherSlice
from slicewise.waiting import waiting_for
from slicewise.whole import additive_mask

NUM_TEXTS = 256
MAX_LENGTH = 128
BATCH_SIZE = 32


class Transfer(NamedTuple):
    """What becomes of the model with the student in the slice's place.

    Attributes:
        text_l1: Mean absolute difference between what the student and the slice return, over
            real tokens.
        text_cosine: Mean cosine between the final embeddings of the model with the student and
            of the original.

    Example:
        >>> found = Transfer(text_l1=0.12, text_cosine=0.97)
        >>> found.text_cosine
        0.97
    """

    text_l1: float
    text_cosine: float


class _Original(NamedTuple):
    """What the original makes of one batch of texts.

    Attributes:
        entering: The hidden states that enter the slice, (B, T, H).
        leaving: Those that leave it, (B, T, H).
        embeddings: The final ones, (B, H).
        keep: Which are real tokens, (B, T).
        real: The places of those in the rows put one after the other, (K,).
        attention_mask: Additive, (B, 1, 1, T), or None where all are.
    """

    entering: Tensor
    leaving: Tensor
    embeddings: Tensor
    keep: Tensor
    real: Tensor
    attention_mask: Tensor | None

    def to(self, device: torch.device) -> _Original:
        return _Original(
            self.entering.to(device),
            self.leaving.to(device),
            self.embeddings.to(device),
            self.keep.to(device),
            self.real.to(device),
            None if self.attention_mask is None else self.attention_mask.to(device),
        )


class TransferTest:
    """Texts on which students are compared to one teacher's slice.

    The original's side is computed here, once. `transfer` keeps a test for each teacher; make
    one by hand only for other texts.

    Args:
        teacher: The slice that the students stand in for.
        texts: The texts, of which the first 128 tokens count; `default_texts` unless given.

    Raises:
        ArgumentError: There are no texts, or the teacher has no tokenizer.
        SlicewiseError: The teacher's whole model cannot be loaded.

    Example:
        >>> from slicewise.students.original import Original
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(
        ...     hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
        >>> test = TransferTest(teacher, ["A text.", "Another one, somewhat longer."])
        >>> copied = Original(**Original.sizes_from(teacher))
        >>> copied.start_from(teacher)
        >>> found = test(copied)
        >>> round(found.text_l1, 4), round(found.text_cosine, 4)
        (0.0, 1.0)
    """

    def __init__(self, teacher: TeacherSlice, texts: Sequence[str] | None = None) -> None:
        if texts is None:
            texts = default_texts()
        if not texts:
            raise ArgumentError("texts", "[]", "at least one text")
        # The slice is not kept: it lives as long as its users want.
        self.whole = teacher.whole()
        device = _device(teacher)
        self._move(device)
        encoded = self.whole.tokenizer.encode(texts, min(MAX_LENGTH, self.whole.max_length))
        # Texts of one length side by side, so that little is spent on padding.
        encoded.sort(key=len)
        self._originals = []
        self._comparisons: list[Captured] = []
        self._placed: object = None
        for start in range(0, len(encoded), BATCH_SIZE):
            rows = encoded[start : start + BATCH_SIZE]
            ids_BT, keep_BT = (x.to(device) for x in self.whole.pad(rows, max(map(len, rows))))
            mask = additive_mask(keep_BT)
            entering_BTH = self.whole.enter(ids_BT, keep_BT)
            leaving_BTH = teacher(entering_BTH, mask)
            embeddings_BH = self.whole.leave(leaving_BTH, keep_BT)
            real_K = keep_BT.flatten().nonzero()[:, 0]
            self._originals.append(
                _Original(entering_BTH, leaving_BTH, embeddings_BH, keep_BT, real_K, mask)
            )
        self._tokens = sum(len(original.real) for original in self._originals)

    def __call__(self, student: nn.Module) -> Transfer:
        """Puts the student in the slice's place; on its device, in eval mode for the time."""
        return self.start(student)()

    @torch.no_grad()
    def start(self, student: nn.Module) -> Callable[[], Transfer]:
        """As a call, but what is returned waits for a GPU: others may go on meanwhile."""
        device = _device(student, self._originals[0].entering.device)
        self._place(device)
        found = []
        with _evaluated(student):
            for original, compare in zip(self._originals, self._comparisons, strict=True):
                # A copy: what one student writes to, the next one would find.
                output_BTH = student(original.entering.clone(), original.attention_mask).float()
                # Of its own: a graph writes the next student's over it.
                found.append(torch.stack(compare(output_BTH)))
        # All at once: each value that is fetched takes its time.
        sums = Fetched.behind(torch.stack(found))

        def wait() -> Transfer:
            difference, cosine = map(sum, zip(*sums.wait().tolist(), strict=True))
            texts = sum(len(original.keep) for original in self._originals)
            return Transfer(difference / self._tokens, cosine / texts)

        return wait

    @torch.no_grad()
    def _compare(self, original: _Original, output_BTH: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over a batch, of 64 bits: the difference of its tokens, the cosine of its texts."""
        leaving_BTH = self.whole.above(output_BTH, original.attention_mask)
        embeddings_BH = self.whole.embed(leaving_BTH, original.keep)
        difference_BT = (output_BTH - original.leaving).abs().mean(-1)
        difference = difference_BT.flatten()[original.real].sum(dtype=torch.float64)
        cosine_B = F.cosine_similarity(embeddings_BH, original.embeddings)
        return difference, cosine_B.sum(dtype=torch.float64)

    def _place(self, device: torch.device) -> None:
        """Has all of it on a device; graphs stay as long as what they read stays where it is."""
        self._move(device)
        place = (device, addresses_of(self.whole))
        if self._placed != place:
            self._placed = place
            self._originals = [original.to(device) for original in self._originals]
            self._comparisons = [
                Captured(functools.partial(self._compare, original), "the comparison", warm_up=1)
                for original in self._originals
            ]

    def _move(self, device: torch.device) -> None:
        # Parameters that move in inference mode could not be used outside it.
        with torch.inference_mode(False):
            self.whole.to(device)


def transfer(
    student: nn.Module, teacher: TeacherSlice, texts: Sequence[str] | None = None
) -> Transfer:
    """Puts a student in the slice's place in the whole model, on held-out text.

    The original's side is computed once per teacher and process, so that a student costs no more
    than its own share and the layers above the slice.

    Args:
        student: `(hidden_states, attention_mask) -> hidden_states`. It is left as it was.
        teacher: The slice that it stands in for.
        texts: `default_texts` unless given; the original's side is then computed each time.

    Raises:
        ArgumentError, SlicewiseError: As `TransferTest`.

    Example:
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(
        ...     hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
        >>> found = transfer(teacher, teacher, ["The slice stands in for itself."])
        >>> found.text_l1
        0.0
    """
    if texts is not None:
        return TransferTest(teacher, texts)(student)
    return transfer_test(teacher)(student)


_tests: WeakKeyDictionary[TeacherSlice, TransferTest] = WeakKeyDictionary()


def transfer_test(teacher: TeacherSlice) -> TransferTest:
    """The test of a teacher on `default_texts`, made once per process.

    Called before a fit, it tells what is wrong with the whole model before time is spent.

    Example:
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(
        ...     hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
        >>> transfer_test(teacher) is transfer_test(teacher)
        True
    """
    test = _tests.get(teacher)
    if test is None:
        with waiting_for("Computing what the original makes of held-out text"):
            test = _tests[teacher] = TransferTest(teacher)
    return test


def default_texts() -> tuple[str, ...]:
    """256 test sentences of the standard library's docstrings: no training sees them.

    Example:
        >>> len(default_texts())
        256
    """
    return stdlib_test_sentences(NUM_TEXTS)


def _device(module: nn.Module, default: torch.device | None = None) -> torch.device:
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    return tensor.device if tensor is not None else default or torch.device("cpu")


@contextmanager
def _evaluated(module: nn.Module) -> Iterator[None]:
    """In eval mode, every part of it, and afterwards each as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
