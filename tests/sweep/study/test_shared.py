"""Claims, budget, putting back: what must be decided once is, whoever dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState

from slicewise.errors import SlicewiseError
from sweep.study import shared as shared_study
from sweep.study.attributes import ATTEMPTS
from sweep.study.failures import failures
from sweep.study.identity import check_identity, keep_identity
from sweep.study.samplers import LearningStudy, new_sampler
from sweep.study.shared import Budget, Rest, SharedStudy, open_study, quiet_optuna
from sweep.study.space import SearchSpace
from sweep.study.storage import locked, open_storage
from sweep.trial.outcome import End, Outcome
from tests.clock import Clock

quiet_optuna()


def shared(
    directory: Path,
    arguments: list[str],
    n_trials: int,
    storage: Any = None,
    sampler: str = "RandomSampler",
    seed: int = 0,
    **budget: Any,
) -> SharedStudy:
    storage = storage or InMemoryStorage()
    space = SearchSpace.parse(arguments)
    node = {"_target_": f"optuna.samplers.{sampler}", "seed": seed}
    made, pruner = new_sampler(node, space, n_trials), optuna.pruners.NopPruner()
    open_study("s", storage, ["minimize"])
    study = LearningStudy("s", storage, made, pruner)
    return SharedStudy(study, storage, directory, space, Budget(n_trials, **budget))


def claim(study: SharedStudy, worker: str = "w", dead: frozenset[str] = frozenset()) -> Trial:
    trial = study.claim(worker, set(dead))
    assert isinstance(trial, Trial), trial
    return trial


def run_all(study: SharedStudy, worker: str = "w") -> list[dict[str, Any]]:
    points = []
    while isinstance(trial := study.claim(worker, set()), Trial):
        points.append(dict(trial.params))
        assert study.tell(trial, worker, Outcome(End.COMPLETE, values=(float(trial.number),)))
    return points


def test_a_small_space_is_run_once_per_point_in_order(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=1,2,4", "b=x,y"], n_trials=20)
    expected = [{"a": a, "b": b} for a in (1, 2, 4) for b in ("x", "y")]
    assert run_all(study) == expected
    assert study.claim("w", set()) is Rest.EXHAUSTED


def test_a_space_of_exactly_the_budget_is_run_whole(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=1,2,4"], n_trials=3)
    assert run_all(study) == [{"a": 1}, {"a": 2}, {"a": 4}]
    assert study.claim("w", set()) is Rest.BUDGET


@pytest.mark.parametrize("sampler", ["TPESampler", "RandomSampler", "NSGAIISampler"])
def test_a_larger_finite_space_never_repeats_a_point(tmp_path: Path, sampler: str) -> None:
    study = shared(tmp_path, ["a=range(0,6)", "b=1,2,3,4,5,6"], n_trials=35, sampler=sampler)
    points = run_all(study)
    assert len(points) == 35
    assert len({tuple(point.items()) for point in points}) == 35


def test_an_endless_space_is_sampled_to_the_budget(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=interval(0.0,1.0)", "b=1,2"], n_trials=7)
    assert len(run_all(study)) == 7
    assert study.claim("w", set()) is Rest.BUDGET


def test_who_would_exceed_the_budget_waits(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=interval(0.0,1.0)"], n_trials=2)
    one, two = claim(study, "1"), claim(study, "2")
    assert study.claim("3", set()) is Rest.WAIT
    study.tell(one, "1", Outcome(End.FAILED, "broken"))
    three = claim(study, "3")
    assert three.number == 2
    study.tell(two, "2", Outcome(End.COMPLETE, values=(1.0,)))
    study.tell(three, "3", Outcome(End.PRUNED))
    assert study.claim("3", set()) is Rest.BUDGET


def test_a_dead_workers_trial_is_taken_up_again_under_its_number(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=1,2,3"], n_trials=3)
    lost = claim(study, "dies")
    params = dict(lost.params)
    again = claim(study, "lives", frozenset({"dies"}))
    assert again.number == lost.number
    assert again.params == params
    assert again.user_attrs["attempts"] == 1
    assert not study.tell(lost, "dies", Outcome(End.COMPLETE, values=(0.0,)))
    assert study.tell(again, "lives", Outcome(End.COMPLETE, values=(1.0,)))
    assert run_all(study) == [{"a": 2}, {"a": 3}]


def test_a_trial_whose_worker_dies_too_often_fails(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=1,2"], n_trials=2, max_retries=1, max_failure_rate=1.0)
    claim(study, "1")
    again = claim(study, "2", frozenset({"1"}))
    assert again.number == 0
    other = claim(study, "3", frozenset({"1", "2"}))
    assert other.number == 1
    [failed] = study.study.get_trials(states=(TrialState.FAIL,))
    assert "it died 2 times (max_retries=1)" in failed.user_attrs["reason"]


def test_a_trial_lost_between_its_making_and_its_naming_is_not_lost(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=1,2"], n_trials=2)
    study.study.ask()
    assert claim(study, "w").number == 0
    assert claim(study, "v").params == {"a": 2}


def test_a_stopped_trial_goes_on_elsewhere(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=interval(0.0,1.0)"], n_trials=1)
    stopped = claim(study, "1")
    params = dict(stopped.params)
    study.put_back(stopped, "1")
    again = claim(study, "2")
    assert (again.number, again.params) == (stopped.number, params)
    assert "attempts" not in again.user_attrs


def test_trials_of_a_sweep_that_the_user_killed_wait_without_a_mark(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=1,2,4"], n_trials=3)
    first, other = claim(study, "abc/0-1"), claim(study, "abcd/0-1")
    done = claim(study, "abc/1-1")
    study.tell(done, "abc/1-1", Outcome(End.COMPLETE, values=(0.0,)))
    for _ in range(5):
        study.release_trials_of("abc")
        assert claim(study, "abc/0-1").number == first.number
    study.release_trials_of("abc")
    states = [trial.state for trial in study.study.trials]
    assert states == [TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE]
    assert ATTEMPTS not in study.study.trials[0].user_attrs
    assert other.number == 1


def test_failures_stop_the_study_past_their_rate(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=interval(0.0,1.0)"], n_trials=10, max_failure_rate=0.2)
    for _ in range(3):
        study.tell(claim(study), "w", Outcome(End.FAILED, "broken"))
    assert study.claim("w", set()) is Rest.FAILURES


def test_impossible_points_are_no_failures(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=range(0,5)"], n_trials=5, max_failure_rate=0.0)
    for number in range(5):
        trial = claim(study)
        if number % 2:
            study.tell(trial, "w", Outcome(End.IMPOSSIBLE, f"{number} is odd"))
        else:
            study.tell(trial, "w", Outcome(End.COMPLETE, values=(1.0,)))
    assert study.claim("w", set()) is Rest.EXHAUSTED


@pytest.mark.parametrize("seed", [1, 2])
def test_a_sampler_learns_where_points_are_impossible(tmp_path: Path, seed: int) -> None:
    """The best lies at the bound, as with students of at most so many parameters."""
    found = {}
    for kind in (optuna.Study, LearningStudy):
        space = ["x=interval(0,1)", "y=interval(0,1)"]
        study = shared(tmp_path, space, 40, sampler="TPESampler", seed=seed)
        study.study = kind("s", study.storage, study.study.sampler)
        while isinstance(trial := study.claim("w", set()), Trial):
            size = trial.params["x"] + trial.params["y"]
            if size > 0.5:
                study.tell(trial, "w", Outcome(End.IMPOSSIBLE, f"size {size}"))
            else:
                study.tell(trial, "w", Outcome(End.COMPLETE, values=(-size,)))
        states = Counter(trial.state for trial in study.study.get_trials())
        found[kind] = (trial, states[TrialState.FAIL])
    end, impossible = found[LearningStudy]
    assert end is Rest.BUDGET
    assert impossible < 80 < found[optuna.Study][1]


def test_a_mistake_that_every_point_shares_ends_the_study_early(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=interval(0.0,1.0)"], n_trials=100)
    for _ in range(3):
        study.tell(claim(study), "w", Outcome(End.IMPOSSIBLE, "no such teacher"))
    assert study.claim("w", set()) is Rest.FAILURES


def test_no_trial_starts_after_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(shared_study, "time", clock)
    study = shared(tmp_path, ["a=1,2"], n_trials=2, deadline=clock.time() + 60)
    clock.sleep(59)
    claim(study, "v")
    clock.sleep(2)
    assert study.claim("w", set()) is Rest.TIMEOUT


def test_a_value_that_is_no_number_fails_the_trial(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=1,2"], n_trials=2)
    study.tell(claim(study), "w", Outcome(End.COMPLETE, values=(float("nan"),)))
    [failed] = study.study.get_trials(states=(TrialState.FAIL,))
    assert "nan" in failed.user_attrs["reason"]


def test_values_enqueued_by_hand_are_kept(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=range(0,100)", "b=range(0,100)"], n_trials=3)
    study.study.enqueue_trial({"a": 42, "b": 7})
    assert claim(study).params == {"a": 42, "b": 7}


def test_what_failed_is_tried_again_once_by_whoever_starts_once_more(tmp_path: Path) -> None:
    study = shared(tmp_path, ["a=1,2,3,4"], n_trials=20, max_failure_rate=0.05)
    ends = [End.IMPOSSIBLE, End.FAILED, End.COMPLETE]
    for end in ends:
        study.tell(claim(study), "w", Outcome(end, "so", (1.0,) * (end is End.COMPLETE)))
    # What would end so again is not tried.
    assert study.try_again() == []
    study.tell(claim(study), "w", Outcome(End.CRASHED, "no such file"))
    assert study.rest() is Rest.FAILURES
    assert study.try_again() == [3]
    assert study.try_again() == []
    again = claim(study)
    assert (again.number, again.params) == (4, {"a": 4})
    assert study.claim("v", set()) is Rest.WAIT
    study.tell(again, "w", Outcome(End.LACKING, "no such file"))
    assert study.try_again() == [4]
    assert study.study.get_trials()[5].system_attrs["retry_history"] == [3, 4]
    study.tell(claim(study), "w", Outcome(End.COMPLETE, values=(1.0,)))
    assert study.try_again() == []
    assert study.rest() is Rest.EXHAUSTED
    assert [trial.number for trial in failures(study.study.get_trials())] == [0, 1]


@settings(max_examples=30, deadline=None)
@given(
    events=st.lists(
        st.sampled_from(["claim", "finish", "fail", "crash", "again", "die", "stop"]), max_size=60
    ),
    n_trials=st.integers(1, 6),
)
def test_no_course_of_events_exceeds_or_misses_the_budget(events: list[str], n_trials: int) -> None:
    """Whatever workers do, in the end there are n_trials finished trials, no point twice."""
    study = shared(
        Path("unused"),
        ["a=range(0,50)"],
        n_trials,
        max_retries=1000,
        max_failure_rate=1.0,
    )
    running: list[tuple[Trial, str]] = []
    for step, event in enumerate(events):
        if event == "claim":
            worker = f"w{step}"
            trial = study.claim(worker, set())
            if isinstance(trial, Trial):
                running.append((trial, worker))
        elif event == "again":
            study.try_again()
        elif running:
            trial, worker = running.pop(0)
            if event == "finish":
                study.tell(trial, worker, Outcome(End.COMPLETE, values=(1.0,)))
            elif event == "fail":
                study.tell(trial, worker, Outcome(End.FAILED, f"{step}"))
            elif event == "crash":
                study.tell(trial, worker, Outcome(End.CRASHED, f"{step}"))
            elif event == "stop":
                study.put_back(trial, worker)
            else:
                study.put_back_trials_of({worker})
        finished = study.finished()
        assert finished + len(running) <= n_trials
    for trial, worker in running:
        study.tell(trial, worker, Outcome(End.PRUNED))
    if study.rest() is Rest.FAILURES:
        return
    run_all(study)
    trials = study.study.get_trials()
    counted = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(counted) == n_trials
    tries_of = {t.number: t.system_attrs.get("failed_trial") for t in trials}
    first = [t.params["a"] for t in trials if tries_of[t.number] is None]
    assert len(set(first)) == len(first)
    for trial in trials:
        if (failed := tries_of[trial.number]) is not None:
            assert trial.params == trials[failed].params
            assert trials[failed].state is TrialState.FAIL
    assert len({t.params["a"] for t in counted}) == n_trials


def _hammer(url: str, directory: str, worker: str) -> None:
    quiet_optuna()
    study = shared(Path(directory), ["a=range(0,40)"], 40, open_storage(url))
    while (trial := study.claim(worker, set())) is not Rest.BUDGET:
        if isinstance(trial, Trial):
            study.tell(trial, worker, Outcome(End.COMPLETE, values=(1.0,)))
        else:
            time.sleep(0.01)


def test_processes_share_a_budget_to_the_trial(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    shared(tmp_path, ["a=range(0,40)"], 40, open_storage(url))
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_hammer, args=(url, str(tmp_path), f"w{i}")) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    trials = optuna.load_study(study_name="s", storage=url).trials
    assert sorted(trial.params["a"] for trial in trials) == list(range(40))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def _die_holding_the_lock(url: str, directory: str) -> None:
    study = shared(Path(directory), ["a=1,2"], 2, open_storage(url))
    with locked(study.storage, "s", study.directory):
        study.study.ask()
        os.kill(os.getpid(), signal.SIGKILL)


def test_who_dies_holding_the_lock_does_not_keep_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    study = shared(tmp_path, ["a=1,2"], 2, open_storage(url))
    spawn = multiprocessing.get_context("spawn")
    victim = spawn.Process(target=_die_holding_the_lock, args=(url, str(tmp_path)))
    victim.start()
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    assert run_all(study) == [{"a": 1}, {"a": 2}]


def test_another_identity_is_refused_with_the_difference() -> None:
    study = optuna.create_study()

    def go_on(identity: dict[str, Any], force: bool = False) -> None:
        check_identity(study, identity, force)
        keep_identity(study, identity)

    go_on({"config": {"seed": 2}})
    # A study without trials is about nothing yet.
    go_on({"config": {"seed": 0, "data": {"batch_size": 4}}})
    study.ask()
    go_on({"config": {"data": {"batch_size": 4}, "seed": 0}})
    go_on({"config": {"data": {"batch_size": 4, "mask": None}, "seed": 0}})
    with pytest.raises(SlicewiseError) as refused:
        go_on({"config": {"seed": 0, "data": {"batch_size": 8}}})
    assert "config.data.batch_size: was 4, now 8" in str(refused.value)
    assert "+resume=force" in str(refused.value)
    go_on({"config": {"seed": 1}}, force=True)
    go_on({"config": {"seed": 1}})


def test_a_reader_does_not_hold_up_a_writer(tmp_path: Path) -> None:
    """With a rollback journal, two workers once waited for each other until the end of days."""
    url = f"sqlite:///{tmp_path}/studies.db"
    study = optuna.create_study(study_name="s", storage=open_storage(url))
    for _ in range(3):
        study.ask()
    reader = sqlite3.connect(tmp_path / "studies.db")
    rows = reader.execute("SELECT * FROM trials")
    assert rows.fetchone() is not None
    study.ask()
    assert len(study.get_trials()) == 4
    reader.close()


KEPT_AT_EXIT = """
import sys, threading
from optuna.study import StudyDirection
from sweep.study.storage import open_storage

storage = open_storage(sys.argv[1])
storage.create_new_study([StudyDirection.MINIMIZE], "s")
read = threading.Event()

def look() -> None:
    storage.get_all_studies()
    read.set()
    threading.Event().wait()

threading.Thread(target=look, daemon=True).start()
read.wait()
"""


def test_a_sqlite_file_has_everything_in_it_when_its_last_process_ends(tmp_path: Path) -> None:
    """Whoever copied multirun/studies.db after a sweep copied an empty storage."""
    url = f"sqlite:///{tmp_path}/studies.db"
    subprocess.run([sys.executable, "-c", KEPT_AT_EXIT, url], check=True)
    assert os.listdir(tmp_path) == ["studies.db"]
