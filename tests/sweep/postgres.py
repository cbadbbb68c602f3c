"""A PostgreSQL server of the tests' own: made in a temporary folder, and removed with it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PASSWORD = "open-sesame"
_START_SECONDS = 60.0


class Server:
    """A server that can be stopped and started again.

    Args:
        binaries: The folder of `postgres` and `initdb`.
        folder: Empty, and owned by `user`.
        user: Whose processes these are; None: this process's user.
    """

    def __init__(self, binaries: Path, folder: Path, user: str | None) -> None:
        self.port = free_port()
        self._binaries = binaries
        self._folder = folder
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"
        password = folder / "password"
        password.write_text(PASSWORD)
        os.chmod(password, 0o644)
        initdb = ["initdb", "--pgdata", str(folder / "data"), "--username=tester", "--no-sync"]
        access = ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8", "--locale=C"]
        done = self._popen([*initdb, *access])
        assert done.wait(_START_SECONDS) == 0, self.said()

    def url(self, database: str, password: str = PASSWORD) -> str:
        """For Optuna and SQLAlchemy."""
        return f"postgresql+psycopg://tester:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Starts it and waits until it answers."""
        options = {"listen_addresses": "127.0.0.1", "fsync": "off", "max_connections": "400"}
        settings = [f"--{key}={value}" for key, value in options.items()]
        place = ["-D", str(self._folder / "data"), "-k", str(self._folder), "-p", str(self.port)]
        self._process = self._popen(["postgres", *place, *settings])
        is_ready = [str(self._binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run(is_ready, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stops it at once: no connection is closed in order, no buffer written."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(20)
            finally:
                self._process.kill()
                self._process.wait()
            self._process = None

    def is_running(self) -> bool:
        """Whether it has been started and not been stopped since."""
        return self._process is not None and self._process.poll() is None

    def said(self) -> str:
        """What the server and `initdb` have printed."""
        return self._log.read_text(errors="replace")

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Starts one of its programs as its user; PostgreSQL refuses to run as root."""
        entry = pwd.getpwnam(self._user) if self._user else None
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [str(self._binaries / command[0]), *command[1:]],
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=entry.pw_uid if entry else None,
                group=entry.pw_gid if entry else None,
                extra_groups=[] if entry else None,
            )


@contextlib.contextmanager
def running_server(binaries: Path) -> Iterator[Server]:
    """A started server; stopped, and its folder removed, at the end."""
    user = None
    if os.geteuid() == 0:
        known = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in known else "nobody"
    # Not pytest's own folder, which another user cannot enter.
    folder = Path(tempfile.mkdtemp(prefix="slicewise-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        server = Server(binaries, folder, user)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def find_binaries() -> Path | None:
    """The folder of PostgreSQL's server programs, or None where it is not installed."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    # Where Debian has them, the newest version last.
    packaged = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    found = sorted(packaged, key=lambda initdb: float(initdb.parts[-3]))
    return found[-1].parent if found else None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
