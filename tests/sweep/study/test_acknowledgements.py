"""A storage that stores, and goes away before it says so: nothing is lost, nothing done twice."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import optuna
import pytest
import sqlalchemy
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.storages._grpc.server import make_server
from optuna.trial import Trial, TrialState

from sweep.study import storage as storages
from sweep.study.attributes import ATTEMPTS, IMPOSSIBLE, REASON
from sweep.study.samplers import LearningStudy, new_sampler
from sweep.study.shared import Budget, Rest, SharedStudy, open_study, quiet_optuna
from sweep.study.space import SearchSpace
from sweep.study.storage import open_storage
from sweep.trial.outcome import End, Outcome
from tests.sweep.postgres import free_port

quiet_optuna()

# Of every kind: a trial is put back, one fails, one cannot be run, one is not a number.
OUTCOMES = (
    Outcome(End.COMPLETE, values=(1.0,)),
    Outcome(End.FAILED, "broken"),
    Outcome(End.IMPOSSIBLE, "no such student"),
    Outcome(End.COMPLETE, values=(float("nan"),)),
    Outcome(End.PRUNED, "pruned"),
    Outcome(End.COMPLETE, values=(2.0,)),
)
# More than the writes of one course.
WRITES = 90


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits, waits a hundredth of a second."""
    monkeypatch.setattr(storages.time, "sleep", lambda seconds: None)


class Lossy:
    """Loses the acknowledgement of one commit that writes.

    Args:
        engine: Whose commits.
        writes: Whether a connection has something to commit.
        cut: What happens to the connection; returns the driver's error.
        left: After how many.
    """

    def __init__(
        self,
        engine: sqlalchemy.Engine,
        writes: Callable[[Any], bool],
        cut: Callable[[Any], Exception],
        left: int,
    ) -> None:
        self.lost = False
        dialect: Any = engine.dialect
        commit = dialect.do_commit

        def lossy(connection: Any) -> None:
            nonlocal left
            left -= writes(connection)
            commit(connection)
            if left < 0 and not self.lost:
                self.lost = True
                raise cut(connection)

        dialect.do_commit = lossy


def locked(connection: Any) -> Exception:
    return sqlite3.OperationalError("database is locked")


def shared(storage: BaseStorage, directory: Path, space: SearchSpace) -> SharedStudy:
    node = {"_target_": "optuna.samplers.TPESampler", "seed": 3, "n_startup_trials": 2}
    open_study("s", storage, ["minimize"])
    sampler = new_sampler(node, space, 3)
    study = LearningStudy("s", storage, sampler, optuna.pruners.NopPruner())
    budget = Budget(3, max_failure_rate=1.0, max_retries=9)
    return SharedStudy(study, storage, directory, space, budget)


def course(storage: BaseStorage, directory: Path) -> list[Any]:
    """One worker's way through a study, with one trial that stops and is taken up again."""
    space = SearchSpace.parse(["a=interval(0.0,1.0)", "b=1,2,4", "c=range(0,9)"])
    study = shared(storage, directory, space)
    stopped = False
    while isinstance(trial := study.claim("w", set()), Trial):
        if trial.number == 1 and not stopped:
            study.put_back(trial, "w")
            stopped = True
            continue
        assert study.tell(trial, "w", OUTCOMES[trial.number])
    assert trial is Rest.BUDGET
    return summary(study)


def summary(study: SharedStudy) -> list[Any]:
    return [
        (
            trial.number,
            trial.state,
            trial.params,
            trial.values,
            trial.user_attrs.get(REASON),
            trial.user_attrs.get(IMPOSSIBLE),
            trial.user_attrs.get(ATTEMPTS),
        )
        for trial in study.study.get_trials()
    ]


def check_at_every_write(
    make: Callable[[], BaseStorage],
    writes: Callable[[Any], bool],
    cut: Callable[[Any], Exception],
    directory: Path,
) -> None:
    """Whichever write's acknowledgement is lost, the study is the same."""
    undisturbed = course(make(), directory)
    assert [state for _, state, *_ in undisturbed] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.FAIL,
        TrialState.PRUNED,
        TrialState.COMPLETE,
    ]
    for write in range(WRITES):
        storage = make()
        engine = storages._engine(storage)
        assert engine is not None
        lossy = Lossy(engine, writes, cut, write)
        assert course(storage, directory) == undisturbed, f"write {write}"
        engine.dispose()
        if not lossy.lost:
            break
    # A trial alone takes seven: made, three values, its folder, its reason, its end.
    assert 30 < write < WRITES - 1


def test_sqlite_at_every_write(tmp_path: Path) -> None:
    numbers = itertools.count()
    check_at_every_write(
        lambda: open_storage(f"sqlite:///{tmp_path}/{next(numbers)}.db"),
        lambda connection: connection.in_transaction,
        locked,
        tmp_path,
    )


def test_what_was_told_is_told_to_the_one_who_asks_again(tmp_path: Path) -> None:
    storage = open_storage(f"sqlite:///{tmp_path}/s.db")
    study = shared(storage, tmp_path, SearchSpace.parse(["a=interval(0.0,1.0)"]))
    trial = study.claim("w", set())
    assert isinstance(trial, Trial)
    tell = study.study.tell
    calls = 0

    def lossy_tell(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        tell(*args, **kwargs)
        raise sqlalchemy.exc.OperationalError("COMMIT", {}, locked(None))

    study.study.tell = lossy_tell  # type: ignore[method-assign]
    assert study.tell(trial, "w", Outcome(End.COMPLETE, values=(1.0,)))
    assert calls == 1
    # What another has told is not taken for one's own.
    assert not study.tell(trial, "w", Outcome(End.COMPLETE, values=(1.0,)))


class _Unavailable(grpc.RpcError):
    """As grpc reports a proxy that is away."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE


_Unavailable.__module__ = "grpc.of_a_test"


class _LossyStub:
    """A proxy that does what it is told, and loses the answer to one call that writes."""

    def __init__(self, stub: Any, left: int) -> None:
        self._stub = stub
        self.left = left

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._stub, name)
        if not name.startswith(("Set", "Create")):
            return method

        def call(request: Any) -> Any:
            answer = method(request)
            self.left -= 1
            if self.left == -1:
                raise _Unavailable
            return answer

        return call


@contextlib.contextmanager
def proxy(behind: BaseStorage) -> Iterator[str]:
    """Optuna's proxy in front of a storage, in this process."""
    port = free_port()
    server = make_server(behind, "localhost", port)
    server.start()
    try:
        yield f"grpc://localhost:{port}"
    finally:
        server.stop(None).wait()


def test_a_grpc_proxy_at_every_call(tmp_path: Path) -> None:
    with proxy(InMemoryStorage()) as url:
        undisturbed = course(open_storage(url), tmp_path)
    for call in range(WRITES):
        with proxy(InMemoryStorage()) as url:
            storage: Any = open_storage(url)
            storage._stub = stub = _LossyStub(storage._stub, call)
            assert course(storage, tmp_path) == undisturbed, f"call {call}"
            storage.close()
        if stub.left >= 0:
            break
    assert 30 < call < WRITES - 1
