"""A student family in a package of one's own: no file of slicewise names it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from slicewise import load_student
from slicewise.errors import SlicewiseError
from tests.sweep.conftest import Sweep

OWN_FAMILY = str(Path(__file__).parents[1] / "own_family")
STUDENT = ("student=custom", "student._target_=my_package.mine.Bottleneck")
TINY = ("experiment=tiny", "trainer.accelerator=cpu")


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package can be imported, but is not trusted."""
    monkeypatch.syspath_prepend(OWN_FAMILY)
    for name in ("my_package", "my_package.mine"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_it_is_swept_loaded_and_repeated(
    command: Callable[..., subprocess.CompletedProcess[str]],
    folder: Path,
    on_path: None,
) -> None:
    others = os.environ.get("PYTHONPATH")
    python_path = {"PYTHONPATH": os.pathsep.join(filter(None, [OWN_FAMILY, others]))}
    trust = {"SLICEWISE_TRUSTED": "my_package.*"}
    sweep = command(
        "sweep", "-m", "study=s", *TINY, *STUDENT, "+student.width=2,4", **python_path, **trust
    )
    assert sweep.returncode == 0, sweep.stderr
    students = [load_student(folder / f"multirun/s/{n}/student", ["my_package.*"]) for n in (0, 1)]
    assert sorted(student.config["width"] for student in students) == [2, 4]
    assert students[0](torch.randn(1, 3, 24)).shape == (1, 3, 24)

    again = command("sweep.rerun", "multirun/s/1", **python_path, **trust)
    assert again.returncode == 0, again.stderr
    assert "Identical to the bit." in again.stdout

    # Neither the configuration nor the student of a results folder runs it where it is not trusted.
    again = command("sweep.rerun", "multirun/s/1", **python_path)
    assert again.returncode == 1
    assert "student._target_=my_package.mine.Bottleneck: allowed: slicewise.*" in again.stderr
    assert "SLICEWISE_TRUSTED='my_package.*' python -m ..." in again.stderr
    assert "Traceback" not in again.stderr
    with pytest.raises(SlicewiseError, match=r"SLICEWISE_TRUSTED='my_package\.\*'"):
        load_student(folder / "multirun/s/1/student")


@pytest.mark.parametrize(
    ("trusted", "overrides", "message"),
    [
        ("", STUDENT, "student._target_=my_package.mine.Bottleneck: allowed: slicewise.*"),
        ("my_package.*", (*STUDENT, "+student.wings=2"), "student.wings=2: allowed: the arguments"),
        ("my_package.*", (*STUDENT, "+student.width=0"), "student.width=0: allowed: an integer"),
        (
            "my_package.*",
            (*STUDENT, "student.init=teacher"),
            "student.init=teacher: allowed: random",
        ),
        ("my_package.*", ("student=custom",), "student._target_=???: allowed: the dotted name"),
        ("my_package.*", ("student=custom", "student._target_=my_package.mine.Other"), "Other"),
        (
            "my_package.*",
            ("student=custom", "student._target_=my_package.nested.Outer.Inner"),
            "student._target_=my_package.nested.Outer.Inner: allowed: a class at the top of its",
        ),
        ("*", STUDENT, "SLICEWISE_TRUSTED=*: allowed: dotted names, and packages as my_package.*"),
    ],
)
def test_mistakes_are_one_message(
    trusted: str,
    overrides: tuple[str, ...],
    message: str,
    sweep: Sweep,
    on_path: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SLICEWISE_TRUSTED", trusted)
    assert sweep("study=s", *overrides) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
