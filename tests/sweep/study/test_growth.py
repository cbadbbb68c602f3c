"""A study goes on in another space: what lies in it counts, once; nothing is lost; what cannot
be carried over is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, RunMode
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from slicewise.errors import SlicewiseError
from sweep.study import growth
from sweep.study.compose import TrialComposer
from sweep.study.growth import take_up
from sweep.study.presence import (
    SWEEP_HEARTBEAT_SECONDS,
    Heartbeat,
    Presence,
    own_heartbeat,
)
from sweep.study.samplers import LearningStudy, new_sampler
from sweep.study.shared import Budget, SharedStudy, open_study, quiet_optuna
from sweep.study.space import SearchSpace
from sweep.study.storage import open_storage
from sweep.trial.outcome import End, Outcome
from tests.sweep.conftest import Sweep

quiet_optuna()

CONFIGURATION = {
    "config.yaml": """
        defaults: [{db: mysql}, _self_]
        a: 1
        half: 0.5
        text: plain
        items: [1, 2]
        # What is made of others is no difference.
        made: ${a}
        named: ${db.name}
        """,
    "db/mysql.yaml": "{name: mysql, port: 1}",
    "db/postgres.yaml": "{name: postgres, port: 2}",
    "db/sqlite.yaml": "{name: sqlite, path: x}",
}
KEYS = ("a", "half", "db")


@pytest.fixture(scope="module", autouse=True)
def hydra(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    home = tmp_path_factory.mktemp("conf")
    for name, text in CONFIGURATION.items():
        path = home / name
        path.parent.mkdir(exist_ok=True)
        lines = text.strip("\n").rstrip().splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(home)):
        yield GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()


def of_another(sweep: str) -> Heartbeat:
    """The sign of a sweep in another process, which lives."""
    return dataclasses.replace(own_heartbeat(sweep), pid=os.getppid())


class Program:
    """One command after another on one study, in one storage.

    Args:
        storage: Where the study is.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self.storage = storage
        # What each trial was run with, swept or not.
        self.ran: dict[int, dict[str, Any]] = {}

    def opened(
        self,
        *line: str,
        n_trials: int = 200,
        sampler: str = "RandomSampler",
        force: bool = False,
        sign: Heartbeat | None = None,
    ) -> SharedStudy:
        hydra: Any = GlobalHydra.instance().hydra
        loader = hydra.config_loader
        config = hydra.compose_config("config", list(line), run_mode=RunMode.MULTIRUN)
        space = SearchSpace.parse(line, None, loader)
        composer = TrialComposer(config, HydraContext(loader, Callbacks()), space)
        study = open_study("s", self.storage, ["minimize"])
        study, space = take_up(
            study,
            self.storage,
            Path("unused"),
            space,
            config,
            composer,
            lambda key: bool(loader.get_group_options(key)),
            force,
            sign or own_heartbeat("own"),
        )
        node = {"_target_": f"optuna.samplers.{sampler}", "seed": 0}
        made = new_sampler(node, space, n_trials)
        learning = LearningStudy("s", self.storage, made, optuna.pruners.NopPruner())
        return SharedStudy(learning, self.storage, Path("unused"), space, Budget(n_trials), config)

    def run(self, *line: str, **given: Any) -> SharedStudy:
        shared = self.opened(*line, **given)
        while isinstance(trial := shared.claim("w", set()), Trial):
            point = {**DEFAULTS, **_parsed(shared.space.fixed), **trial.params}
            self.ran[trial.number] = point
            value = float(point["a"]) + point["half"]
            shared.tell(trial, "w", Outcome(End.COMPLETE, values=(value,)))
        return shared

    @property
    def trials(self) -> list[FrozenTrial]:
        return optuna.load_study(study_name="s", storage=self.storage).trials


def _parsed(fixed: Mapping[str, str]) -> dict[str, Any]:
    read = OverridesParser.create().parse_overrides(
        [f"{key}={text}" for key, text in fixed.items()]
    )
    return {override.key_or_group: override.value() for override in read}


DEFAULTS = {"a": 1, "half": 0.5, "db": "mysql"}
# What each way to write a key lets it be.
WAYS: dict[str, dict[str, tuple[Any, ...]]] = {
    "a": {
        "": (1,),
        "a=1": (1,),
        "a=3": (3,),
        "a=1,2": (1, 2),
        "a=2,4,1": (1, 2, 4),
        "a=range(1,4)": (1, 2, 3),
        "a=int(interval(2,4))": (2, 3, 4),
        "a=range(1,6,2)": (1, 3, 5),
    },
    "half": {
        "": (0.5,),
        "half=1.0": (1.0,),
        "half=0.5,1.0": (0.5, 1.0),
        "half=range(0.5,2,0.5)": (0.5, 1.0, 1.5),
    },
    "db": {
        "": ("mysql",),
        "db=sqlite": ("sqlite",),
        "db=mysql,postgres": ("mysql", "postgres"),
        "db=sqlite,postgres": ("postgres", "sqlite"),
    },
}
COMMANDS = st.tuples(*(st.sampled_from(sorted(WAYS[key])) for key in KEYS)).filter(
    lambda ways: any(len(WAYS[key][way]) > 1 for key, way in zip(KEYS, ways, strict=True))
)


def line_of(ways: tuple[str, ...]) -> list[str]:
    return [way for way in ways if way]


def points_of(ways: tuple[str, ...]) -> set[str]:
    allowed = [WAYS[key][way] for key, way in zip(KEYS, ways, strict=True)]
    return {
        json.dumps(dict(zip(KEYS, point, strict=True))) for point in itertools.product(*allowed)
    }


def assert_exact(program: Program, ways: tuple[str, ...]) -> None:
    """Each point of the last command was run once, over all commands."""
    ran = Counter(json.dumps(point) for point in program.ran.values())
    for point in points_of(ways):
        assert ran[point] == 1, (point, ways)


def content(trial: FrozenTrial) -> Any:
    times = trial.datetime_start, trial.datetime_complete
    return trial.number, trial.state, trial.values, trial.params, trial.user_attrs, times


def is_another_study(before: tuple[str, ...], now: tuple[str, ...]) -> bool:
    """Whether a key that is not swept, before or now, has changed."""
    pairs = [(WAYS[key][b], WAYS[key][n]) for key, b, n in zip(KEYS, before, now, strict=True)]
    return any(len(b) == len(n) == 1 and b != n for b, n in pairs)


@settings(max_examples=12, deadline=None)
@given(commands=st.lists(COMMANDS, min_size=2, max_size=5))
def test_every_point_of_whatever_space_is_run_once(commands: list[tuple[str, ...]]) -> None:
    program = Program(InMemoryStorage())
    last = commands[0]
    for ways in commands:
        if is_another_study(last, ways):
            with pytest.raises(SlicewiseError, match="is about something else"):
                program.opened(*line_of(ways))
            continue
        last = ways
        before = [content(trial) for trial in program.trials] if program.ran else []
        program.run(*line_of(ways))
        assert_exact(program, ways)
        # Nothing of what was there has changed, but that 1 may now be 1.0.
        assert [content(trial) for trial in program.trials][: len(before)] == before
        assert [trial.number for trial in program.trials] == list(range(len(program.ran)))


@settings(max_examples=15, deadline=None)
@given(
    both=st.tuples(COMMANDS, COMMANDS).filter(lambda both: not is_another_study(*both)),
    first=st.integers(0, 3),
)
def test_a_trial_that_has_begun_goes_on_as_what_it_was(
    both: tuple[tuple[str, ...], tuple[str, ...]], first: int
) -> None:
    program = Program(InMemoryStorage())
    before, now = both
    shared = program.opened(*line_of(before))
    begun: dict[int, dict[str, Any]] = {}
    for _ in range(first + 1):
        trial = shared.claim("w", set())
        if isinstance(trial, Trial):
            begun[trial.number] = {**DEFAULTS, **_parsed(shared.space.fixed), **trial.params}
    for number in begun:
        shared.put_back(Trial(shared.study, shared.study.trials[number]._trial_id), "w")
    program.run(*line_of(now))
    assert_exact(program, now)
    for number, point in begun.items():
        if json.dumps(point) in points_of(now):
            assert program.ran[number] == point
        else:
            assert number not in program.ran


class Killed(BaseException):
    """The process is no more."""


class Deadly(InMemoryStorage):
    """Kills who writes to it, once, after so many writes."""

    left = -1


def _deadly(name: str) -> Callable[..., Any]:
    write = getattr(InMemoryStorage, name)

    def call(self: Deadly, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == -1:
            raise Killed
        return write(self, *args, **kwargs)

    return call


for _name in BaseStorage.__abstractmethods__:
    if _name.startswith(("set_", "create_", "delete_")):
        setattr(Deadly, _name, _deadly(_name))


@settings(max_examples=12, deadline=None)
@given(
    both=st.tuples(COMMANDS, COMMANDS).filter(lambda both: not is_another_study(*both)),
    writes=st.integers(0, 60),
)
def test_whoever_dies_over_it_loses_nothing(
    both: tuple[tuple[str, ...], tuple[str, ...]], writes: int
) -> None:
    first, second = both
    storage = Deadly()
    program = Program(storage)
    program.run(*line_of(first))
    before = [content(trial) for trial in program.trials]
    storage.left = writes
    with contextlib.suppress(Killed):
        program.opened(*line_of(second))
    storage.left = -1
    program.run(*line_of(second))
    assert_exact(program, second)
    assert [content(trial) for trial in program.trials][: len(before)] == before
    assert optuna.get_all_study_names(storage) == ["s"]


def test_the_budget_counts_what_lies_in_todays_space() -> None:
    program = Program(InMemoryStorage())
    program.run("half=interval(0.0,1.0)", n_trials=12)
    inside = sum(point["half"] >= 0.5 for point in program.ran.values())
    assert 0 < inside < 12
    shared = program.run("half=interval(0.5,1.0)", n_trials=12)
    assert shared.finished() == 12
    assert len(program.ran) == 12 + 12 - inside
    # All of them lie in a wider one.
    assert program.opened("half=interval(0.0,2.0)", n_trials=30).finished() == len(program.ran)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("half=interval(0.0,1.0)", "a=1,2"), ("half=interval(0.0,2.0)", "a=1,2")),
        (("half=interval(0.0,1.0)", "a=1,2"), ("half=interval(0.0,1.0)", "a=1,2,4")),
        (("half=interval(0.0,1.0)",), ("half=interval(0.0,1.0)", "a=1,2")),
        (("half=interval(0.0,1.0)", "a=1,2"), ("half=interval(0.0,1.0)", "a=range(1,5)")),
        (("half=interval(0.1,1.0)", "a=1,2"), ("half=tag(log,interval(0.1,1.0))", "a=1,2")),
    ],
)
@pytest.mark.parametrize("sampler", ["TPESampler", "GPSampler", "CmaEsSampler", "NSGAIISampler"])
def test_samplers_learn_from_trials_of_the_space_before(
    sampler: str, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    program = Program(InMemoryStorage())
    program.run(*before, n_trials=11, sampler=sampler)
    shared = program.opened(*after, n_trials=14, sampler=sampler)
    seen = shared.study._get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    space = {key: d.distribution for key, d in shared.space.dimensions.items()}
    assert len(seen) == 11
    for trial in seen:
        assert trial.distributions == space
        assert trial.params.keys() == space.keys()
    # All keys together, as of one space.
    assert optuna.search_space.intersection_search_space(seen) == space
    shared = program.run(*after, n_trials=14, sampler=sampler)
    assert shared.finished() == 14


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (("half=interval(0,1)",), ("half=0.5,1",), "half=0.5,1: allowed: .*are too many"),
        (("text=x,y",), ("text=range(1,4)",), "text=.*: allowed: .*trial 0: 'x' is no number"),
        (("half=0.5,1",), ("half=int(interval(1,3))",), "trial 0: 0.5 is no whole number"),
        (("half=range(0,2,1)",), ("half=tag(log,interval(1,2))",), "trial 0: 0.* has no logarithm"),
        (("a=1,2",), ("a=1,2", "+new=1,2"), r"\+new=1,2: allowed: .*it does not"),
        (("a=1,2",), ("a=1,2", "text=other"), 'config.text: was "plain", now "other"'),
        (("a=1,2",), ("text=x,y", "half=0.7"), "config.half: was 0.5, now 0.7"),
        (("a=1,2", "db.port=7"), ("a=1,2", "db=mysql,sqlite"), "config.db.port: was 7, now 1"),
    ],
)
def test_what_cannot_be_carried_over_is_refused_with_the_reason(
    before: tuple[str, ...], after: tuple[str, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "_MOST_OPTIONS", 1)
    program = Program(InMemoryStorage())
    program.run(*before, n_trials=2)
    were = [content(trial) for trial in program.trials]
    with pytest.raises(SlicewiseError, match=f"(?s){why}.*study=NAME") as refused:
        program.opened(*after)
    assert len(str(refused.value).splitlines()) <= 3
    assert [content(trial) for trial in program.trials] == were


def test_what_waits_outside_the_space_goes_on_waiting() -> None:
    program = Program(InMemoryStorage())
    shared = program.opened("a=1,2,3")
    shared.study.enqueue_trial({"a": 3})
    program.run("a=1,2")
    assert sorted(point["a"] for point in program.ran.values()) == [1, 2]
    [waiting] = [t for t in program.trials if t.state is TrialState.WAITING]
    program.run("a=1,3")
    assert program.ran[waiting.number]["a"] == 3


def test_a_space_is_not_changed_under_a_sweep_that_works_on_it(tmp_path: Path) -> None:
    program = Program(open_storage(f"sqlite:///{tmp_path}/studies.db"))
    shared = program.run("a=1,2")
    sign = of_another("other")
    with Presence(shared.study, "sweep", "other", sign, SWEEP_HEARTBEAT_SECONDS):
        with pytest.raises(SlicewiseError, match="study=s: a sweep works on it"):
            program.opened("a=1,2,4")
        program.opened("a=1,2")
    program.run("a=1,2,4")
    assert [trial.params["a"] for trial in program.trials] == [1, 2, 4]


@pytest.mark.parametrize("url", ["sqlite:///{}/studies.db", "journal:///{}/studies.log"])
def test_of_two_sweeps_that_begin_at_one_moment_one_is_refused(tmp_path: Path, url: str) -> None:
    """Before there is a trial: where their spaces differ, or what they have in common."""
    lines = [("a=1,2",), ("a=1,2,4",), ("a=1,2", "half=0.25"), ("half=0.5,1",)]

    def begin(number: int, line: Sequence[str]) -> str:
        program = Program(open_storage(url.format(tmp_path)))
        try:
            program.opened(*line, sign=of_another(f"s{number}"))
        except SlicewiseError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(lines)) as pool:
        said = list(pool.map(begin, range(len(lines)), lines))
    assert said.count("") == 1, said
    for refused in filter(None, said):
        assert "a sweep works on it" in refused or "is about something else" in refused
    # Who asks the same may join.
    winner = lines[said.index("")]
    assert begin(9, winner) == ""


def test_a_study_of_two_values_runs_the_third_alone(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def params() -> list[Any]:
        url = "sqlite:///multirun/studies.db"
        return [trial.params for trial in optuna.load_study(study_name="a", storage=url).trials]

    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    first = (folder / "multirun/a/0/trial.json").read_bytes()
    assert sweep("-m", "study=a", "student.qkv_layers=0,1,2") == 0
    said = capfd.readouterr().out
    assert "goes on in another space: 2 of its 2 finished trials lie in it, and count" in said
    assert "2 of 3 trials done" in said
    key = "student.qkv_layers"
    assert params() == [{key: 0}, {key: 1}, {key: 2}]
    # A key that others are made of: data.seed is seed.
    assert sweep("-m", "study=a", "student.qkv_layers=1", "seed=0,1") == 0
    assert params()[3:] == [{"seed": 1}]
    assert (folder / "multirun/a/0/trial.json").read_bytes() == first
