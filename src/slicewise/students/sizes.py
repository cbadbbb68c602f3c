"""Sizes of a student that have to fit the teacher's, where its weights come from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slicewise.errors import ArgumentError
from slicewise.students.base import Student

if TYPE_CHECKING:
    from slicewise.teacher import TeacherSlice


def check_hidden_size(student: Student, teacher: TeacherSlice) -> None:
    """Refuses a student whose `input_dim` is not the teacher's hidden size.

    Raises:
        ArgumentError: It is not.

    Example:
        >>> from slicewise.students.linear import Linear
        >>> from slicewise.teacher import random_bert
        >>> teacher = random_bert(hidden_size=24, num_attention_heads=2, intermediate_size=32)
        >>> check_hidden_size(Linear(12), teacher)
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: input_dim=12: allowed: 24, the hidden size of the teacher
    """
    size = teacher.hidden_size
    if student.config["input_dim"] != size:
        _refuse(student, "input_dim", f"{size}, the hidden size of the teacher")


def check_same(student: Student, sizes: Mapping[str, Any]) -> None:
    """Refuses a student that does not have these sizes.

    Args:
        student: Its `config` has them.
        sizes: The teacher's, by the student's names.

    Raises:
        ArgumentError: For the first that is another.

    Example:
        >>> from slicewise.students.bert_layer import BertLayer
        >>> check_same(BertLayer(24, num_layers=1), {"input_dim": 24})
        >>> check_same(BertLayer(24, num_layers=1), {"num_layers": 2})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: num_layers=1: allowed: 2, as the teacher has, ...
    """
    for name, size in sizes.items():
        if student.config[name] != size:
            _refuse(student, name, f"{size}, as the teacher has, where the weights come from it")


def check_at_most(student: Student, sizes: Mapping[str, int]) -> None:
    """Refuses a student that has more of something.

    Args:
        student: Its `config` has these sizes.
        sizes: The teacher's, by the student's names.

    Raises:
        ArgumentError: For the first of which it has more.

    Example:
        >>> from slicewise.students.bert_layer import BertLayer
        >>> check_at_most(BertLayer(24, num_layers=1), {"num_layers": 2})
        >>> check_at_most(BertLayer(24, num_layers=3), {"num_layers": 2})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        slicewise.errors.ArgumentError: num_layers=3: allowed: 1 to 2, what the teacher has, ...
    """
    for name, size in sizes.items():
        if student.config[name] > size:
            _refuse(
                student,
                name,
                f"1 to {size}, what the teacher has, where the weights come from it",
                "For a larger one: student.init=random",
            )


def _refuse(student: Student, name: str, allowed: str, hint: str = "") -> None:
    raise ArgumentError(name, student.config[name], allowed, hint)
