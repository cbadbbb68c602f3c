"""What is suggested follows the seed, the trial's number and the history, never the process."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from scipy import stats

from sweep.study.samplers import LearningStudy, new_sampler, sampler_of_trial
from sweep.study.shared import Budget, Rest, SharedStudy, open_study, quiet_optuna
from sweep.study.space import SearchSpace
from sweep.study.suggestions import TrialSampler
from sweep.trial.outcome import End, Outcome

quiet_optuna()
optuna.logging.set_verbosity(optuna.logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore")

# Each as the official plugin's configuration, or one's own, would have it. Small populations and
# few first trials, so that twelve trials come to what the sampler is about.
SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"_target_": "optuna.samplers.TPESampler", "multivariate": False, "n_startup_trials": 3},
    "tpe of groups": {
        "_target_": "optuna.samplers.TPESampler",
        "multivariate": True,
        "group": True,
        "constant_liar": True,
        "n_startup_trials": 3,
    },
    "random": {"_target_": "optuna.samplers.RandomSampler"},
    "cmaes": {"_target_": "optuna.samplers.CmaEsSampler", "popsize": 3},
    "cmaes with margin": {
        "_target_": "optuna.samplers.CmaEsSampler",
        "popsize": 3,
        "with_margin": True,
        "independent_sampler": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3},
    },
    "nsgaii": {
        "_target_": "hydra_plugins.hydra_optuna_sweeper._impl.create_nsgaii_sampler",
        "population_size": 3,
    },
    "nsgaiii": {
        "_target_": "hydra_plugins.hydra_optuna_sweeper._impl.create_nsgaiii_sampler",
        "population_size": 3,
    },
    "qmc": {"_target_": "optuna.samplers.QMCSampler"},
    "qmc scrambled": {
        "_target_": "optuna.samplers.QMCSampler",
        "qmc_type": "halton",
        "scramble": True,
    },
    "gp": {"_target_": "optuna.samplers.GPSampler", "n_startup_trials": 6},
    "brute force": {"_target_": "optuna.samplers.BruteForceSampler"},
    "partial fixed": {
        "_target_": "optuna.samplers.PartialFixedSampler",
        "fixed_params": {"c": 2},
        "base_sampler": {"_target_": "optuna.samplers.TPESampler", "n_startup_trials": 3},
    },
    "grid": {"_target_": "optuna.samplers.GridSampler", "_partial_": True},
    "one's own": {"_target_": "tests.sweep.study.own_sampler.Hesitant"},
}
FINITE = ("a=range(0,8)", "b=range(0.1,0.9,0.1)", "c=1,2,4")
ENDLESS = ("a=tag(log,interval(1e-4,1e-1))", "b=interval(-1.0,1.0)", "c=1,2,4")
N_TRIALS = 12
# They count through what is finite.
FINITE_ONLY = ("brute force", "grid")
# Optuna's own fails where the questions depend on the answers.
STATIC_ONLY = (*FINITE_ONLY, "cmaes with margin")


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEWISE_TRUSTED", "tests.sweep.study.*")


def custom(config: Any, trial: Trial) -> None:
    """A space whose questions depend on the answers."""
    if trial.params["c"] == 2:
        trial.suggest_float("d", 0.0, 1.0)
    else:
        trial.suggest_int("e", 1, 1000, log=True)
    trial.suggest_float("f", 0.0, trial.params["b"] + 2.0)


def spaces_of(sampler: str) -> list[tuple[str, ...]]:
    return [FINITE] if sampler in FINITE_ONLY else [FINITE, ENDLESS]


class Process:
    """What one process knows of a study: nothing but its storage."""

    def __init__(
        self,
        storage: BaseStorage,
        sampler: str,
        seed: int | None,
        arguments: tuple[str, ...],
        extend: Any = None,
        n_trials: int = N_TRIALS,
    ) -> None:
        space = SearchSpace.parse(arguments, extend)
        node = SAMPLERS[sampler]
        if "base_sampler" in node:
            node = {**node, "base_sampler": {**node["base_sampler"], "seed": seed}}
        else:
            node = {**node, "seed": seed}
        made = new_sampler(node, space, n_trials)
        pruner = optuna.pruners.NopPruner()
        open_study("s", storage, ["minimize"])
        study = LearningStudy("s", storage, made, pruner)
        self.shared = SharedStudy(study, storage, Path("unused"), space, Budget(n_trials, 1.0, 99))

    def run(self, n_trials: float = math.inf, worker: str = "w", dead: str = "") -> None:
        """Runs so many trials, or all that there are to run."""
        ran = 0
        while ran < n_trials:
            trial = self.shared.claim(worker, {dead})
            if not isinstance(trial, Trial):
                assert trial is not Rest.FAILURES
                return
            self.tell(trial, worker)
            ran += 1

    def tell(self, trial: Trial, worker: str) -> None:
        value = sum(
            math.sin(7 * float(value)) + float(value) ** 2 for value in trial.params.values()
        )
        # Some are pruned, some cannot be run: samplers learn from them, too.
        if trial.number % 5 == 3:
            self.shared.tell(trial, worker, Outcome(End.IMPOSSIBLE, f"{value}"))
        else:
            self.shared.tell(trial, worker, Outcome(End.COMPLETE, values=(value,)))

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.shared.study.get_trials()


def points(process: Process) -> list[dict[str, Any]]:
    return [trial.params for trial in process.trials]


class Killed(BaseException):
    """The process is no more."""


class Deadly(InMemoryStorage):
    """Kills who writes to it, once, after so many writes; before the next, or after it."""

    left = -1
    stores = False


def _deadly(name: str) -> Callable[..., Any]:
    write = getattr(InMemoryStorage, name)

    def call(self: Deadly, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == -1:
            if self.stores:
                write(self, *args, **kwargs)
            raise Killed
        return write(self, *args, **kwargs)

    return call


for _name in BaseStorage.__abstractmethods__:
    if _name.startswith(("set_", "create_new_trial")):
        setattr(Deadly, _name, _deadly(_name))


CASES = [(name, space) for name in SAMPLERS for space in spaces_of(name)]
IDS = [f"{name}, {'finite' if space is FINITE else 'endless'}" for name, space in CASES]
of_all_samplers = pytest.mark.parametrize(("sampler", "space"), CASES, ids=IDS)
SEEDS = st.integers(0, 2**32 - 1)


def examples(sampler: str, number: int) -> int:
    """Fewer where each takes seconds."""
    return max(1, number // 4) if sampler == "gp" else number


def extension(sampler: str, wanted: bool) -> Any:
    return custom if wanted and sampler not in STATIC_ONLY else None


@of_all_samplers
def test_a_study_that_is_resumed_is_the_one_that_never_stopped(
    sampler: str, space: tuple[str, ...]
) -> None:
    @settings(max_examples=examples(sampler, 6), deadline=None)
    @given(
        seed=SEEDS,
        parts=st.lists(st.integers(0, 5), min_size=1, max_size=4),
        conditional=st.booleans(),
    )
    def check(seed: int, parts: list[int], conditional: bool) -> None:
        extend = extension(sampler, conditional)
        whole = Process(InMemoryStorage(), sampler, seed, space, extend)
        whole.run()
        storage = InMemoryStorage()
        for count, part in enumerate(parts):
            Process(storage, sampler, seed, space, extend).run(part, worker=f"w{count}")
        resumed = Process(storage, sampler, seed, space, extend)
        resumed.run()
        assert points(resumed) == points(whole)

    check()


@of_all_samplers
def test_so_is_one_whose_worker_was_killed_at_any_write(
    sampler: str, space: tuple[str, ...]
) -> None:
    @settings(max_examples=examples(sampler, 12), deadline=None)
    @given(seed=SEEDS, writes=st.integers(0, 110), stores=st.booleans(), conditional=st.booleans())
    def check(seed: int, writes: int, stores: bool, conditional: bool) -> None:
        extend = extension(sampler, conditional)
        whole = Process(InMemoryStorage(), sampler, seed, space, extend)
        whole.run()
        storage = Deadly()
        victim = Process(storage, sampler, seed, space, extend)
        storage.left, storage.stores = writes, stores
        with contextlib.suppress(Killed):
            victim.run(worker="dies")
        storage.left = -1
        successor = Process(storage, sampler, seed, space, extend)
        successor.run(dead="dies")
        assert points(successor) == points(whole)
        assert [t.state for t in successor.trials] == [t.state for t in whole.trials]

    check()


@of_all_samplers
def test_no_point_comes_twice_however_many_workers_there_are(
    sampler: str, space: tuple[str, ...]
) -> None:
    @settings(max_examples=examples(sampler, 8), deadline=None)
    @given(
        seed=st.none() | SEEDS,
        turns=st.lists(st.integers(0, 3), max_size=60),
    )
    def check(seed: int | None, turns: list[int]) -> None:
        storage = InMemoryStorage()
        workers = [Process(storage, sampler, seed, space) for _ in range(4)]
        running: dict[int, Trial] = {}
        for turn in (*turns, *itertools.islice(itertools.cycle(range(4)), 100)):
            if turn in running:
                workers[turn].tell(running.pop(turn), f"w{turn}")
            else:
                claim = workers[turn].shared.claim(f"w{turn}", set())
                if isinstance(claim, Trial):
                    running[turn] = claim
        assert not running
        found = points(workers[0])
        assert len(found) >= N_TRIALS
        assert len({json.dumps(point, sort_keys=True) for point in found}) == len(found)

    check()


def test_without_a_seed_two_studies_differ() -> None:
    runs = []
    for _ in range(2):
        process = Process(InMemoryStorage(), "random", None, ENDLESS)
        process.run()
        runs.append(points(process))
    assert runs[0] != runs[1]


@given(seed=SEEDS | st.text(), numbers=st.sets(st.integers(0, 10**6), min_size=2))
def test_every_trial_has_a_seed_of_its_own(seed: Any, numbers: set[int]) -> None:
    sampler = TrialSampler(lambda seed: RandomSampler(seed), seed, SearchSpace({}, {}), 0)
    trials = [create_trial(value=0.0) for _ in numbers]
    for trial, number in zip(trials, numbers, strict=True):
        trial.number = number
    seeds = {sampler._trial_seed(trial) for trial in trials}
    assert len(seeds) == len(numbers)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_what_trials_draw_is_spread_evenly() -> None:
    """Seeds in a row must not make a pattern of what they draw first."""
    sampler = TrialSampler(lambda seed: RandomSampler(seed), 0, SearchSpace({}, {}), 0)
    trial = create_trial(value=0.0)
    drawn = []
    for trial.number in range(5000):
        drawn.append(np.random.RandomState(sampler._trial_seed(trial)).uniform(size=2))
    first, second = np.array(drawn).T
    for pairs in ((first, second), (first[:-1], first[1:])):
        counts, *_ = np.histogram2d(*pairs, bins=10, range=[[0, 1], [0, 1]])
        assert stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_values_that_a_partial_sampler_fixes_stay_fixed() -> None:
    process = Process(InMemoryStorage(), "partial fixed", 3, FINITE)
    process.run()
    assert {point["c"] for point in points(process)} == {2}


def test_a_partial_sampler_with_nothing_left_keeps_to_its_values() -> None:
    process = Process(InMemoryStorage(), "partial fixed", 3, ("a=1,2", "b=1,2,3", "c=1,2,4"), None)
    process.run()
    found = points(process)
    assert {point["c"] for point in found} == {2}
    assert len({json.dumps(point) for point in found}) == 6


@pytest.mark.parametrize(
    "sampler", ["tpe", "tpe of groups", "random", "cmaes", "cmaes with margin", "gp"]
)
def test_each_suggestion_is_what_optuna_suggests_with_the_trials_seed(sampler: str) -> None:
    """Unless a trial has that point: Optuna's `gp` suggests the same corner again and again.

    Genetic samplers are asked for parents first, so they draw something else.
    """
    process = Process(InMemoryStorage(), sampler, 5, ENDLESS)
    process.run()
    study: Any = process.shared.study
    made: TrialSampler = study.sampler
    alike = 0
    for trial in process.trials:
        before = process.trials[: trial.number]
        plain = optuna.create_study()
        for other in before:
            # As samplers see it: what cannot be run is the worst there is.
            other.state = TrialState.COMPLETE if other.values else TrialState.PRUNED
            plain.add_trial(other)
        plain.sampler = sampler_of_trial(SAMPLERS[sampler], made._trial_seed(trial))
        suggested = process.shared.space.suggest(None, plain.ask())
        if suggested in [other.params for other in before]:
            assert trial.params != suggested
        else:
            assert trial.params == suggested
            alike += 1
    assert alike > N_TRIALS / 2


def test_a_space_too_large_to_be_listed_is_sampled_without_a_point_twice() -> None:
    space = SearchSpace.parse(["seed=int(interval(0,4294967295))", "b=range(0,1000000000)"])
    assert space.size() == 4294967296 * 10**9
    assert space.point_at(10**9 + 7) == {"seed": 1, "b": 7}
    assert next(space.points()) == {"seed": 0, "b": 0}
    process = Process(
        InMemoryStorage(), "random", 0, ("seed=int(interval(0,4294967295))", "b=range(0,9)")
    )
    process.run()
    assert len({point["seed"] for point in points(process)}) == len(points(process))


def test_a_sampler_that_insists_on_one_point_gives_way_in_a_space_too_large_to_be_listed() -> None:
    space = SearchSpace.parse(["seed=int(interval(0,4294967295))"])
    node = {"_target_": "tests.sweep.study.own_sampler.Stubborn"}
    storage = InMemoryStorage()
    open_study("s", storage, ["minimize"])
    study = LearningStudy("s", storage, new_sampler(node, space, 9), optuna.pruners.NopPruner())
    shared = SharedStudy(study, storage, Path("unused"), space, Budget(9))
    found = []
    while isinstance(trial := shared.claim("w", set()), Trial):
        found.append(trial.params["seed"])
        shared.tell(trial, "w", Outcome(End.COMPLETE, values=(0.0,)))
    assert found[0] == 7
    assert len(set(found)) == 9
