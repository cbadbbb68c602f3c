"""What is wrong with a sampler or a pruner shows before anything starts, in one message."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hydra_plugins.hydra_optuna_sweeper import config as official
from omegaconf import OmegaConf

from slicewise.errors import ArgumentError, SlicewiseError
from sweep import application
from sweep.resolvers import register_resolvers
from sweep.study.sampler_check import check_samplers
from sweep.study.samplers import new_pruner, new_sampler, sampler_line, seeded
from sweep.study.space import SearchSpace
from tests.sweep.conftest import Sweep

OWN = "tests.sweep.study.own_sampler"
ENDLESS = ["a=interval(0.0,1.0)", "b=interval(0.0,1.0)"]
NOP = {"_target_": "optuna.pruners.NopPruner"}
TPE = {"_target_": "optuna.samplers.TPESampler", "seed": None}


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEWISE_TRUSTED", "tests.sweep.study.*")


def check(
    sampler: dict[str, Any],
    pruner: dict[str, Any] = NOP,
    space: list[str] = ENDLESS,
    directions: tuple[str, ...] = ("minimize",),
    n_trials: int = 5,
) -> None:
    check_samplers(sampler, pruner, SearchSpace.parse(space), n_trials, directions)


def official_node(name: str) -> dict[str, Any]:
    """As `hydra/sweeper/sampler=NAME` has it."""
    node: Any = OmegaConf.to_container(OmegaConf.structured(getattr(official, name)))
    return dict(node)


@pytest.mark.parametrize(
    "name",
    [
        "TPESamplerConfig",
        "RandomSamplerConfig",
        "CmaEsSamplerConfig",
        "NSGAIISamplerConfig",
        "NSGAIIISamplerConfig",
        "GPSamplerConfig",
        "QMCSamplerConfig",
    ],
)
def test_all_of_the_official_ones_pass(name: str) -> None:
    check(official_node(name))
    check(official_node(name), space=["a=1,2", "b=range(0.1,0.9,0.1)"], n_trials=1)


OPTUNAS = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "qmc": optuna.samplers.QMCSampler,
    "random": optuna.samplers.RandomSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
    "nsgaiii": optuna.samplers.NSGAIIISampler,
}
# What the official plugin leaves to Optuna where it is null, or a warning.
_LEFT = ("seed", "reference_points", "sigma0", "warn_asynchronous_seeding")


def composed_sampler(*overrides: str) -> dict[str, Any]:
    """`hydra.sweeper.sampler` as the sweeper is given it."""
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(application.config_directory())):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        config = hydra.compose_config("config", [*overrides], run_mode=RunMode.MULTIRUN)
    node: Any = OmegaConf.to_container(config.hydra.sweeper.sampler, resolve=True)
    return dict(node)


@pytest.mark.parametrize("name", OPTUNAS)
def test_each_option_of_the_group_has_optunas_defaults(name: str) -> None:
    node = composed_sampler(f"hydra/sweeper/sampler={name}")
    defaults = inspect.signature(OPTUNAS[name]).parameters
    # Optuna's None: what it is for one objective.
    expected = {key: defaults[key].default for key in node if key in defaults and key not in _LEFT}
    expected |= {"multivariate": True} if name == "tpe" else {}
    assert {key: node[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "multivariate", "group", "constant_liar"),
    [
        ((), True, False, True),
        (("objective=l1_parameters",), False, False, True),
        (("search=students",), True, True, True),
        (("search=students", "objective=l1_parameters"), True, True, True),
        (("search=students", "hydra.sweeper.sampler.multivariate=false"), False, False, True),
        (("hydra.sweeper.sampler.constant_liar=false",), True, False, False),
        (("hydra/sweeper=optuna",), False, False, False),
    ],
)
def test_tpe_follows_the_study_and_what_is_asked_for(
    overrides: tuple[str, ...], multivariate: bool, group: bool, constant_liar: bool
) -> None:
    node = composed_sampler(*overrides)
    found = (node["multivariate"], node["group"], node["constant_liar"])
    assert found == (multivariate, group, constant_liar)


@pytest.mark.parametrize(
    ("name", "space", "workers", "line"),
    [
        ("tpe", ["a=1,2"], 1, "none is asked; each of 2 points is run once, in order"),
        ("tpe", ENDLESS, 8, "tpe, multivariate (one objective), constant_liar (8 workers"),
        ("tpe", ENDLESS, 1, "random for the first 10 trials: a space without end"),
        ("grid", ["a=range(0,9)"], 1, "random instead of grid: 9 points, more than"),
        ("random", ["a=range(0,9)"], 1, "random: 9 points, more than hydra.sweeper.n_trials=5"),
    ],
)
def test_a_sweep_says_which_sampler_and_why(
    name: str, space: list[str], workers: int, line: str
) -> None:
    node = composed_sampler(f"hydra/sweeper/sampler={name}")
    said = sampler_line(name, node, SearchSpace.parse(space), 5, 1, workers)
    assert said.startswith("Sampler: ")
    assert line in said


# What is missing, whose configuration, and the message; as each is met with nothing else missing.
MISSING = [
    ("cmaes", "sampler", "CmaEsSampler"),
    ("scipy", "sampler", "QMCSampler"),
    ("scipy", "sampler", "GPSampler"),
    ("torch", "sampler", "GPSampler"),
    ("scipy", "pruner", "WilcoxonPruner"),
]
_PROGRAM = """
import sys
sys.modules[sys.argv[1]] = None
from slicewise.errors import SlicewiseError
from sweep.study.sampler_check import check_samplers
from sweep.study.space import SearchSpace
nodes = {
    "sampler": {"_target_": "optuna.samplers.RandomSampler"},
    "pruner": {"_target_": "optuna.pruners.NopPruner"},
}
nodes[sys.argv[2]] = {"_target_": f"optuna.{sys.argv[2]}s.{sys.argv[3]}"}
space = SearchSpace.parse(["a=interval(0.0,1.0)", "b=interval(0.0,1.0)"])
custom = SearchSpace.parse(["c=1,2"], custom=lambda config, trial: None)
for searched in (space, custom):
    try:
        check_samplers(nodes["sampler"], nodes["pruner"], searched, 5, ["minimize"])
    except SlicewiseError as error:
        print(error)
# Run in order, which needs no sampler.
if sys.argv[2] == "sampler":
    check_samplers(nodes["sampler"], nodes["pruner"], SearchSpace.parse(["c=1,2"]), 5, ["minimize"])
"""


@pytest.mark.parametrize(("package", "kind", "name"), MISSING)
def test_a_missing_package_is_named_with_what_installs_it(
    package: str, kind: str, name: str
) -> None:
    """In a process of its own: what has been loaded here stays loaded."""
    command = [sys.executable, "-W", "ignore", "-c", _PROGRAM, package, kind, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    message = (
        f"hydra/sweeper/{kind}: {name} needs the package {package}, which is not installed: "
        f"pip install {package}"
    )
    assert (done.stdout.splitlines(), done.stderr) == ([message] * 2, "")


def test_a_sampler_for_one_direction_is_refused_for_two() -> None:
    with pytest.raises(SlicewiseError, match=r"hydra/sweeper/sampler: CmaEsSampler: .*multi-obj"):
        check({"_target_": "optuna.samplers.CmaEsSampler"}, directions=("minimize", "maximize"))


def test_what_counts_through_a_space_is_refused_for_one_without_end() -> None:
    with pytest.raises(SlicewiseError, match=r"hydra/sweeper/sampler: BruteForceSampler"):
        check({"_target_": "optuna.samplers.BruteForceSampler"})
    with pytest.raises(ArgumentError, match=r"space without end \(a, b\)"):
        check(official_node("GridSamplerConfig"))


def test_the_official_message_on_what_is_gone_is_kept() -> None:
    with pytest.raises(SlicewiseError, match="'motpe' sampler was removed"):
        check(official_node("MOTPESamplerConfig"))


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (
            {"_target_": "optuna.samplers.RandomSampler", "flavour": "sweet"},
            "hydra.sweeper.sampler: .*unexpected keyword argument 'flavour'",
        ),
        (
            {"_target_": "optuna.samplers.NoSuchSampler"},
            "hydra.sweeper.sampler._target_=optuna.samplers.NoSuchSampler: ",
        ),
        (
            {"_target_": "optuna.samplers.CmaEsSampler", "lr_adapt": True, "with_margin": True},
            "hydra.sweeper.sampler: It is prohibited",
        ),
    ],
)
def test_wrong_arguments_are_one_message(sampler: dict[str, Any], message: str) -> None:
    with pytest.raises(SlicewiseError, match=message):
        check(sampler)


def test_ones_own_are_made_where_they_are_trusted(trusted: None) -> None:
    check({"_target_": f"{OWN}.Hesitant", "seed": 1}, {"_target_": f"{OWN}.Above", "value": 0.5})
    assert new_pruner({"_target_": f"{OWN}.Above", "value": 0.5}).value == 0.5  # type: ignore[attr-defined]
    with pytest.raises(SlicewiseError, match="Lacking needs the package no_such_package"):
        check({"_target_": f"{OWN}.Lacking"})


@pytest.mark.parametrize("target", [f"{OWN}.Hesitant", "os.system"])
def test_and_refused_where_they_are_not(target: str) -> None:
    for node in (
        {"_target_": target},
        {"_target_": "optuna.samplers.CmaEsSampler", "independent_sampler": {"_target_": target}},
    ):
        with pytest.raises(ArgumentError) as refused:
            seeded(node)
        assert f"_target_={target}: allowed: optuna.samplers.*" in str(refused.value)
        assert f"SLICEWISE_TRUSTED='{target.partition('.')[0]}.*' python -m" in str(refused.value)
    with pytest.raises(ArgumentError, match=r"^hydra\.sweeper\.pruner\._target_="):
        new_pruner({"_target_": target})


def test_what_is_no_sampler_is_refused(trusted: None) -> None:
    with pytest.raises(ArgumentError, match=r"not_a_sampler: allowed: .*samplers\.BaseSampler"):
        check({"_target_": f"{OWN}.not_a_sampler"})
    with pytest.raises(ArgumentError, match=r"pruner\._target_=.*: allowed: .*BasePruner"):
        check(TPE, {"_target_": "optuna.samplers.RandomSampler"})


def test_workers_share_the_seed_that_is_drawn() -> None:
    space = SearchSpace.parse(ENDLESS)
    for node in (TPE, {**TPE, "seed": 0}):
        shared = seeded(node)
        seeds = {new_sampler(shared, space, 5)._seed for _ in range(3)}
        assert len(seeds) == 1
    assert len({seeded(TPE)["seed"] for _ in range(3)}) == 3
    assert seeded({**TPE, "seed": 0})["seed"] == 0


def test_nothing_is_started_with_a_sampler_that_cannot_be(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ("study=a", "optimizer.lr=interval(1e-4,1e-2)", "hydra/sweeper/sampler=motpe")
    assert sweep("-m", *arguments) == 1
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("Error: hydra.sweeper.sampler: ")
    assert "Use 'hydra/sweeper/sampler=tpe' instead" in said[0]
    assert not (folder / "multirun/studies.db").exists()
    assert not (folder / "multirun/a").exists()
