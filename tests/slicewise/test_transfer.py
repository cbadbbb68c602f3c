from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slicewise import transfer as module
from slicewise.data.batch import Split
from slicewise.data.corpus import split_of
from slicewise.errors import ArgumentError
from slicewise.students.approx import ApproximateAttention
from slicewise.teacher import TeacherSlice, minilm, random_bert
from slicewise.transfer import TransferTest, default_texts, transfer, transfer_test
from slicewise.whole import additive_mask

TEXTS = ["Return the number of items.", "A much longer sentence than the other ones.", "Short."]


class _Calls(nn.Module):
    """Returns what a function does."""

    def __init__(self, function: Callable[[Tensor, Tensor | None], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.function(hidden_states, attention_mask)


@pytest.fixture(scope="module")
def teacher() -> TeacherSlice:
    return minilm()


# The real thing


def test_the_slice_itself_changes_nothing(teacher: TeacherSlice) -> None:
    result = transfer(teacher, teacher)
    assert result.text_l1 < 1e-5
    assert result.text_cosine == pytest.approx(1, abs=1e-5)


def test_without_the_slice(teacher: TeacherSlice) -> None:
    """As measured on other sentences: 0.641."""
    result = transfer(_Calls(lambda x, mask: x), teacher)
    assert result.text_cosine == pytest.approx(0.641, abs=0.03)


def test_its_first_layer_alone(teacher: TeacherSlice) -> None:
    """As measured on other sentences: 0.918."""
    layer = teacher.layers[0]
    result = transfer(_Calls(lambda x, mask: layer(x, mask)), teacher)
    assert result.text_cosine == pytest.approx(0.918, abs=0.03)


def test_texts_are_for_the_test() -> None:
    texts = default_texts()
    assert len(set(texts)) == len(texts) == 256
    assert {split_of(text) for text in texts} == {Split.TEST}


# What it computes


def test_equals_the_plain_computation(
    tiny_teacher: TeacherSlice, new_student: Callable[..., ApproximateAttention]
) -> None:
    """Text by text, so without padding."""
    student = new_student(dropout=0.0)
    result = transfer(student, tiny_teacher, TEXTS)
    whole = tiny_teacher.whole()
    differences, cosines = [], []
    for text in TEXTS:
        ids, keep = whole.tokenize([text], 128)
        x_BTH = whole.enter(ids, keep)
        assert additive_mask(keep) is None
        with torch.no_grad():
            ours, original = student(x_BTH), tiny_teacher(x_BTH)
        differences.append((ours - original).abs().flatten())
        cosines.append(F.cosine_similarity(whole.leave(ours, keep), whole.leave(original, keep)))
    assert result.text_l1 == pytest.approx(torch.cat(differences).mean().item(), abs=1e-6)
    assert result.text_cosine == pytest.approx(torch.cat(cosines).mean().item(), abs=1e-6)


def test_what_a_student_makes_of_padding_does_not_count(tiny_teacher: TeacherSlice) -> None:
    def spoil_padding(x_BTH: Tensor, mask: Tensor | None) -> Tensor:
        y_BTH = tiny_teacher(x_BTH, mask)
        return y_BTH if mask is None else y_BTH + (mask[:, 0, 0, :, None] < 0) * 1e3

    result = transfer(_Calls(spoil_padding), tiny_teacher, TEXTS)
    assert result.text_l1 < 1e-5
    assert result.text_cosine == pytest.approx(1, abs=1e-5)


def test_student_is_evaluated_and_left_as_it_was(tiny_teacher: TeacherSlice) -> None:
    student = nn.Sequential(nn.Dropout(), nn.LayerNorm(24), nn.Dropout())
    student.train()
    student[2].eval()
    seen = []

    def forward(x_BTH: Tensor, mask: Tensor | None) -> Tensor:
        seen.append([part.training for part in student.modules()])
        output: Tensor = student(x_BTH)
        assert not output.requires_grad
        return output

    calls = _Calls(forward)
    calls.student = student
    transfer(calls, tiny_teacher, TEXTS)
    assert seen == [[False] * 4]
    assert [part.training for part in student.modules()] == [True, True, True, False]


def test_mode_comes_back_after_an_error(tiny_teacher: TeacherSlice) -> None:
    student = nn.Linear(7, 7)
    with pytest.raises((RuntimeError, TypeError)):
        transfer(student, tiny_teacher, TEXTS)
    assert student.training


def test_same_result_each_time(
    tiny_teacher: TeacherSlice, new_student: Callable[..., ApproximateAttention]
) -> None:
    before = torch.get_rng_state()
    student = new_student()
    assert transfer(student, tiny_teacher) == transfer(student, tiny_teacher)
    assert torch.equal(before, torch.get_rng_state())


# The cache


def test_what_one_student_writes_to_the_next_does_not_find(tiny_teacher: TeacherSlice) -> None:
    def add_in_place(x_BTH: Tensor, mask: Tensor | None) -> Tensor:
        x_BTH += 1
        return tiny_teacher(x_BTH, mask)

    test = TransferTest(tiny_teacher, TEXTS)
    before = test(tiny_teacher)
    assert test(_Calls(add_in_place)) != before
    assert test(tiny_teacher) == before


def test_original_is_computed_once(
    tiny_teacher: TeacherSlice, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(
        module, "TransferTest", lambda teacher: made.append(teacher) or TransferTest(teacher)
    )
    assert transfer_test(tiny_teacher) is transfer_test(tiny_teacher)
    transfer(tiny_teacher, tiny_teacher)
    assert made == [tiny_teacher]


def test_cache_keeps_no_teacher_alive() -> None:
    teacher = random_bert(hidden_size=8, num_attention_heads=1, intermediate_size=4)
    transfer_test(teacher)
    gone = weakref.ref(teacher)
    del teacher
    gc.collect()
    assert gone() is None


def test_no_texts(tiny_teacher: TeacherSlice) -> None:
    with pytest.raises(ArgumentError, match="at least one text"):
        transfer(tiny_teacher, tiny_teacher, [])


@pytest.mark.gpu
def test_student_on_another_device(
    tiny_teacher: TeacherSlice, new_student: Callable[..., ApproximateAttention]
) -> None:
    student = new_student()
    here = transfer(student, tiny_teacher, TEXTS)
    there = TransferTest(tiny_teacher, TEXTS)(student.cuda())
    assert there == pytest.approx(here, abs=1e-4)
