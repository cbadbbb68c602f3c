"""A student on disk: a folder with `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from slicewise.atomic import write_atomically
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.students.base import Student
from slicewise.trust import find_class, name_of, trusted_by_user

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

TRUSTED = ("slicewise.students.*",)
# Version 0.1.0 wrote "family" in the place of "_target_", and knew these.
_FAMILIES = {
    "approx": "slicewise.students.approx.ApproximateAttention",
    "approx_ffn": "slicewise.students.approx_ffn.ApproximateAttentionWithFeedForward",
    "bert_layer": "slicewise.students.bert_layer.BertLayer",
    "linear": "slicewise.students.linear.Linear",
    "low_rank": "slicewise.students.low_rank.LowRank",
    "original": "slicewise.students.original.Original",
}


def save_student(student: Student, path: str | Path) -> Path:
    """Writes a student's folder; each file appears whole or not at all.

    Args:
        student: A student of any family, also of your own.
        path: The folder; made if it is missing.

    Returns:
        The folder.

    Raises:
        ArgumentError: The student's class could never be found again: it was defined inside a
            function or another class.

    Example:
        >>> import os, tempfile
        >>> from slicewise.students.linear import Linear
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(sorted(os.listdir(save_student(Linear(input_dim=4), folder))))
        ['config.json', 'model.safetensors']
    """
    target = target_of(type(student))
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in student.state_dict().items()}
    write_atomically(
        folder / WEIGHTS_NAME,
        lambda unfinished: save_file(tensors, unfinished, metadata={"format": "pt"}),
    )
    description = json.dumps({"_target_": target, **student.config}, indent=2)
    write_atomically(folder / CONFIG_NAME, description + "\n")
    return folder


def load_student(path: str | Path, trusted: Iterable[str] = ()) -> Student:
    """Loads a student in eval mode, on the CPU.

    Its class is found by the `_target_` in `config.json`. A folder can be anyone's, and must not
    be able to run just anything: the class has to be a `Student` in `slicewise.students`, or in
    what you trust besides.

    Args:
        path: A folder that `save_student` wrote, such as `multirun/<study>/<number>/student`.
        trusted: Dotted names of classes, or packages such as `my_package.*`, that are trusted
            besides; so are those in the environment variable SLICEWISE_TRUSTED.

    Raises:
        SlicewiseError: The folder is not a student's, its files are damaged or do not fit
            together, or it names a class that is not trusted or not here.

    Example:
        >>> import tempfile
        >>> from slicewise.students.linear import Linear
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     student = load_student(save_student(Linear(input_dim=4), folder))
        >>> type(student).__name__, student.config
        ('Linear', {'input_dim': 4, 'ridge': 1e-06})

        One of another package: `load_student("multirun/mine/7/student", ["my_package.*"])`.
    """
    folder = Path(path)
    missing = [name for name in (CONFIG_NAME, WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise SlicewiseError(
            f"{folder} is not a student's folder: it has no {' and no '.join(missing)}\n"
            "A trial keeps its student in multirun/<study>/<number>/student"
        )
    config = _read_config(folder / CONFIG_NAME)
    try:
        family = find_class(
            config.pop("_target_"), Student, (*TRUSTED, *trusted_by_user(), *trusted)
        )
    except SlicewiseError as error:
        raise SlicewiseError(f"{folder / CONFIG_NAME}: {error}") from error
    try:
        student: Student = family(**config)
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


def target_of(family: type[Student]) -> str:
    """The dotted name by which a family is found again.

    Raises:
        ArgumentError: It was defined inside a function or another class, where nobody finds it.

    Example:
        >>> from slicewise.students.linear import Linear
        >>> target_of(Linear)
        'slicewise.students.linear.Linear'
    """
    if family.__qualname__ != family.__name__:
        raise ArgumentError("_target_", name_of(family), "a class at the top of its module")
    return name_of(family)


def _read_config(path: Path) -> dict[str, Any]:
    """What `config.json` says, the name of its class as `_target_`.

    Raises:
        SlicewiseError: It says nothing of the kind.
    """
    try:
        config = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise SlicewiseError(f"{path} does not describe a student: {error}") from error
    if not isinstance(config, dict) or not {"_target_", "family"} & config.keys():
        raise SlicewiseError(f"{path} does not describe a student: it has no _target_")
    if "_target_" not in config:
        family = config.pop("family")
        if not isinstance(family, str) or family not in _FAMILIES:
            raise SlicewiseError(f"{path}: {ArgumentError('family', family, ', '.join(_FAMILIES))}")
        config["_target_"] = _FAMILIES[family]
    return config
