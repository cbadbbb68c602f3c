"""All student families: those of slicewise, found by looking, and one of another package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from slicewise import students
from slicewise.data.batch import Batch
from slicewise.students.base import Student
from slicewise.students.nothing import Nothing
from slicewise.teacher import TeacherSlice

ROOT = Path(__file__).parents[3]
OWN_FAMILY = ROOT / "tests" / "own_family"
CONFIGS = {path.stem: path for path in (ROOT / "conf" / "student").glob("*.yaml")}


@dataclass(frozen=True)
class Family:
    """A family, as a user meets it.

    Attributes:
        student: The class.
        config: The arguments in its file in conf/student, `init` among them; None stands for the
            teacher's. Empty for a family of another package.
    """

    student: type[Student]
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.student.__module__.rpartition(".")[2]

    @property
    def starts_from_teacher(self) -> bool:
        return "teacher" in self.student.initialisations

    @property
    def has_weights(self) -> bool:
        """All but the one that is nothing."""
        return self.student is not Nothing

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The constructor's."""
        return dict(inspect.signature(self.student).parameters)

    def new(self, teacher: TeacherSlice, **arguments: Any) -> Student:
        """As it is configured, the same weights each time."""
        own = {key: value for key, value in self.config.items() if key != "init"}
        sizes = self.student.sizes_from(teacher)
        open_ = {key: size for key, size in sizes.items() if own.get(key) is None}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return self.student(**{**own, **open_, **arguments})

    def started(self, teacher: TeacherSlice, batches: list[Batch], **arguments: Any) -> Student:
        """With its first weights from the teacher, if they can be."""
        student = self.new(teacher, **arguments)
        if self.starts_from_teacher:
            student.start_from(teacher, batches)
        return student


def _found() -> list[type[Student]]:
    """The families of slicewise."""
    names = [module.name for module in pkgutil.iter_modules(students.__path__)]
    modules = [importlib.import_module(f"{students.__name__}.{name}") for name in names]
    return [
        member
        for module in modules
        for member in vars(module).values()
        if isinstance(member, type)
        and issubclass(member, Student)
        and member.__module__ == module.__name__
        and not inspect.isabstract(member)
    ]


def _own() -> type[Student]:
    """The family of a package that is on the path only while it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(OWN_FAMILY)
        family: type[Student] = importlib.import_module("my_package.mine").Bottleneck
        return family


def _configured(student: type[Student]) -> Family:
    """With its configuration; a family without one has none to show, and a test says so."""
    path = CONFIGS.get(student.__module__.rpartition(".")[2])
    if path is None:
        return Family(student)
    config: Any = OmegaConf.to_container(OmegaConf.load(path))
    config.pop("_target_")
    return Family(student, config)


FAMILIES = [_configured(student) for student in _found()]
ALL_FAMILIES = [*FAMILIES, Family(_own())]
