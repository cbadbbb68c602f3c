"""Hydra's sweep grammar, through the storage, and back."""

from __future__ import annotations

import json
import math
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from slicewise.errors import SlicewiseError
from sweep.overrides import override_text
from sweep.study.space import SearchSpace

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), max_size=12),
)


def parsed(override: str) -> Any:
    return OverridesParser.create().parse_override(override).value()


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a == b


@given(SCALARS)
def test_a_value_as_override_text_is_read_as_the_same_value(value: Any) -> None:
    assert same(parsed(f"key={override_text(value)}"), value)


@given(st.lists(SCALARS, min_size=2, max_size=5, unique_by=json.dumps))
def test_choices_survive_the_storage(values: list[Any]) -> None:
    argument = "key=" + ",".join(override_text(value) for value in values)
    space = SearchSpace.parse([argument])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point, value in zip(space.points(), values, strict=True):
        study.enqueue_trial(point)
        params = space.suggest(None, study.ask())
        assert same(params["key"], point["key"])
        [override] = space.overrides(params)
        assert same(parsed(override), value)


@pytest.mark.parametrize(
    ("argument", "values", "overrides"),
    [
        ("k=1,2,4", [1, 2, 4], ["k=1", "k=2", "k=4"]),
        ("k=null,1", [None, 1], ["k=null", "k=1"]),
        ("k=true,false", [True, False], ["k=true", "k=false"]),
        ("k='a,b',c", ["a,b", "c"], ["k='a,b'", "k=c"]),
        ("k='1',1", ["1", 1], ["k='1'", "k=1"]),
        ("k='null',null", ["null", None], ["k='null'", "k=null"]),
        ("k=[1,2],[3]", ["[1,2]", "[3]"], ["k=[1,2]", "k=[3]"]),
        ("k={a:1},{a:2}", ["{a:1}", "{a:2}"], ["k={a:1}", "k={a:2}"]),
        ("a.b.c=1,2", [1, 2], ["a.b.c=1", "a.b.c=2"]),
        ("+k=x,y", ["x", "y"], ["+k=x", "+k=y"]),
        ("student=approx,low_rank", ["approx", "low_rank"], ["student=approx", "student=low_rank"]),
        ("k=range(1,4)", [1, 2, 3], ["k=1", "k=2", "k=3"]),
        ("k=range(0,1,0.25)", [0.0, 0.25, 0.5, 0.75], ["k=0.0", "k=0.25", "k=0.5", "k=0.75"]),
        ("k=int(interval(1,3))", [1, 2, 3], ["k=1", "k=2", "k=3"]),
        ("k=1e-3,1e-4", [1e-3, 1e-4], ["k=0.001", "k=0.0001"]),
    ],
)  # fmt: skip
def test_points_and_their_overrides(argument: str, values: list[Any], overrides: list[str]) -> None:
    space = SearchSpace.parse([argument])
    points = list(space.points())
    assert [next(iter(point.values())) for point in points] == values
    assert len(points) == space.size()
    assert [space.overrides(point)[0] for point in points] == overrides


def test_sizes() -> None:
    assert SearchSpace.parse(["a=1,2", "b=range(0,5)"]).size() == 10
    assert SearchSpace.parse(["a=1"]).size() == 1
    assert SearchSpace.parse(["a=1,2", "b=interval(0.0,1)"]).size() == math.inf
    assert SearchSpace.parse(["a=1,2"], custom=lambda config, trial: None).size() == math.inf


def test_intervals_become_distributions() -> None:
    space = SearchSpace.parse(["a=tag(log,interval(1e-5,1e-2))", "b=int(interval(1,8))"])
    assert space.dimensions["a"].distribution == FloatDistribution(1e-5, 1e-2, log=True)
    assert space.dimensions["b"].distribution == IntDistribution(1, 8)


def test_the_last_of_two_overrides_counts() -> None:
    space = SearchSpace.parse(["a=1,2", "b=3", "a=7", "b=4,5"])
    assert space.fixed == {"a": "7"}
    assert list(space.dimensions) == ["b"]


def test_fixed_deleted_and_extended_keys_are_part_of_every_trial() -> None:
    space = SearchSpace.parse(["a=1,2", "b='x y'", "~c", "d=extend_list(3)"])
    assert space.overrides({"a": 1}) == ["a=1", "b='x y'", "~c", "d=extend_list(3)"]


def test_a_custom_space_suggests_from_what_is_there() -> None:
    def conditional(config: Any, trial: optuna.Trial) -> None:
        if trial.params["family"] == "deep":
            trial.suggest_int("depth", 2, 5)
        trial.suggest_float("+width", float(trial.user_attrs["least"]), 3.0)

    space = SearchSpace.parse(["family=deep,flat", "least=2.5"], custom=conditional)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        params = space.suggest(None, study.ask())
        assert ("depth" in params) == (params["family"] == "deep")
        assert 2.5 <= params["+width"] <= 3.0
        assert f"+width={params['+width']!r}" in space.overrides(params)


def test_a_key_both_fixed_and_suggested_is_a_mistake() -> None:
    space = SearchSpace.parse(["a=1"])
    with pytest.raises(SlicewiseError, match="a: both fixed on the command line and suggested"):
        space.overrides({"a": 2})


@pytest.mark.parametrize("argument", ["a=range(3,3)", "a=range(1,5,0)"])
def test_a_sweep_without_values_is_a_mistake(argument: str) -> None:
    with pytest.raises(SlicewiseError, match="a="):
        SearchSpace.parse([argument])


def test_descriptions_differ_where_spaces_do() -> None:
    one = SearchSpace.parse(["a=1,2", "b=interval(0,1)"]).describe()
    assert one == SearchSpace.parse(["b=interval(0,1)", "a=1,2"]).describe()
    assert one != SearchSpace.parse(["a=1,2,3", "b=interval(0,1)"]).describe()
    assert json.loads(json.dumps(one)) == one
