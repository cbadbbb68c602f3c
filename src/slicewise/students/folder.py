"""A student on disk: a folder with `config.json` and `model.safetensors`."""

from __future__ import annotations

import importlib
import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.base import Student

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def save_student(student: Student, path: str | Path) -> Path:
    """Writes a student's folder; each file appears whole or not at all.

    Args:
        student: A student of any family in `slicewise.students`.
        path: The folder; made if it is missing.

    Returns:
        The folder.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in student.state_dict().items()}
    unfinished = folder / f".{WEIGHTS_NAME}.{os.getpid()}"
    save_file(tensors, unfinished, metadata={"format": "pt"})
    unfinished.replace(folder / WEIGHTS_NAME)

    family = type(student).__module__.rpartition(".")[2]
    unfinished = folder / f".{CONFIG_NAME}.{os.getpid()}"
    unfinished.write_text(json.dumps({"family": family, **student.config}, indent=2) + "\n")
    unfinished.replace(folder / CONFIG_NAME)
    return folder


def load_student(path: str | Path) -> Student:
    """Loads a student in eval mode, on the CPU.

    Args:
        path: A folder that `save_student` wrote, such as `multirun/<study>/<number>/student`.

    Raises:
        SlicewiseError: The folder is not a student's, or its files are damaged or do not fit
            together.
    """
    folder = Path(path)
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise SlicewiseError(
            f"{folder} is not a student's folder: it has no {' and no '.join(missing)}\n"
            "A trial keeps its student in multirun/<study>/<number>/student"
        )
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_NAME).read_text())
        family = config.pop("family", None)
        student = _student_class(family)(**config)
        student.load_state_dict(load_file(folder / WEIGHTS_NAME))
    except SafetensorError as error:
        raise SlicewiseError(f"{folder / WEIGHTS_NAME} is damaged: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, ArgumentError) as error:
        raise SlicewiseError(
            f"{folder / CONFIG_NAME} does not describe a student: {error}"
        ) from error
    except RuntimeError as error:
        raise SlicewiseError(f"{folder}: the weights do not fit the config: {error}") from error
    return student.eval()


def _student_class(family: str) -> type[Student]:
    """The one student class of a family.

    Only modules of `slicewise.students` are looked at: a config file must not be able to name
    code to run.
    """
    package = __name__.rpartition(".")[0]
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(family)):
        raise ValueError(f"family {family!r} is not a name")
    try:
        module = importlib.import_module(f"{package}.{family}")
    except ModuleNotFoundError:
        raise ValueError(f"there is no family {family!r} in {package}") from None
    classes = [
        member
        for member in vars(module).values()
        if isinstance(member, type)
        and issubclass(member, Student)
        and member.__module__ == module.__name__
        and member is not Student
    ]
    if len(classes) != 1:
        raise ValueError(f"{package}.{family} is not a student family")
    return classes[0]
