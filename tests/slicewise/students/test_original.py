from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from slicewise.cost import count_parameters
from slicewise.errors import ArgumentError
from slicewise.students.folder import load_student, save_student
from slicewise.students.original import Original
from slicewise.teacher import TeacherSlice, minilm
from tests.slicewise.teachers import loud_teacher, noise


def _student(teacher: TeacherSlice) -> Original:
    student = Original(**Original.sizes_from(teacher)).eval()
    student.start_from(teacher, noise(1))
    return student


@pytest.mark.parametrize("new_teacher", [loud_teacher, minilm])
def test_it_is_the_teacher(new_teacher: Callable[[], TeacherSlice], tmp_path: Path) -> None:
    teacher = new_teacher()
    loaded = load_student(save_student(_student(teacher), tmp_path))
    x_BTH = torch.randn(2, 6, teacher.hidden_size)
    mask = torch.zeros(2, 1, 1, 6)
    mask[0, ..., 4:] = torch.finfo(torch.float32).min
    for arguments in ((x_BTH,), (x_BTH, mask)):
        torch.testing.assert_close(loaded(*arguments), teacher(*arguments), atol=1e-5, rtol=0)
    assert count_parameters(loaded) == count_parameters(teacher)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 1}, "num_layers=1: allowed: 2, as the teacher has"),
        ({"intermediate_size": 8}, "intermediate_size=8: allowed: 32"),
        ({"hidden_act": "relu"}, "hidden_act=relu: allowed: gelu"),
    ],
)
def test_only_the_whole_slice_is_the_original(sizes: dict[str, Any], message: str) -> None:
    teacher = loud_teacher()
    student = Original(**{**Original.sizes_from(teacher), **sizes})
    with pytest.raises(ArgumentError, match=message):
        student.start_from(teacher)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 0}, "num_layers=0: allowed: an integer of at least 1"),
        ({"num_attention_heads": 7}, "num_attention_heads=7: allowed: a divisor of input_dim=24"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Original(**{**Original.sizes_from(loud_teacher()), **sizes})
