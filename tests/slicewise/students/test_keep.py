"""Which layers are kept: the first, the last, those that are named, those that do least damage."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slicewise.data.batch import Batch
from slicewise.data.corpus import stdlib_sentences
from slicewise.errors import ArgumentError
from slicewise.students.approx_ffn import ApproximateAttentionWithFeedForward
from slicewise.students.base import Student
from slicewise.students.bert_layer import BertLayer
from slicewise.students.keep import choices, some_choices
from slicewise.students.low_rank import LowRank
from slicewise.teacher import TeacherSlice, minilm
from slicewise.whole import additive_mask
from tests.slicewise.teachers import loud_teacher, noise

FAMILIES = [BertLayer, LowRank, ApproximateAttentionWithFeedForward]


@given(total=st.integers(1, 30), data=st.data())
def test_choices_are_layers_ascending_each_once(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, total))
    found = some_choices(range(total), count)
    assert all(list(layers) == sorted(set(layers)) for layers in found)
    assert all(len(layers) == count and set(layers) <= set(range(total)) for layers in found)
    assert len(found) == len(set(found)) <= 20
    if math.comb(total, count) <= 20:
        assert len(found) == math.comb(total, count)
    assert {choices("first", count, total)[0], choices("last", count, total)[0]} <= set(found)


@pytest.mark.parametrize("keep", [[0], [1, 0], [0, 0], [0, 3], [-1, 0], "middle", []])
def test_other_layers_are_refused(keep: str | Sequence[int]) -> None:
    with pytest.raises(ArgumentError, match=r"keep=.*: allowed: auto, first, last, or num_l"):
        choices(keep, 2, 3)


def _one_layer(family: type[Student], teacher: TeacherSlice) -> Student:
    sizes = family.sizes_from(teacher)
    return family(**{**sizes, **({"num_layers": 1} if "num_layers" in sizes else {})})


def _started(family: type[Student], teacher: TeacherSlice, keep: object) -> Student:
    torch.manual_seed(0)
    student = _one_layer(family, teacher)
    student.start_from(teacher, noise(2), keep=keep)  # type: ignore[call-arg]
    return student.eval()


def _same(one: Student, other: Student) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_unless_told(family: type[Student]) -> None:
    teacher = loud_teacher()
    torch.manual_seed(0)
    default = _one_layer(family, teacher)
    default.start_from(teacher, noise(2))
    assert _same(default, _started(family, teacher, "first"))
    assert _same(default, _started(family, teacher, [0]))
    assert not _same(default, _started(family, teacher, "last"))
    assert _same(_started(family, teacher, "last"), _started(family, teacher, [1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_is_the_last_layer(family: type[Student]) -> None:
    """A slice whose first layer hands on what it gets, nearly, is its last."""
    teacher = loud_teacher()
    last = TeacherSlice(teacher.layers[1:], 24, "last")
    torch.manual_seed(0)
    alone = _one_layer(family, last)
    alone.start_from(last)
    student = _one_layer(family, teacher)
    torch.manual_seed(0)
    student = _one_layer(family, teacher)
    student.start_from(teacher, keep="last")  # type: ignore[call-arg]
    # Without batches nothing is fitted to the slice.
    assert _same(student, alone)


def _text(teacher: TeacherSlice) -> list[Batch]:
    whole = teacher.whole()
    texts = stdlib_sentences()[:128]
    ids_BT, keep_BT = whole.tokenize(texts, 32)
    return [Batch(whole.enter(ids_BT, keep_BT), additive_mask(keep_BT))]


@pytest.mark.parametrize(("first_layer", "better"), [(0, 0), (4, 1)])
def test_auto_asks_the_model_around_the_slice(first_layer: int, better: int) -> None:
    """Of layers 0 and 1 of MiniLM the first, of 4 and 5 the last, as measured by hand."""
    teacher = minilm(first_layer, 2)
    students = []
    for keep in ("auto", [better]):
        student = BertLayer(**{**BertLayer.sizes_from(teacher), "num_layers": 1})
        student.start_from(teacher, _text(teacher), keep)
        students.append(student)
    assert _same(*students)


@pytest.mark.parametrize("num_batches", [0, 1])
def test_where_nobody_can_tell_auto_keeps_the_first(num_batches: int) -> None:
    known = loud_teacher()
    teacher = TeacherSlice(copy.deepcopy(known.layers), 24, "alone")
    auto, first = (BertLayer(**{**BertLayer.sizes_from(teacher), "num_layers": 1}) for _ in "ab")
    # A slice without a model around it; and one with, without anything to see.
    for each, batches in ((teacher, noise(num_batches)), (known, [])):
        auto.start_from(each, batches, "auto")
        first.start_from(each, batches, "first")
        assert _same(auto, first)
