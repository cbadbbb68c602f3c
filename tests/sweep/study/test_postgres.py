"""Studies in PostgreSQL, with a server of the tests' own that can be stopped."""

from __future__ import annotations

import functools
import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from sweep import rerun
from sweep.study.shared import quiet_optuna
from sweep.study.storage import _server_lock, open_storage
from tests.sweep.conftest import Sweep
from tests.sweep.postgres import PASSWORD, Server, find_binaries, free_port, running_server
from tests.sweep.study.test_acknowledgements import check_at_every_write
from tests.sweep.study.test_shared import _die_holding_the_lock, _hammer, run_all, shared
from tests.sweep.test_passwords import holding
from tests.waiting import eventually

pytestmark = pytest.mark.slow

quiet_optuna()

# Some seconds a trial, with ten reports.
LONG = ("data.train_batches=400", "trainer.val_check_interval=40")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed")
    with running_server(binaries) as server:
        yield server


def new_database(server: Server) -> str:
    """The name of an empty one."""
    name = f"test_{time.time_ns()}"
    engine = sqlalchemy.create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return name


@pytest.fixture
def url(server: Server) -> str:
    """An empty database."""
    return server.url(new_database(server))


@contextmanager
def sweeping(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m sweep -m experiment=tiny ...` in a process of its own, with what it prints."""
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "sweep", "-m", "experiment=tiny", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        # Its workers end with it.
        process.kill()
        process.communicate()


@functools.cache
def opened(url: str) -> BaseStorage:
    """One for all who look: each holds connections of the server."""
    return open_storage(url)


def load(url: str, name: str = "a") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=opened(url))


def states(url: str) -> list[TrialState]:
    return [trial.state for trial in load(url).trials]


def values(url: str, key: str) -> list[Any]:
    return sorted(trial.params[key] for trial in load(url).trials)


def test_a_sweep_with_two_workers(folder: Path, url: str) -> None:
    arguments = ("study=a", "student.qkv_layers=0,1,2,3", "hydra.sweeper.n_jobs=2")
    with sweeping(folder, *arguments, f"hydra.sweeper.storage={url}") as process:
        said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert states(url) == [TrialState.COMPLETE] * 4
    assert values(url, "student.qkv_layers") == [0, 1, 2, 3]
    assert len(list(folder.glob("multirun/a/[0-3]/trial.json"))) == 4
    assert len(list(folder.glob("multirun/a/workers/[01]/sweep.log"))) == 2
    assert not (folder / "multirun/studies.db").exists()


def test_a_password_in_a_file_opens_the_storage_and_is_saved_nowhere(
    folder: Path, url: str, with_storage: Callable[[str], tuple[str, ...]]
) -> None:
    arguments = (*with_storage(url), "study=a", "student.qkv_layers=0,1", "hydra.sweeper.n_jobs=2")
    with sweeping(folder, *arguments) as process:
        said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert states(url) == [TrialState.COMPLETE] * 2
    assert rerun.main(["multirun/a/1"]) == 0
    assert not holding(folder / "multirun", PASSWORD)


def test_two_sweeps_on_machines_without_a_common_folder_share_the_budget(
    tmp_path: Path, url: str
) -> None:
    # Both start at once, on a database without tables.
    space = ("optimizer.lr=interval(1e-4,1e-2)", "hydra.sweeper.n_trials=6")
    arguments = ("study=a", *space, f"hydra.sweeper.storage={url}")
    with (
        sweeping(tmp_path / "one", *arguments) as one,
        sweeping(tmp_path / "two", *arguments) as two,
    ):
        for process in (one, two):
            said, _ = process.communicate(timeout=400)
            assert process.returncode == 0, said
            assert "Study a: 6 complete." in said
    assert states(url) == [TrialState.COMPLETE] * 6
    for trial in load(url).trials:
        assert (Path(trial.user_attrs["directory"]) / "trial.json").exists()


def test_processes_share_a_budget_to_the_trial(tmp_path: Path, url: str) -> None:
    # They make the tables, too.
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_hammer, args=(url, str(tmp_path), f"w{i}")) for i in range(4)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
            assert worker.exitcode == 0
    finally:
        for worker in workers:
            worker.kill()
    trials = load(url, "s").trials
    assert sorted(trial.params["a"] for trial in trials) == list(range(40))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}


def test_who_is_killed_holding_the_lock_does_not_keep_it(tmp_path: Path, url: str) -> None:
    study = shared(tmp_path, ["a=1,2"], 2, open_storage(url))
    spawn = multiprocessing.get_context("spawn")
    victim = spawn.Process(target=_die_holding_the_lock, args=(url, str(tmp_path)))
    victim.start()
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    assert run_all(study) == [{"a": 1}, {"a": 2}]


def test_a_connection_cut_after_any_write_loses_and_doubles_nothing(
    tmp_path: Path, server: Server
) -> None:
    def make() -> BaseStorage:
        return open_storage(server.url(new_database(server)))

    def writes(connection: Any) -> bool:
        [number] = connection.execute("SELECT pg_current_xact_id_if_assigned()").fetchone()
        return number is not None

    def cut(connection: Any) -> Exception:
        """Ends all of this process's sessions, that of the lock too."""
        database = connection.dbapi_connection.info.dbname
        engine = sqlalchemy.create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        with engine.connect() as other:
            other.execute(sqlalchemy.text(end), {"name": database})
        engine.dispose()
        return psycopg.OperationalError("server closed the connection unexpectedly")

    check_at_every_write(make, writes, cut, tmp_path)


def test_a_machine_that_vanishes_does_not_keep_the_lock_for_hours(url: str) -> None:
    held = sqlalchemy.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    engine, other = sqlalchemy.create_engine(url), sqlalchemy.create_engine(url)
    with _server_lock(engine, "s"), other.connect() as connection:
        assert connection.execute(held).scalar_one() == 1
    # The only connection in this pool is the one that had the lock.
    with engine.connect() as connection:
        for timeout in ("tcp_keepalives_idle", "tcp_user_timeout"):
            find = sqlalchemy.text(f"SELECT setting FROM pg_settings WHERE name = '{timeout}'")
            assert 0 < int(connection.execute(find).scalar_one()) <= 60_000
        assert connection.execute(held).scalar_one() == 0
    engine.dispose()
    other.dispose()


def test_a_server_away_for_half_a_minute_costs_waiting_but_no_trial(
    folder: Path, server: Server, url: str
) -> None:
    space = ("optimizer.lr=interval(1e-4,1e-2)", "hydra.sweeper.n_trials=4")
    arguments = ("study=a", *LONG, *space, "hydra.sweeper.n_jobs=2")
    with sweeping(folder, *arguments, f"hydra.sweeper.storage={url}") as process:
        eventually(lambda: len(running_reports(url)) == 2, "two trials that run and report")
        server.stop()
        try:
            time.sleep(30)
            assert process.poll() is None
        finally:
            server.start()
        said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert "The storage does not answer, waiting for it" in said
    check_complete(url)


def check_complete(url: str) -> None:
    """Four trials, none of them begun twice, and none with a report missing."""
    trials = load(url).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    for trial in trials:
        assert "attempts" not in trial.user_attrs
        assert sorted(trial.intermediate_values) == list(range(40, 401, 40))


def running_reports(url: str) -> list[int]:
    """How many values each running trial has reported, where it has any."""
    try:
        trials = load(url).trials
    except KeyError:
        return []
    running = [trial for trial in trials if trial.state is TrialState.RUNNING]
    return [len(trial.intermediate_values) for trial in running if trial.intermediate_values]


def test_a_worker_waits_for_a_server_that_is_away_when_it_starts(server: Server, url: str) -> None:
    server.stop()
    spawn = multiprocessing.get_context("spawn")
    waiting = spawn.Process(target=_open_patiently, args=(url,))
    try:
        waiting.start()
        time.sleep(8)
        assert waiting.is_alive()
        server.start()
        waiting.join(30)
        assert waiting.exitcode == 0
    finally:
        waiting.kill()
        if not server.is_running():
            server.start()


def _open_patiently(url: str) -> None:
    open_storage(url, wait=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("open-sesame", "open-barley"), 'password authentication failed for user "tester"'),
        (("/test_", "/no_"), 'FATAL:  database "no_'),
        (("127.0.0.1", "nowhere.invalid"), "failed to resolve host 'nowhere.invalid'"),
        (("127.0.0.1:", "127.0.0.1:port"), "the port is not a number"),
    ],
    ids=["password", "database", "host", "port"],
)
def test_a_storage_that_does_not_open_is_one_message(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], url: str, change: tuple[str, str], reason: str
) -> None:
    wrong = url.replace(*change)
    assert sweep("-m", "study=a", "student.qkv_layers=0,1", f"hydra.sweeper.storage={wrong}") == 1
    check_message(capfd.readouterr().err, reason)


def test_nobody_listening_is_one_message(sweep: Sweep, capfd: pytest.CaptureFixture[str]) -> None:
    nobody = f"postgresql+psycopg://tester:open-sesame@127.0.0.1:{free_port()}/a"
    assert sweep("-m", "study=a", "student.qkv_layers=0,1", f"hydra.sweeper.storage={nobody}") == 1
    check_message(capfd.readouterr().err, "Connection refused")


def check_message(said: str, reason: str) -> None:
    lines = said.strip().splitlines()
    assert len(lines) == 2, said
    assert lines[0].startswith("Error: hydra.sweeper.storage=postgresql+psycopg://")
    assert "allowed: " in lines[0]
    assert reason in lines[1]
    assert "open-" not in said


@contextmanager
def grpc_proxy(url: str, port: int) -> Iterator[None]:
    """Optuna's proxy in front of a storage, in a process of its own."""
    program = (
        "from optuna.storages import run_grpc_proxy_server\n"
        "from sweep.study.storage import open_storage\n"
        f"run_grpc_proxy_server(open_storage({url!r}), host='localhost', port={port})"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_through_a_grpc_proxy_that_is_restarted(folder: Path, url: str) -> None:
    port = free_port()
    arguments = (*LONG, *("study=a", "student.qkv_layers=0,1,2,3", "hydra.sweeper.n_jobs=2"))
    with ExitStack() as stack:
        with grpc_proxy(url, port):
            storage = f"hydra.sweeper.storage=grpc://localhost:{port}"
            process = stack.enter_context(sweeping(folder, *arguments, storage))
            eventually(lambda: len(running_reports(url)) == 2, "two trials that run and report")
        time.sleep(5)
        stack.enter_context(grpc_proxy(url, port))
        said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    # What the proxy was told is in the database.
    check_complete(url)
    assert values(url, "student.qkv_layers") == [0, 1, 2, 3]


def test_no_grpc_proxy_is_one_message(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.study.storage._CONNECT_SECONDS", 1)
    storage = f"hydra.sweeper.storage=grpc://localhost:{free_port()}"
    assert sweep("-m", "study=a", "student.qkv_layers=0,1", storage) == 1
    said = capfd.readouterr().err
    assert said.startswith("Error: hydra.sweeper.storage=grpc://localhost:")
    assert "nothing answers there within 1 seconds" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("module", "storage", "install"),
    [
        ("grpc", "grpc://localhost:1", "pip install grpcio protobuf"),
        ("psycopg", "postgresql+psycopg://u:secret@h/d", "pip install 'slicewise[postgres]'"),
    ],
)
def test_a_missing_driver_is_one_message(
    sweep: Sweep,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    storage: str,
    install: str,
) -> None:
    for name in [m for m in sys.modules if m == module or m.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    storage = f"hydra.sweeper.storage={storage}"
    assert sweep("-m", "study=a", "student.qkv_layers=0,1", storage) == 1
    said = capfd.readouterr().err
    assert "allowed: a storage whose driver is installed" in said
    assert install in said
    assert "secret" not in said
    assert "Traceback" not in said
