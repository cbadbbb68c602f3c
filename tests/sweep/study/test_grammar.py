"""Hydra's override grammar, line by line: what a sweep runs, and what it refuses.

Each line is one of an application of one's own. What its trials get is compared with what Hydra's
own BasicSweeper gives to the jobs of the same line, and where that sweeper has no answer, with
single runs of Hydra.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import optuna
import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import env_override
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf._utils import split_key
from optuna.trial import TrialState

from sweep.console import exit_code_of
from sweep.study.compose import TrialComposer
from sweep.study.space import SearchSpace
from sweep.workers import sweeper as sweeper_module
from tests.sweep.conftest import Sweep

CONFIGURATION = {
    "config.yaml": """
        defaults:
          - _self_
          - db: mysql
          - style: null
          - plan: null
        a: 1
        b: 2
        half: 0.5
        flag: true
        text: plain
        items: [1, 2]
        map: {x: 1, y: 2}
        hydra:
          sweep: {dir: out}
          output_subdir: null
        """,
    "db/mysql.yaml": "port: 3306",
    "db/postgres.yaml": "{port: 5432, schema: public}",
    "db/sqlite.yaml": "path: x.db",
    "style/fancy.yaml": "colour: red",
    "style/plain.yaml": "colour: none",
    "plan/careful.yaml": """
        # @package _global_
        defaults:
          - override /db: postgres
        a: 10
        """,
    "plan/quick.yaml": """
        # @package _global_
        b: 20
        """,
    "plan/greedy.yaml": """
        # @package _global_
        hydra:
          sweeper: {max_failure_rate: 0.9}
        """,
}
ABSENT = "absent"
NO_SWEEPER: tuple[str, ...] = ()
BASIC = ("-m", "hydra/sweeper=basic")
OURS = (
    "-m",
    "hydra/sweeper=optuna_workers",
    "hydra.sweeper.storage=sqlite:///studies.db",
    "hydra.sweeper.study_name=s",
    "hydra.sweeper.n_trials=50",
)


@dataclass
class Ended:
    """How a command ended: its exit code, and the configurations its jobs were given."""

    code: int
    configs: list[dict[str, Any]]

    def values(self, key: str) -> list[Any]:
        """What the jobs had at a key."""
        return [_at(config, split_key(key)) for config in self.configs]


def _at(tree: Any, path: list[str]) -> Any:
    for part in path:
        tree = tree.get(part, ABSENT) if isinstance(tree, dict) else ABSENT
    return tree


def _named(study: str) -> tuple[str, str]:
    return f"hydra.sweeper.study_name={study}", f"hydra.sweep.dir={study}"


Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("conf")
    for name, text in CONFIGURATION.items():
        lines = text.strip("\n").rstrip().splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        path = home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")
    return home


@pytest.fixture
def run(configuration: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`python app.py ARGUMENTS`, in this process."""
    # What a study's report shows is no matter here, and would take a third of the time.
    monkeypatch.setattr(sweeper_module, "write_report", lambda *arguments: None)

    def call(sweeper: tuple[str, ...], *line: str) -> Ended:
        configs: list[dict[str, Any]] = []

        def task(config: Any) -> float:
            configs.append(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
            return 0.0

        launcher = ("hydra/launcher=basic",) if sweeper else ("hydra.run.dir=single",)
        monkeypatch.setattr(sys, "argv", ["app", *sweeper, *launcher, *line])
        GlobalHydra.instance().clear()
        main = hydra.main(config_path=str(configuration), config_name="config")
        with warnings.catch_warnings(), env_override({"HYDRA_FULL_ERROR": "1"}):
            # extend_list and json_str leave with Hydra 1.5.
            warnings.simplefilter("ignore")
            try:
                main(task)()
            except Exception as error:
                return Ended(exit_code_of(error), configs)
        return Ended(0, configs)

    return call


def plain(configs: list[DictConfig]) -> list[dict[str, Any]]:
    """What jobs would be given."""
    for config in configs:
        with open_dict(config):
            del config["hydra"]
    return [OmegaConf.to_container(config, resolve=True) for config in configs]  # type: ignore[misc]


def without_repetition(configs: list[dict[str, Any]]) -> list[str]:
    """A point is run once, however often it is written; as text, in which 1 is not true."""
    return list(dict.fromkeys(map(repr, configs)))


AS_HYDRA = [
    # Choices.
    (("a=1,2",), "a", [1, 2]),
    (("a=choice(1,2)",), "a", [1, 2]),
    (("a=choice(3)",), "a", [3]),
    (("a= 1 , 2 ",), "a", [1, 2]),
    (("a=2,1,2",), "a", [2, 1]),
    (("a=1,2", "b=3,4"), "b", [3, 4, 3, 4]),
    (("a=0x10,1_000",), "a", ["0x10", 1000]),
    (("a=1e3,-inf,nan",), "a", [1000.0, float("-inf"), float("nan")]),
    (("a=1,1.0,true",), "a", [1, 1.0, True]),
    (("a=0,false,0.0,null,''",), "a", [0, False, 0.0, None, ""]),
    (("flag=true,False",), "flag", [True, False]),
    (("a=null,1",), "a", [None, 1]),
    # Strings.
    (("text='a,b',c",), "text", ["a,b", "c"]),
    (("text='1',1",), "text", ["1", 1]),
    (("text='null',null",), "text", ["null", None]),
    (("text='',x",), "text", ["", "x"]),
    (("text=a b,c",), "text", ["a b", "c"]),
    ((r"text=a\,b,c",), "text", ["a,b", "c"]),
    ((r"text=a\=b,\[x\],\{y\},\(z\)",), "text", ["a=b", "[x]", "{y}", "(z)"]),
    ((r"text=a\ b,c\\d",), "text", ["a b", r"c\d"]),
    (("text=a:b,http://h/p",), "text", ["a:b", "http://h/p"]),
    (("text=\"it's\",'say \"x\"'",), "text", ["it's", 'say "x"']),
    ((r"text='it\'s','a\\b'",), "text", ["it's", r"a\\b"]),
    (("text='grün','日本'",), "text", ["grün", "日本"]),
    (("text=./a/b.txt,*.txt",), "text", ["./a/b.txt", "*.txt"]),
    # Lists and maps.
    (("items=[1,2],[3]",), "items", [[1, 2], [3]]),
    (("items=[],[a,'b c',null]",), "items", [[], ["a", "b c", None]]),
    (("items=[[1],[2]],[{x:1}]",), "items", [[[1], [2]], [{"x": 1}]]),
    (("items=[1,2],'[1,2]'",), "items", [[1, 2], "[1,2]"]),
    (("map={x:5},{y:6}",), "map", [{"x": 5, "y": 2}, {"x": 1, "y": 6}]),
    (("map={x:5},{x:6}", "map.y=8,9"), "map",
     [{"x": x, "y": y} for x in (5, 6) for y in (8, 9)]),
    (("map.y=8,9", "map={x:5},{y:7}"), "map.y", [8, 7, 9, 7]),
    (("items[0]=5,6",), "items", [[5, 2], [6, 2]]),
    (("items=[3,4]", "items[0]=5,6"), "items", [[5, 4], [6, 4]]),
    (("items=sort([3,1]),sort([2,4],reverse=true)",), "items", [[1, 3], [4, 2]]),
    # Ranges.
    (("a=range(3)",), "a", [0, 1, 2]),
    (("a=range(1,4)",), "a", [1, 2, 3]),
    (("a=range(1,8,3)",), "a", [1, 4, 7]),
    (("a=range(5,1,-2)",), "a", [5, 3]),
    (("a=range(start=1,stop=3)",), "a", [1, 2]),
    (("a=range(9007199254740992,9007199254740995)",), "a",
     [9007199254740992, 9007199254740993, 9007199254740994]),
    (("half=range(0,1,0.25)",), "half", [0.0, 0.25, 0.5, 0.75]),
    (("half=range(0.1,0.75,0.1)",), "half", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
    (("half=range(1,0,-0.3)",), "half", [1.0, 0.7, 0.4, 0.1]),
    (("half=float(range(1,4))",), "half", [1.0, 2.0, 3.0]),
    (("a=int(range(0,2,0.5))",), "a", [0, 1]),
    # Order.
    (("a=sort(3,1,2)",), "a", [1, 2, 3]),
    (("a=sort(3,1,2,reverse=true)",), "a", [3, 2, 1]),
    (("a=sort(choice(b,c,a))",), "a", ["a", "b", "c"]),
    (("a=sort(range(1,4),reverse=true)",), "a", [3, 2, 1]),
    (("half=sort(range(0,0.3,0.1),reverse=true)",), "half", [0.2, 0.1, 0.0]),
    (("a=sort(shuffle(3,1,2))",), "a", [1, 2, 3]),
    # Tags and casts.
    (("a=tag(choice(1,2))",), "a", [1, 2]),
    (("a=tag(one,two,choice(1,2))",), "a", [1, 2]),
    (("a=tag(log,range(1,4))",), "a", [1, 2, 3]),
    (("a=int(1.5,2)",), "a", [1, 2]),
    (("a=float(1,2)",), "a", [1.0, 2.0]),
    (("a=float(int(choice(1.5,2.5)))",), "a", [1.0, 2.0]),
    (("flag=bool(choice(0,1))",), "flag", [False, True]),
    (("text=str(choice(a,b))",), "text", ["a", "b"]),
    (("items=int([1.5,2.5]),[3]",), "items", [[1, 2], [3]]),
    # Interpolations.
    (("a=1,2", "b=${a}"), "b", [1, 2]),
    (("a=1,2", "b=${a},7"), "b", [1, 7, 2, 7]),
    (("b=${a}", "a=1,2"), "b", [1, 2]),
    (("text=${db.port},x",), "text", [3306, "x"]),
    (("db=mysql,postgres", "text=port-${db.port}"), "text", ["port-3306", "port-5432"]),
    (("text=${oc.env:NOWHERE,x},y",), "text", ["x", "y"]),
    (("text='${oc.env:NOWHERE,${a}}',y", "a=1,2"), "text", ["1", "2", "y", "y"]),
    ((r"text='\${a}',y",), "text", ["${a}", "y"]),
    ((r"text=\${a},y",), "text", ["${a}", "y"]),
    (("map.x=${map.y}", "map.y=3,4"), "map.x", [3, 4]),
    # Keys.
    (("+new=1,2",), "new", [1, 2]),
    (("+map.new=1,2",), "map.new", [1, 2]),
    (("++a=3,4",), "a", [3, 4]),
    (("++new=3,4",), "new", [3, 4]),
    (("+new=1", "new=2,3"), "new", [2, 3]),
    (("+new.x=1", "++new.y=2,3"), "new", [{"x": 1, "y": 2}, {"x": 1, "y": 3}]),
    (("a=5", "++a=1,2"), "a", [1, 2]),
    (("a=5,6", "a=1,2"), "a", [1, 2]),
    (("a=5,6", "a=1"), "a", [1]),
    (("text=", "a=1,2"), "text", ["", ""]),
    (("text=''", "a=1,2"), "text", ["", ""]),
    ((r"+odd\.key=1,2",), r"odd\.key", None),
    # Groups.
    (("db=mysql,postgres",), "db", [{"port": 3306}, {"port": 5432, "schema": "public"}]),
    (("db=glob(*)",), "db.port", [3306, 5432, ABSENT]),
    (("db=glob(*sql*)",), "db.port", [3306, ABSENT]),
    (("db=glob([m*,p*])",), "db.port", [3306, 5432]),
    (("db=glob(*,exclude=my*)",), "db.port", [5432, ABSENT]),
    (("db=glob([*],exclude=[my*,po*])",), "db.port", [ABSENT]),
    (("db='mysql',postgres",), "db.port", [3306, 5432]),
    (("db=[mysql,postgres],sqlite",), "db.port", [5432, ABSENT]),
    (("db=[],mysql",), "db", [ABSENT, {"port": 3306}]),
    (("db={port:1},{port:2}",), "db.port", [1, 2]),
    (("db=mysql,postgres", "db.port=1,2"), "db.port", [1, 2, 1, 2]),
    (("db=mysql,sqlite", "++db.port=1"), "db.port", [1, 1]),
    (("db=mysql,postgres", "++db.schema=s,t"), "db.schema", ["s", "t", "s", "t"]),
    (("style=plain,fancy",), "style.colour", ["none", "red"]),
    (("+db@second=mysql,postgres",), "second.port", [3306, 5432]),
    (("+db@second=mysql", "db@second=postgres,sqlite"), "second.port", [5432, ABSENT]),
    (("+db@second.inner=mysql", "+db@second.inner.deep=postgres,mysql"), "second", None),
    (("+db@=mysql,postgres",), "port", [3306, 5432]),
    (("plan=careful,quick",), "db.port", [5432, 3306]),
    (("plan=careful,quick", "db=sqlite,mysql"), "db.port", [ABSENT, 3306, ABSENT, 3306]),
    (("plan=careful,quick", "a=5"), "a", [5, 5]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "key", "values"), AS_HYDRA, ids=[" ".join(row[0]) for row in AS_HYDRA]
)
def test_a_line_has_the_points_of_hydras_own_sweeper(
    configuration: Path, line: tuple[str, ...], key: str, values: list[Any] | None
) -> None:
    with initialize_config_dir(str(configuration)):
        hydra_ = GlobalHydra.instance().hydra
        assert hydra_ is not None
        loader = hydra_.config_loader
        config = hydra_.compose_config("config", [*line], run_mode=RunMode.MULTIRUN)
        overrides = OverridesParser.create(config_loader=loader).parse_overrides([*line])
        [jobs] = BasicSweeper.split_arguments(overrides, None)
        theirs = plain([loader.load_sweep_config(config, job) for job in jobs])

        space = SearchSpace.parse(line, loader=loader)
        composer = TrialComposer(config, HydraContext(loader, Callbacks()), space)
        composer.check()
        ours = plain([composer.compose(point) for point in space.points()])
    assert without_repetition(ours) == without_repetition(theirs)
    if values is not None:
        assert list(map(repr, Ended(0, ours).values(key))) == list(map(repr, values))


@pytest.mark.parametrize(
    "line", [row[0] for row in AS_HYDRA[::9]], ids=[" ".join(row[0]) for row in AS_HYDRA[::9]]
)
def test_a_line_runs_what_hydras_own_sweeper_runs(run: Run, line: tuple[str, ...]) -> None:
    theirs, ours = run(BASIC, *line), run(OURS, *line)
    assert ours.code == theirs.code
    assert without_repetition(ours.configs) == without_repetition(theirs.configs)


# Hydra's sweeper writes a text for each value, out of which the value must be read again: a string
# that a cast or a function was given loses its quotes, and what is deleted or appended its kind.
AS_SINGLE_RUNS = [
    (("text=str(1,true)",), [("text='1'",), ("text='true'",)]),
    (("text=choice('1',2,'null')",), [("text='1'",), ("text=2",), ("text='null'",)]),
    (("text=choice('grün',b)",), [("text='grün'",), ("text=b",)]),
    (("text=json_str(choice({x:1},[2]))",), [("text='{\"x\": 1}'",), ("text='[2]'",)]),
    (("text=str(1)", "a=1,2"), [("text='1'", "a=1"), ("text='1'", "a=2")]),
    (("items=str([1,2]),[3]",), [("items=['1','2']",), ("items=[3]",)]),
    (("items=extend_list(3)", "a=1,2"), [("items=[1,2,3]", "a=1"), ("items=[1,2,3]", "a=2")]),
    (("items=extend_list(3)", "items=extend_list(3)", "a=5,6"),
     [("items=[1,2,3,3]", "a=5"), ("items=[1,2,3,3]", "a=6")]),
    (("~map.x", "a=1,2"), [("~map.x", "a=1"), ("~map.x", "a=2")]),
    (("~map.x=1", "a=1,2"), [("~map.x", "a=1"), ("~map.x", "a=2")]),
    (("~map.x", "+map.x=5,6"), [("map={x:5}",), ("map={x:6}",)]),
    (("~db", "a=1,2"), [("~db", "a=1"), ("~db", "a=2")]),
    (("~db=mysql", "a=1,2"), [("~db", "a=1"), ("~db", "a=2")]),
    (("db=null,postgres",), [("~db",), ("db=postgres",)]),
    (("style=null,fancy",), [(), ("style=fancy",)]),
    (("+db@second=null,mysql",), [(), ("+db@second=mysql",)]),
    (("plan=null,careful", "style=null,plain"),
     [(), ("style=plain",), ("plan=careful",), ("plan=careful", "style=plain")]),
    (("a=int(interval(2,4))",), [("a=2",), ("a=3",), ("a=4",)]),
    (("a=int(interval(1.5,3.5))",), [("a=1",), ("a=2",), ("a=3",)]),
    (("a=tag(log,int(interval(1,3)))",), [("a=1",), ("a=2",), ("a=3",)]),
    (("half=interval(0.25,0.25)",), [("half=0.25",)]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "singles"), AS_SINGLE_RUNS, ids=[" ".join(row[0]) for row in AS_SINGLE_RUNS]
)
def test_a_line_runs_what_single_runs_would(
    run: Run, line: tuple[str, ...], singles: list[tuple[str, ...]]
) -> None:
    theirs = [run(NO_SWEEPER, *single).configs for single in singles]
    assert run(OURS, *line).configs == [config for [config] in theirs]


@pytest.mark.parametrize(
    ("argument", "low", "high"),
    [
        ("half=interval(0,1)", 0.0, 1.0),
        ("half=tag(log,interval(1e-4,1e-2))", 1e-4, 1e-2),
        ("half=float(interval(1,2))", 1.0, 2.0),
        ("a=tag(log,int(interval(10,1000)))", 10, 1000),
    ],
)
def test_an_interval_gives_values_within(run: Run, argument: str, low: float, high: float) -> None:
    done = run(OURS, argument, "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1")
    values = done.values(argument.partition("=")[0])
    assert len(set(values)) == 4
    assert all(low <= value <= high and type(value) is type(low) for value in values)


@pytest.mark.parametrize(
    "argument", ["a=shuffle(1,2,3,4,5,6)", "a=shuffle(range(1,7))", "a=tag(x,shuffle(choice(1,2)))"]
)
def test_shuffling_is_an_order_of_the_same_study(run: Run, argument: str) -> None:
    """The same for the same seed, so that a study that stopped goes on as it would have."""
    theirs = run(BASIC, argument)
    seven = run(OURS, argument, "hydra.sweeper.sampler.seed=7")
    assert sorted(seven.values("a")) == sorted(theirs.values("a"))
    assert run(OURS, argument) == Ended(0, [])
    # A study of its own has a folder of its own.
    again = (argument, "hydra.sweeper.sampler.seed=7", *_named("t"))
    assert run(OURS, *again).configs == seven.configs
    # Begun with a smaller budget, and gone on with.
    other = (argument, "hydra.sweeper.sampler.seed=8", *_named("u"))
    first = run(OURS, *other, "hydra.sweeper.n_trials=1")
    rest = run(OURS, *other)
    assert sorted(first.values("a") + rest.values("a")) == sorted(theirs.values("a"))
    if len(theirs.configs) > 2:
        assert sorted(theirs.values("a")) != seven.values("a")


def test_a_shuffled_list_is_the_same_in_each_trial_and_for_who_resumes(run: Run) -> None:
    line = ("items=shuffle([1,2,3,4,5,6,7,8])", "a=1,2,3")
    first = run(OURS, *line, "hydra.sweeper.n_trials=1").values("items")
    rest = run(OURS, *line).values("items")
    assert len(rest) == 2
    assert [sorted(items) for items in first] == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert rest == first * 2


def test_the_sweepers_own_params_are_overrides_too(run: Run) -> None:
    params = "+hydra.sweeper.params={a:'1,2',db:'null',items:'[x,null]',text:'str(3)'}"
    expected = [
        run(NO_SWEEPER, f"a={a}", "~db", "items=[x,null]", "text='3'").configs[0] for a in (1, 2)
    ]
    assert run(OURS, params).configs == expected


REFUSED = [
    # The grammar itself.
    (("a=[1,2",), "a=[1,2: allowed: what Hydra's grammar takes: "),
    (("a=1,",), "a=1,: allowed: what Hydra's grammar takes: "),
    (("a =1,2",), "a =1,2: allowed: what Hydra's grammar takes: no ' ' at this place"),
    (("text=ä,b",), "text=ä,b: allowed: what Hydra's grammar takes: no 'ä' at this place"),
    (("a=foo(1)",), "a=foo(1): allowed: what Hydra's grammar takes: HydraException while"),
    (("a=choice()",), "a=choice(): allowed: what Hydra's grammar takes: "),
    (("a=choice(null,1)",), "a=choice(null,1): allowed: what Hydra's grammar takes: "),
    (("a=str(interval(0,1))",), "Intervals cannot be cast to str"),
    (("a=bool(range(1,3))",), "Range can only be cast to int or float"),
    (("text=${a:${b}},2",), "text=${a:${b}},2: allowed: what Hydra's grammar takes: "),
    (("db=shuffle(glob(*))",), "db=shuffle(glob(*)): allowed: what Hydra's grammar takes: "),
    # Sweeps that are none.
    (("a=range(3,3)",), "a=range(3,3): allowed: a choice a,b,c, range(...)"),
    (("a=range(1,5,0)",), "a=range(1,5,0): allowed: a choice a,b,c, range(...)"),
    (("half=range(1,0,0.5)",), "half=range(1,0,0.5): allowed: a choice a,b,c, range(...)"),
    (("half=interval(8,1)",), "half=interval(8,1): allowed: a choice a,b,c, range(...)"),
    (("half=interval(0,inf)",), "half=interval(0,inf): allowed: a choice a,b,c, range(...)"),
    (("half=tag(log,interval(0,1))",), "half=tag(log,interval(0,1)): allowed: a choice"),
    (("a=1,range(3)",), "a=1,range(3): allowed: a choice a,b,c"),
    (("a=glob(*)",), "a=glob(*): allowed: a choice a,b,c, range(...), interval(...), or glob(...) "
     "of a group: there is no such group"),
    (("db=glob(z*)",), "it matches none of mysql, postgres, sqlite"),
    # Sweeps that decide nothing.
    (("a=1,2", "++a=3"), "a=1,2 and ++a=3: the second leaves nothing for the sweep to decide"),
    (("++a=1,2", "a=3,4"), "++a=1,2 and a=3,4: the second leaves nothing"),
    (("items[0]=5,6", "items=[3,4]"), "items[0]=5,6 and items=[3,4]: the second leaves nothing"),
    (("map.x=5,6", "~map"), "map.x=5,6 and ~map: the second leaves nothing"),
    (("a=1,2", "~a"), "a=1,2 and ~a: the second leaves nothing"),
    (("~db", "db=mysql,postgres"), "db=mysql,postgres and ~db: the second leaves nothing"),
    (("~db=mysql,postgres",), "~db=mysql,postgres: a deletion cannot be swept"),
    # Keys, groups and values that are not there.
    (("texd=x,y",), "texd=x: there is no such key: allowed: hydra, a, b, half"),
    (("texd=x,y",), "Did you mean text=x?"),
    (("map.z=1,2",), "map.z=1: there is no such key: allowed: map.x, map.y"),
    (("a=1,2", "map.z=1"), "map.z=1: there is no such key: allowed: map.x, map.y"),
    (("new=1,2",), "new=1: there is no such key: allowed: "),
    (("+a=1,2",), "An item is already at 'a'"),
    (("~nothing", "a=1,2"), "Could not delete from config. 'nothing' does not exist."),
    (("~map.x=7", "a=1,2"), "The value of 'map.x' is 1 and not 7"),
    (("~db=sqlite", "a=1,2"), "Could not delete 'db=sqlite'"),
    (("db=mysql,mysqql",), "db=mysqql: allowed: mysql, postgres, sqlite"),
    (("db=mysql,mysqql",), "Did you mean db=mysql?"),
    (("db=mysqql", "a=1,2"), "db=mysqql: allowed: mysql, postgres, sqlite"),
    (("dbb=mysql,postgres",), "dbb=mysql: there is no such key: allowed: "),
    (("db=1,2",), "db=1: allowed: mysql, postgres, sqlite; or [] for none of them: db=[]"),
    (("db=null", "a=1,2"), "db=null: allowed: mysql, postgres, sqlite; or [] for none"),
    (("++db=mysql,postgres",), "++db=mysql: allowed: db=mysql, which chooses an option"),
    (("+db=postgres,sqlite",), "+db=postgres: allowed: db=postgres, as db has an option already"),
    (("db@other=mysql,postgres",), "To append to your default list use +db@other=mysql"),
    (("text=a,b", "text.deep=1,2"), "text.deep"),
    (("items[7]=1,2",), "items[7]=1"),
    # What only some options of a swept group have.
    (("db=mysql,sqlite", "db.path=y"), "Where only some of db=mysql,sqlite have it: ++db.path=y"),
    (("db=mysql,sqlite", "db.path=y,z"),
     "Where only some of db=mysql,sqlite have it: ++db.path=y,z"),
    (("db=sqlite,mysql", "db.path=y,z"),
     "Where only some of db=sqlite,mysql have it: ++db.path=y,z"),
    # What is settled before a sweep begins.
    (("plan=greedy,quick",), "plan=greedy: allowed: what leaves the sweep itself as it is"),
    (("plan=quick,greedy",), "A sweep of its own: plan=greedy hydra.sweeper.study_name=NAME"),
    (("plan=quick,greedy", "db=mysql,postgres"), "plan=greedy: allowed: what leaves"),
    (("hydra.job.chdir=true,false",), "Sweeping over Hydra's configuration is not supported"),
    (("hydra/job_logging=default,none",), "Sweeping over Hydra's configuration is not supported"),
    (("a=1,2", "+resume=again"), "+resume=again: allowed: force"),
    (("a=1,2", "+hydra.sweeper.params={b:'[1,'}"), "b=[1,: allowed: what Hydra's grammar takes"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_a_line_is_refused_before_anything_starts(
    run: Run, folder: Path, capfd: pytest.CaptureFixture[str], line: tuple[str, ...], message: str
) -> None:
    assert run(OURS, *line) == Ended(1, [])
    said = capfd.readouterr().err
    assert message in said
    assert said.startswith("Error: ")
    assert "Traceback" not in said
    # No study has begun.
    assert not (folder / "studies.db").exists()
    assert not list(folder.glob("out/*/"))


def test_a_study_takes_dimensions_that_optuna_alone_would_refuse(run: Run) -> None:
    changes = [
        ("a=1,2,3", "a=1,2,3,4", [1, 2, 3, 4]),
        ("a=1,2,3", "a=range(1,5)", [1, 2, 3, 4]),
        ("a=range(1,4)", "a=1,2,'x'", [1, 2, "x"]),
        ("half=range(0,1,0.5)", "half=0.5,0.75", [0.5, 0.75]),
        ("half=range(1,3,1.0)", "half=int(interval(1,3))", [1, 2, 3]),
        ("items=[1],[2]", "items=[2],[3]", [[2], [3]]),
    ]
    for name, (before, after, values) in zip("stuvwx", changes, strict=True):
        key = before.partition("=")[0]
        first = run(OURS, before, *_named(name), "hydra.sweeper.n_trials=1").values(key)
        rest = run(OURS, after, *_named(name))
        assert rest.code == 0
        assert rest.values(key) == [value for value in values if value not in first]


def growing(config: DictConfig, trial: optuna.Trial) -> None:
    trial.suggest_categorical("b", [1, 2, 3] if "MORE" in os.environ else [1, 2])


def breaking(config: DictConfig, trial: optuna.Trial) -> None:
    trial.suggest_float("half", 0, 1)
    if trial.number == 3:
        raise KeyError("width")


def test_a_custom_space_that_has_grown_is_refused_too(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    custom = f"hydra.sweeper.custom_search_space={__name__}.growing"
    assert run(OURS, custom, "hydra.sweeper.n_trials=1").code == 0
    monkeypatch.setenv("MORE", "1")
    assert run(OURS, custom) == Ended(1, [])
    said = capfd.readouterr().err
    assert "b=1,2,3: allowed: 1,2, as hydra.sweeper.study_name=s has it" in said
    assert "Traceback" not in said
    assert len(optuna.load_study(study_name="s", storage="sqlite:///studies.db").trials) == 1


def test_a_custom_space_that_fails_leaves_no_trial_running(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    done = run(OURS, f"hydra.sweeper.custom_search_space={__name__}.breaking")
    assert (done.code, len(done.configs)) == (1, 3)
    said = capfd.readouterr().err
    reason = (
        f"hydra.sweeper.custom_search_space={__name__}.breaking: KeyError: 'width' ({__file__}:"
    )
    assert f"Error: {reason}" in said
    assert "Traceback" not in said
    *complete, failed = optuna.load_study(study_name="s", storage="sqlite:///studies.db").trials
    assert {trial.state for trial in complete} == {TrialState.COMPLETE}
    assert failed.state is TrialState.FAIL
    assert failed.user_attrs["reason"].startswith(reason)


def test_an_application_of_ones_own_says_no_more(configuration: Path, folder: Path) -> None:
    (folder / "app.py").write_text(
        "import hydra\n"
        f"@hydra.main(config_path={str(configuration)!r}, config_name='config')\n"
        "def main(config):\n"
        "    return 0.0\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "app.py", *OURS, "hydra/launcher=basic", "db=mysql,mysqql"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1
    expected = "db=mysqql: allowed: mysql, postgres, sqlite\nDid you mean db=mysql?\n"
    assert done.stderr.endswith(expected)
    assert "Traceback" not in done.stderr


def test_the_order_of_a_choice_is_no_other_study(run: Run) -> None:
    [first] = run(OURS, "a=1,2,3", "hydra.sweeper.n_trials=1").values("a")
    rest = run(OURS, "a=3,2,1")
    assert rest.values("a") == [a for a in (3, 2, 1) if a != first]
    assert run(OURS, "a=range(1,4)") == Ended(0, [])


def test_the_packaged_groups_are_swept(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    def states(name: str) -> list[tuple[dict[str, Any], TrialState]]:
        study = optuna.load_study(study_name=name, storage="sqlite:///multirun/studies.db")
        return [(trial.params, trial.state) for trial in study.trials]

    complete, failed = TrialState.COMPLETE, TrialState.FAIL
    assert sweep("-m", "study=a", "scheduler=null,one_cycle") == 0
    assert states("a") == [({"scheduler": s}, complete) for s in (None, "one_cycle")]
    assert sweep("-m", "study=b", "student=glob([li*,ti*])", "callbacks=null,ema") == 0
    assert [state for _, state in states("b")] == [complete] * 4
    assert sweep("-m", "study=c", "student=tiny,low_rank", "++student.rank=8") == 0
    (_, tiny), (_, low_rank) = states("c")
    assert (tiny, low_rank) == (failed, complete)
    assert "Failed (0): student.rank=8: allowed: the arguments" in capfd.readouterr().out

    for line, message in [
        (("student=tiny,low_rank", "student.rank=8"), "++student.rank=8"),
        (("student=tiny,low_rank", "student.rank=8,16"), "++student.rank=8,16"),
        (("search=article,students",), "search=article: allowed: what leaves the sweep itself"),
        (("student=tiny,lowrank",), "student=lowrank: allowed: approx, approx_ffn, bert_layer"),
        (("teacher=minilm,random_bert", "student=other"), "student=other: allowed: approx"),
    ]:
        assert sweep("-m", "study=d", *line) == 1
        said = capfd.readouterr().err
        assert message in said
        assert "Traceback" not in said
    with pytest.raises(KeyError):
        states("d")


@pytest.mark.parametrize("group", ["student", "optimizer", "data", "objective"])
def test_no_option_of_a_group_that_a_fit_needs_is_a_mistake(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], group: str
) -> None:
    assert sweep("study=a", f"{group}=[]") == 1
    said = capfd.readouterr().err
    assert f"Error: {group}: missing; choose one of {group}=..." in said
    assert "Traceback" not in said


def test_a_single_fit_without_scheduler_callbacks_and_logger(sweep: Sweep) -> None:
    assert sweep("study=a", "scheduler=[]", "callbacks=[]", "logger=[]") == 0
    assert sweep("study=b", "~scheduler", "~callbacks", "~logger") == 0
