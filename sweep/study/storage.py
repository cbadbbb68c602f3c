"""The storage of a study: opened by its URL, patient while it is away, locked when it matters."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, GrpcStorageProxy, InMemoryStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._grpc import client
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from slicewise.errors import ArgumentError
from sweep.passwords import take_password, without_password
from sweep.study.attributes import WORKER
from sweep.study.journal import journal_file, journal_locked, open_journal

T = TypeVar("T")

log = logging.getLogger(__name__)

# A study's storage in its own folder, where none was asked for.
OWN_STORAGE = "study.db"
# How long a storage may be away before a sweep gives up on it.
PATIENCE_SECONDS = 600.0
# How long one SQLite connection waits for another's write.
_SQLITE_TIMEOUT_SECONDS = 120.0
# How long a server may take to answer when a storage is opened.
_CONNECT_SECONDS = 10
# A machine that vanishes without a word is noticed after 15 + 3 * 5 seconds, and not after the
# two hours that systems allow: by who waits for the server, and by the server for the lock.
_KEEPALIVE = {
    "tcp_keepalives_idle": 15,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    # Milliseconds, where something sent has not been acknowledged.
    "tcp_user_timeout": 30_000,
}
_OPENING_ATTEMPTS = 20
_JOURNAL = "journal:///"
# Linux's names of file systems on which several machines write.
_NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "beegfs"),
    *("orangefs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.juicefs"),
}


def storage_url(url: str | None, directory: Path) -> str:
    """The URL under which every process of a sweep finds its storage, from any working directory.

    Args:
        url: As it was given. What would be one process's memory, null or SQLite's, becomes a file
            in the study's folder: what is computed must be found again.
        directory: The study's folder.

    Raises:
        ArgumentError: No URL can name a file in such a folder.
    """
    if is_memory(url):
        if "?" in str(directory.absolute()):
            allowed = "a storage, as this study's folder has a ? in its name"
            raise ArgumentError("hydra.sweeper.storage", url, allowed)
        return f"sqlite:///{directory.absolute() / OWN_STORAGE}"
    assert url is not None
    return absolute_url(url)


def is_memory(url: str | None) -> bool:
    """Whether a storage would be this process's memory: null, or SQLite without a file."""
    if url is None:
        return True
    with contextlib.suppress(sqlalchemy.exc.ArgumentError, ValueError):
        parsed = sqlalchemy.make_url(url)
        named = ":memory:" in str(parsed.database) or parsed.query.get("mode") == "memory"
        return parsed.get_backend_name() == "sqlite" and (not parsed.database or named)
    return False


def absolute_url(url: str) -> str:
    """The URL of the same storage from any working directory."""
    if (journal := _journal_path(url)) is not None:
        return f"{_JOURNAL}{journal.absolute()}"
    path = _sqlite_path(url)
    if path is None or path.is_absolute():
        return url
    parsed = sqlalchemy.make_url(url).set(database=str(path.absolute()))
    return parsed.render_as_string(hide_password=False)


def short_url(url: str) -> str:
    """The URL as one writes it in the working directory."""
    path = _journal_path(url) or _sqlite_path(url)
    if path is None or not path.absolute().is_relative_to(Path.cwd()):
        return url
    if _journal_path(url) is not None:
        return f"{_JOURNAL}{path.absolute().relative_to(Path.cwd())}"
    parsed = sqlalchemy.make_url(url).set(database=str(path.absolute().relative_to(Path.cwd())))
    return parsed.render_as_string(hide_password=False)


def existing_file(url: str) -> None:
    """Refuses the URL of a file that is not there, which opening would make.

    Raises:
        ArgumentError: It is not there.
    """
    path = _journal_path(url) or _sqlite_path(url)
    if path is not None and not path.is_file():
        raise ArgumentError(
            "storage", url, "the storage of a sweep that has run; run one: python -m sweep -m ..."
        )


def refuse_network_file(url: str) -> None:
    """Refuses a SQLite file on a network file system, whose locks cannot be relied on.

    Raises:
        ArgumentError: It lies on one.
    """
    path = _sqlite_path(url)
    if path is None:
        return
    try:
        mounts = Path("/proc/self/mounts").read_text()
    except OSError:
        return
    kind = file_system_of(path.absolute(), mounts)
    if kind in _NETWORK:
        journal = f"{_JOURNAL}{path.with_suffix('.log')}"
        raise ArgumentError(
            "hydra.sweeper.storage",
            url,
            f"a file on a local disk: this one lies on {kind}, where SQLite loses what two write",
            f"A file that may lie there: hydra.sweeper.storage={short_url(journal)}",
        )


def file_system_of(path: Path, mounts: str) -> str | None:
    """The kind of file system that a path lies on.

    Args:
        path: Absolute.
        mounts: As Linux lists them: device, place, kind, ...
    """
    found: dict[Path, str] = {}
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split(" ")
        # Spaces in names are written in octal.
        found[Path(place.encode().decode("unicode_escape"))] = kind
    return next((found[above] for above in (path, *path.parents) if above in found), None)


def _journal_path(url: str) -> Path | None:
    """The file of Optuna's journal behind a URL, None where it is not one."""
    return Path(url.removeprefix(_JOURNAL)) if url.startswith(_JOURNAL) else None


def _sqlite_path(url: str) -> Path | None:
    """The file behind a URL, None where it is not one of SQLite."""
    with contextlib.suppress(sqlalchemy.exc.ArgumentError, ValueError):
        parsed = sqlalchemy.make_url(url)
        if parsed.get_backend_name() == "sqlite" and not is_memory(url):
            database = str(parsed.database)
            return None if database.startswith("file:") else Path(database)
    return None


def open_storage(url: str, wait: bool = False) -> BaseStorage:
    """Opens a storage for reading and writing; makes it where it is a new SQLite file.

    Args:
        url: An SQLAlchemy URL as Optuna takes it (`sqlite:///...`, `postgresql+psycopg://...`),
            `journal:///PATH` for Optuna's journal, or `grpc://HOST:PORT` for its gRPC proxy.
        wait: Wait for a storage that is away, as its calls do later; else that is an error.

    Raises:
        ArgumentError: The URL is not one, its driver is not installed, or nothing answers there.
    """
    url = take_password(url)
    journal = _journal_path(url)
    if journal is not None:
        return open_journal(journal, url)
    opener = _open_proxy if url.startswith("grpc://") else _open_database
    try:
        return patiently(lambda: opener(url)) if wait else opener(url)
    except ImportError as error:
        grpc = opener is _open_proxy
        raise ArgumentError(
            "hydra.sweeper.storage",
            without_password(url),
            "a storage whose driver is installed",
            f"{error}\n"
            + (
                "For the gRPC proxy: pip install grpcio protobuf"
                if grpc
                else "For PostgreSQL: pip install 'slicewise[postgres]'"
            ),
        ) from error
    except (
        sqlalchemy.exc.SQLAlchemyError,
        optuna.exceptions.StorageInternalError,
        OSError,
        ValueError,
    ) as error:
        raise ArgumentError(
            "hydra.sweeper.storage",
            without_password(url),
            "sqlite:///PATH, journal:///PATH, postgresql+psycopg://USER@HOST/DATABASE, or "
            "grpc://HOST:PORT, of a server that answers",
            _why_it_did_not_open(error),
        ) from error


def _open_database(url: str) -> BaseStorage:
    for _ in range(_OPENING_ATTEMPTS):
        try:
            storage = _PatientStorage(url, engine_kwargs=_engine_arguments(url))
            _write_ahead(storage.engine)
            # What was written lies beside a SQLite file until its last connection is closed. Python
            # closes none at its exit, and whoever copied the file would have copied nothing.
            weakref.finalize(storage, storage.engine.dispose)
            return _CachedStorage(storage)
        except DBAPIError as error:
            # Another process is making the tables of a new database at this moment.
            if not (isinstance(error, IntegrityError) or "already exists" in str(error.orig)):
                raise
            last = error
            time.sleep(0.1)
    raise last


def _write_ahead(engine: sqlalchemy.Engine) -> None:
    """Has the readers of a SQLite file and its writer not wait for each other.

    With SQLite's rollback journal a worker that had read, and waited for the study's lock, could
    keep the holder of that lock from writing. The file remembers the mode.
    """
    if engine.dialect.name != "sqlite":
        return
    # Whoever has the file open at this moment keeps the mode; the next to come will change it.
    with contextlib.suppress(OperationalError), engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _open_proxy(url: str) -> BaseStorage:
    parts = urlsplit(url)
    proxy = _PatientProxy(host=parts.hostname or "localhost", port=parts.port or 13000)
    try:
        proxy.wait_server_ready(timeout=_CONNECT_SECONDS)
    except ConnectionError:
        proxy.close()
        raise ConnectionError(f"nothing answers there within {_CONNECT_SECONDS} seconds") from None
    return proxy


def _why_it_did_not_open(error: Exception) -> str:
    if isinstance(error, ValueError):
        # Its text may show a piece of the password.
        return "the port is not a number; in a password, write / : @ ? # % as %2F %3A %40 %3F ..."
    said = str(error.__cause__ or error).splitlines()[0]
    if "no password supplied" in str(error):
        said += "\nIts password: in PGPASSWORD, or in ~/.pgpass"
    return said


@contextlib.contextmanager
def locked(storage: BaseStorage, study_name: str, directory: Path) -> Iterator[None]:
    """Holds the study: whoever decides which trial runs next does it alone.

    The operating system or the server frees the lock when its holder dies. PostgreSQL
    keeps it itself, for any number of machines; a SQLite file has it beside it, and so has a
    journal, by Optuna's lock for shared file systems. Other storages (the gRPC proxy) have it in
    `directory`, which all machines must then share.
    """
    engine = _engine(storage)
    if isinstance(storage, InMemoryStorage):
        yield
    elif (journal := journal_file(storage)) is not None:
        with journal_locked(journal, study_name):
            yield
    elif engine is not None and engine.dialect.name in _SERVER_LOCKS:
        with _server_lock(engine, study_name):
            yield
    else:
        database = engine.url.database if engine is not None else None
        folder = Path(database).parent if database else directory
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(study_name.encode()).hexdigest()[:12]
        with FileLock(folder / f".{name}.lock"):
            yield


# What prepares a connection, takes the lock with it, and gives it back.
_SERVER_LOCKS = {
    "postgresql": (
        [f"SET {key} = {value}" for key, value in _KEEPALIVE.items()],
        "SELECT pg_advisory_lock(:key)",
        "SELECT pg_advisory_unlock(:key)",
    ),
}


@contextlib.contextmanager
def _server_lock(engine: sqlalchemy.Engine, study_name: str) -> Iterator[None]:
    prepare, take, give = _SERVER_LOCKS[engine.dialect.name]
    digest = hashlib.sha256(f"slicewise {study_name}".encode()).digest()
    key = {"key": int.from_bytes(digest[:8], "big", signed=True)}
    connection = patiently(lambda: _locked_connection(engine, prepare, take, key))
    try:
        yield
    finally:
        # A connection that was lost took its lock with it.
        with contextlib.suppress(DBAPIError):
            connection.execute(sqlalchemy.text(give), key)
        with contextlib.suppress(DBAPIError):
            connection.close()


def _locked_connection(
    engine: sqlalchemy.Engine, prepare: list[str], take: str, key: dict[str, int]
) -> sqlalchemy.Connection:
    connection = engine.connect()
    try:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        for text in prepare:
            connection.execute(sqlalchemy.text(text))
        connection.execute(sqlalchemy.text(take), key)
    except BaseException:
        connection.close()
        raise
    return connection


# Whether this thread decides something: then no call to the storage waits by itself.
_thread = threading.local()


def decided(storage: BaseStorage, study_name: str, directory: Path, decision: Callable[[], T]) -> T:
    """Decides alone with a study; from the beginning again where the storage goes away meanwhile.

    What was written last may be stored all the same, and only the acknowledgement be lost; and a
    server frees the lock of a connection that is lost. So a decision must look first what it has
    done already.

    Args:
        storage: Of the study.
        study_name: Which study.
        directory: Its folder, see `locked`.
        decision: What reads and writes.

    Returns:
        What the decision returned.
    """

    def attempt() -> T:
        with locked(storage, study_name, directory):
            _thread.decides = True
            try:
                return decision()
            finally:
                _thread.decides = False

    result: T = patiently(attempt)
    return result


def patiently(call: Callable[[], Any]) -> Any:
    """Calls, and calls again while the storage is away, for up to `PATIENCE_SECONDS`."""
    started: float | None = None
    while True:
        try:
            return call()
        except Exception as error:
            if not is_outage(error):
                raise
            now = time.monotonic()
            if started is None:
                started = now
                log.warning("The storage does not answer, waiting for it: %s", _first_line(error))
            elif now - started > PATIENCE_SECONDS:
                raise
            # Who came back seconds after the others would seem dead to them.
            time.sleep(min(1.0, 0.1 + (now - started) / 4))


def _patient_method(base: type[BaseStorage], name: str) -> Callable[..., Any]:
    method = getattr(base, name)

    @functools.wraps(method)
    def call(self: BaseStorage, *args: Any, **kwargs: Any) -> Any:
        if getattr(_thread, "decides", False):
            return method(self, *args, **kwargs)
        return patiently(lambda: method(self, *args, **kwargs))

    return call


class _PatientStorage(RDBStorage):
    """Optuna's storage, every call of which waits out a storage that is away."""

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Any
    ) -> Any:
        """A new trial, or the one that its worker was given and does not know of.

        Optuna itself tries again, and does not look, where the acknowledgement was lost.
        """
        worker = template_trial.user_attrs.get(WORKER) if template_trial is not None else None
        if worker is not None:
            attribute = models.TrialUserAttributeModel
            named = session.query(models.TrialModel).join(attribute)
            running = named.filter(
                models.TrialModel.study_id == study_id,
                models.TrialModel.state == TrialState.RUNNING,
                attribute.key == WORKER,
                attribute.value_json == json.dumps(worker),
            )
            if (found := running.first()) is not None:
                return found
        return super()._get_prepared_new_trial(study_id, template_trial, session)


class _PatientProxy(GrpcStorageProxy):
    """The same of Optuna's gRPC proxy."""

    def _setup(self) -> None:
        """As Optuna's, but looks every second for a proxy that is away, not every two minutes."""
        lazy: Any = client  # What Optuna imports when it is first used.
        self._channel = lazy.grpc.insecure_channel(
            f"{self._host}:{self._port}",
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.min_reconnect_backoff_ms", 1000),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
        )
        self._stub = lazy.api_pb2_grpc.StorageServiceStub(self._channel)
        self._cache = client.GrpcClientCache(self._stub)


# The cache goes past the interface of a storage for these.
_UNDER_THE_CACHE = ("_create_new_trial", "_get_best_trial_id", "_get_trials", "_set_trial_param")
for _name in sorted(BaseStorage.__abstractmethods__):
    setattr(_PatientStorage, _name, _patient_method(RDBStorage, _name))
    setattr(_PatientProxy, _name, _patient_method(GrpcStorageProxy, _name))
for _name in _UNDER_THE_CACHE:
    setattr(_PatientStorage, _name, _patient_method(RDBStorage, _name))


def storage_file(storage: BaseStorage) -> Path | None:
    """The file of a storage that is one: SQLite's, or a journal; None for any other."""
    if (journal := journal_file(storage)) is not None:
        return journal
    engine = _engine(storage)
    if engine is None or engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    return Path(engine.url.database)


def _engine_arguments(url: str) -> dict[str, Any]:
    parsed = sqlalchemy.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        connect: dict[str, Any] = {}
        if parsed.drivername in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
            ours = {"connect_timeout": _CONNECT_SECONDS}
            # libpq's names are almost the server's.
            ours |= {k.replace("tcp_keepalives", "keepalives"): v for k, v in _KEEPALIVE.items()}
            connect = {key: value for key, value in ours.items() if key not in parsed.query}
        # A server that was restarted leaves dead connections in the pool.
        return {"pool_pre_ping": True, "connect_args": connect}
    if (path := _sqlite_path(url)) is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
    return {"connect_args": {"timeout": _SQLITE_TIMEOUT_SECONDS}}


def _engine(storage: BaseStorage) -> sqlalchemy.Engine | None:
    backend = getattr(storage, "_backend", storage)
    return getattr(backend, "engine", None)


def is_outage(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that the server cannot be reached."""
    while error is not None:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        if isinstance(error, (OperationalError, InterfaceError)):
            # SQLite reports plain mistakes by the same class.
            text = str(error.orig)
            return "sqlite3" not in type(error.orig).__module__ or "locked" in text
        if type(error).__module__.startswith("grpc."):
            return _grpc_status(error) == "UNAVAILABLE"
        error = error.__cause__ or error.__context__
    return False


def _grpc_status(error: Any) -> str:
    """The name of a gRPC error's status; grpc itself is not loaded for this."""
    return str(error.code().name) if hasattr(error, "code") else ""


def _first_line(error: BaseException) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if type(cause).__module__.startswith("grpc."):
        return f"gRPC: {_grpc_status(cause)}"
    return (str(cause).splitlines() or [type(cause).__name__])[0]
