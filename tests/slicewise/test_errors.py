from __future__ import annotations

import pickle

import pytest

from slicewise.errors import ArgumentError, SlicewiseError


@pytest.mark.parametrize(
    ("value", "shown"),
    [(50, "50"), ("two", "two"), (None, "null"), (True, "true"), (0.5, "0.5")],
)
def test_value_is_shown_as_a_config_file_writes_it(value: object, shown: str) -> None:
    assert str(ArgumentError("value_dim", value, "a number")) == (
        f"value_dim={shown}: allowed: a number"
    )


def test_hint_comes_on_its_own_line() -> None:
    error = ArgumentError("pretrained", "x", "a folder", "Try teacher=minilm")
    assert str(error).splitlines() == ["pretrained=x: allowed: a folder", "Try teacher=minilm"]


def test_within_gives_the_full_key_and_keeps_the_rest() -> None:
    error = ArgumentError("value_dim", 50, "48", "Try 48").within("student")
    assert str(error) == "student.value_dim=50: allowed: 48\nTry 48"


def test_errors_cross_processes() -> None:
    error = ArgumentError("value_dim", 50, "48", "Try 48")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, SlicewiseError)
    assert str(copy) == str(error)
