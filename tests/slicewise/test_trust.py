"""A name in a file leads to a trusted class of the kind that is looked for, or nowhere."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicewise import students
from slicewise.errors import ArgumentError, ResourceError, SlicewiseError
from slicewise.students.approx import ApproximateAttention
from slicewise.students.base import Student
from slicewise.trust import find_class, is_trusted, name_of, trusted_by_user

STUDENTS = ("slicewise.students.*",)

PACKAGE = """
from pathlib import Path
Path({marker!r}).touch()
from slicewise.students.approx import ApproximateAttention
class Mine(ApproximateAttention):
    pass
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Exists once one of the packages `stranger` and `slicewise_students` has been imported."""
    marker = tmp_path / "imported"
    for name in ("stranger", "slicewise_students"):
        (tmp_path / name).mkdir()
        for file in ("__init__.py", "__main__.py", "students.py"):
            (tmp_path / name / file).write_text(PACKAGE.format(marker=str(marker)))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith(("stranger", "slicewise_"))]:
        monkeypatch.delitem(sys.modules, name)
    return marker


@pytest.mark.parametrize(
    "target",
    [
        # Elsewhere.
        "os.system",
        "builtins.__import__",
        "builtins.eval",
        "subprocess.Popen",
        "importlib.import_module",
        "torch.load",
        "stranger.Mine",
        "stranger.students.Mine",
        "slicewise_students.Mine",
        "slicewise.errors.json.loads",
        "slicewise.teacher.load_slice",
        "slicewise.students",
        # There, but not what is looked for.
        "slicewise.students.folder",
        "slicewise.students.folder.load_student",
        "slicewise.students.folder.Path",
        "slicewise.students.folder._FAMILIES",
        "slicewise.students.approx.nn",
        "slicewise.students.approx.ArgumentError",
        "slicewise.students.low_rank.LowRankLinear",
        "slicewise.students.base.Student",
        "slicewise.students.approx.NoSuchClass",
        "slicewise.students.no_such_module.Student",
        # Through what is there to what is elsewhere.
        "slicewise.students.x.__import__",
        "slicewise.students.folder.json.loads",
        "slicewise.students.folder.importlib.import_module",
        "slicewise.students.folder.os.system",
        "slicewise.students.approx.__builtins__.eval",
        "slicewise.students.approx.__loader__.load_module",
        "slicewise.students.approx.ApproximateAttention.load_state_dict",
        "slicewise.students.approx.ApproximateAttention.__init__",
        "slicewise.students.__init__.Mine",
        # No names.
        "",
        ".",
        "Mine",
        "slicewise.students.",
        "slicewise.students..approx.ApproximateAttention",
        ".slicewise.students.approx.ApproximateAttention",
        "slicewise.students.*",
        "slicewise.students.approx:ApproximateAttention",
        "slicewise/students/approx.ApproximateAttention",
        "../stranger.Mine",
        "slicewise.students.approx.ApproximateAttention\n",
        " slicewise.students.approx.ApproximateAttention",
        None,
        7,
        ["slicewise.students.approx.ApproximateAttention"],
        {"slicewise": "students"},
    ],
)
def test_all_other_targets_are_refused_and_nothing_is_run(target: Any, marker: Path) -> None:
    for module in pkgutil.iter_modules(students.__path__, "slicewise.students."):
        importlib.import_module(module.name)
    before = set(sys.modules)
    with pytest.raises(SlicewiseError) as caught:
        find_class(target, Student, STUDENTS)
    assert str(caught.value).startswith(f"_target_={'null' if target is None else target}")
    assert not marker.exists()
    assert set(sys.modules) == before


@pytest.mark.usefixtures("marker")
def test_a_class_counts_by_where_it_was_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted module has imported a stranger's: its class is there, and still a stranger's."""
    import slicewise.students.approx as approx

    stranger = type("Mine", (ApproximateAttention,), {"__module__": "stranger"})
    monkeypatch.setattr(approx, "Mine", stranger, raising=False)
    with pytest.raises(ArgumentError, match=r"^_target_=stranger\.Mine: allowed: slicewise"):
        find_class("slicewise.students.approx.Mine", Student, STUDENTS)
    # The other way round there is nothing to object to.
    target = "stranger.students.ApproximateAttention"
    assert find_class(target, Student, ("stranger.*", *STUDENTS)) is ApproximateAttention


def test_a_trusted_package_is_imported(marker: Path) -> None:
    found = find_class("stranger.students.Mine", Student, ("stranger.*",))
    assert issubclass(found, ApproximateAttention)
    assert name_of(found) == "stranger.students.Mine"
    assert marker.exists()


def test_a_program_is_not_imported(marker: Path) -> None:
    with pytest.raises(ArgumentError):
        find_class("stranger.__main__.Mine", Student, ("stranger.*",))
    assert not marker.exists()


def test_a_refusal_says_what_is_trusted_and_what_would_work() -> None:
    with pytest.raises(ArgumentError) as caught:
        find_class("my_package.mine.Bottleneck", Student, ("slicewise.students.*", "a.B"))
    assert str(caught.value) == (
        "_target_=my_package.mine.Bottleneck: allowed: slicewise.students.*, a.B\n"
        "If you trust that code: SLICEWISE_TRUSTED='my_package.*' python ..."
    )


def test_a_module_that_is_not_here() -> None:
    with pytest.raises(ResourceError) as caught:
        find_class("no_such_package.mine.Bottleneck", Student, ("no_such_package.*",))
    assert str(caught.value) == (
        "_target_=no_such_package.mine.Bottleneck: No module named 'no_such_package'\n"
        "Is it installed, or its folder on PYTHONPATH?"
    )


_NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)


@given(st.lists(_NAMES, min_size=2, max_size=4), st.lists(_NAMES, min_size=1, max_size=4))
def test_a_package_is_trusted_with_all_below_it_and_nothing_beside_it(
    target: list[str], package: list[str]
) -> None:
    below = len(target) > len(package) and target[: len(package)] == package
    assert is_trusted(".".join(target), [".".join(package) + ".*"]) == below
    assert is_trusted(".".join(target), [".".join(package)]) == (target == package)


@pytest.mark.parametrize(
    ("value", "patterns"),
    [
        ("", ()),
        (" , ", ()),
        ("my_package.*", ("my_package.*",)),
        ("a.*,b.mine.Student, c.*", ("a.*", "b.mine.Student", "c.*")),
    ],
)
def test_what_the_user_trusts(
    value: str, patterns: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLICEWISE_TRUSTED", value)
    assert trusted_by_user() == patterns
    monkeypatch.delenv("SLICEWISE_TRUSTED")
    assert trusted_by_user() == ()


@pytest.mark.parametrize("pattern", ["*", ".*", "my_*", "*.mine", "my_package.*.*", "a b", "a/b"])
def test_everything_is_not_a_pattern(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEWISE_TRUSTED", f"good.*,{pattern}")
    with pytest.raises(ArgumentError) as caught:
        trusted_by_user()
    assert str(caught.value).startswith(f"SLICEWISE_TRUSTED={pattern}: allowed: dotted names")
