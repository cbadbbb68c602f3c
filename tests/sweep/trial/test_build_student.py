"""`student=…` on the command line, as a student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from slicewise.errors import ArgumentError
from slicewise.students.base import Student
from slicewise.teacher import TeacherSlice
from sweep import application
from sweep.trial.build import build
from sweep.trial.parts import build_student
from tests.slicewise.teachers import noise

_CONFIGURED = (application.config_directory() / "student").glob("*.yaml")
# "tiny" is a size of "approx", "custom" any family of another package.
FAMILIES = sorted({path.stem for path in _CONFIGURED} - {"tiny", "custom"})
# For a teacher 24 wide.
SIZES = {"low_rank": ["student.rank=24"]}

NewStudent = Callable[..., tuple[Student, TeacherSlice]]


@pytest.fixture
def new_student() -> NewStudent:
    """Makes the student of a command line, for the tiny experiment's teacher."""

    def make(*overrides: str, num_batches: int = 0) -> tuple[Student, TeacherSlice]:
        with initialize_config_dir(str(application.config_directory()), job_name="sweep"):
            config = compose("config", ["teacher=random_bert", *TINY, *overrides])
        teacher: TeacherSlice = build("teacher", config.teacher)
        torch.manual_seed(0)
        node: Any = OmegaConf.to_container(config.student, resolve=True)
        return build_student(node, teacher, noise(num_batches)).eval(), teacher

    return make


TINY = [
    "teacher.hidden_size=24",
    "teacher.num_hidden_layers=2",
    "teacher.num_attention_heads=2",
    "teacher.intermediate_size=32",
    "study=s",
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_batches", [0, 2])
def test_every_family_is_built_as_it_is_configured(
    family: str, num_batches: int, new_student: NewStudent
) -> None:
    student, _ = new_student(f"student={family}", *SIZES.get(family, []), num_batches=num_batches)
    assert type(student).__module__ == f"slicewise.students.{family}"
    assert student(torch.randn(2, 6, 24)).shape == (2, 6, 24)
    assert student.is_trainable == (family not in ("linear", "nothing", "original"))


@pytest.mark.parametrize(
    "overrides",
    [
        ["student=original"],
        ["student=bert_layer", "student.num_layers=null"],
        ["student=low_rank", "student.rank=24"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_what_is_left_open_is_the_teachers(overrides: list[str], new_student: NewStudent) -> None:
    student, teacher = new_student(*overrides)
    x_BTH = torch.randn(2, 6, 24)
    with torch.no_grad():
        torch.testing.assert_close(student(x_BTH), teacher(x_BTH), atol=1e-5, rtol=0)


def test_random_weights_are_the_constructors(new_student: NewStudent) -> None:
    student, _ = new_student("student=bert_layer", "student.init=random")
    torch.manual_seed(0)
    fresh = type(student)(**student.config)
    assert all(map(torch.equal, student.parameters(), fresh.parameters()))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student=approx", "student.init=teacher"], "student.init=teacher: allowed: random"),
        (["student=linear", "student.init=random"], "student.init=random: allowed: teacher"),
        (
            ["student=bert_layer", "student.init=zero"],
            "student.init=zero: allowed: random or teacher",
        ),
        (["student=bert_layer", "student.init=null"], "student.init=null: allowed: random or"),
        (
            ["student=bert_layer", "student.intermediate_size=33"],
            "student.intermediate_size=33: allowed: 1 to 32",
        ),
        (
            ["student=bert_layer", "student.input_dim=7"],
            "student.input_dim=7: allowed: null or 24, the hidden size of the teacher",
        ),
        (
            ["student=bert_layer", "student.dropout=null"],
            "student.dropout=null: allowed: a number",
        ),
        (["student=low_rank", "student.rank=25"], "student.rank=25: allowed: 1 to 24"),
        (["student=custom"], "student._target_=???: allowed: the dotted name of a class"),
        (
            ["student._target_=slicewise.teacher.minilm"],
            "student._target_=slicewise.teacher.minilm: allowed: a subclass of Student",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_name_the_key(overrides: list[str], message: str, new_student: NewStudent) -> None:
    with pytest.raises(ArgumentError) as caught:
        new_student(*overrides)
    assert str(caught.value).startswith(message)
