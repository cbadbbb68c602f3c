"""What every student family must be; the sizes are as small as they may be.

Shapes: B batch, T tokens, H hidden size.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from slicewise import SlicewiseError, load_student, save_student
from slicewise.attention import MASKED
from slicewise.teacher import TeacherSlice, random_bert
from torch import Tensor

from my_package.student import MyStudent

H = 24


@pytest.fixture
def teacher() -> TeacherSlice:
    return random_bert(
        hidden_size=H, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )


@pytest.fixture
def student(teacher: TeacherSlice) -> MyStudent:
    torch.manual_seed(0)
    return MyStudent(**MyStudent.sizes_from(teacher), width=4).eval()


def noise(seed: int = 0) -> Tensor:
    return torch.randn(2, 5, H, generator=torch.Generator().manual_seed(seed))


def mask(*lengths: int) -> Tensor:
    is_real_BT = torch.arange(5) < torch.tensor(lengths)[:, None]
    return torch.where(is_real_BT, 0.0, MASKED)[:, None, None]


def test_it_takes_and_returns_hidden_states(student: MyStudent, teacher: TeacherSlice) -> None:
    x_BTH = noise()
    for attention_mask in (None, mask(3, 5)):
        y_BTH = student(x_BTH, attention_mask)
        assert y_BTH.shape == x_BTH.shape == teacher(x_BTH, attention_mask).shape
        assert y_BTH.isfinite().all()


def test_padding_never_influences_real_tokens(student: MyStudent) -> None:
    x_BTH, other_BTH = noise(), noise()
    other_BTH[0, 3:] = 100.0
    y_BTH, z_BTH = student(x_BTH, mask(3, 5)), student(other_BTH, mask(3, 5))
    assert torch.equal(y_BTH[0, :3], z_BTH[0, :3])
    assert torch.equal(y_BTH[1], z_BTH[1])


def test_every_parameter_learns(student: MyStudent) -> None:
    # Not a sum: a layer norm makes the sum of its outputs a constant.
    student(noise()).pow(3).sum().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_folder_keeps_it_to_the_bit(student: MyStudent, tmp_path: Path) -> None:
    loaded = load_student(save_student(student, tmp_path), trusted=["my_package.*"])
    assert loaded.config == student.config
    assert torch.equal(loaded(noise(), mask(3, 5)), student(noise(), mask(3, 5)))


def test_a_wrong_size_is_refused_by_its_name() -> None:
    with pytest.raises(SlicewiseError, match=r"^width=0: allowed: "):
        MyStudent(input_dim=H, width=0)
