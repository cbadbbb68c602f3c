"""python -m sweep.dashboard: optuna-dashboard over a storage, on this machine alone."""

from __future__ import annotations

import argparse
import errno
import shlex
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.console import exit_code_of
from sweep.passwords import without_password
from sweep.study.plan import DEFAULT_STORAGE, command_of

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

# How long the server waits, when it is ended, for the note that is being written.
_LAST_NOTE_SECONDS = 10.0
_HOST, _PORT, _LAST_PORT = "127.0.0.1", 8080, 65535


def serve(storage_url: str, host: str, port: int) -> None:
    """Serves the dashboard until the process is ended, and keeps its notes and pictures fresh.

    Raises:
        SlicewiseError: There is no such storage, or the port is taken.
    """
    from optuna_dashboard import run_server

    from sweep.study.shared import quiet_optuna
    from sweep.study.storage import absolute_url, existing_file, open_storage

    quiet_optuna()
    existing_file(storage_url)
    storage = open_storage(absolute_url(storage_url))
    _check_port(host, port, storage_url)
    print(
        f"Dashboard of {without_password(storage_url)}: http://{host}:{port}/  (Ctrl-C ends it)",
        flush=True,
    )
    ended, writing = threading.Event(), threading.Lock()
    arguments = (storage, storage_url, ended, writing)
    threading.Thread(target=_keep_notes, args=arguments, name="notes", daemon=True).start()
    failed: list[Exception] = []

    def run() -> None:
        try:
            run_server(storage, host=host, port=port)
        except Exception as error:
            failed.append(error)

    # Not in the main thread, where a signal is an exception: whoever writes an answer would take it
    # for that answer's, and go on.
    server = threading.Thread(target=run, name="server", daemon=True)
    server.start()
    try:
        server.join()
    finally:
        ended.set()
        # For good: nothing is written from here on.
        writing.acquire(timeout=_LAST_NOTE_SECONDS)
    if failed:
        raise failed[0]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.dashboard",
        description="Look at the studies of a storage in the browser.",
    )
    parser.add_argument("--storage", default=DEFAULT_STORAGE, help="URL (default: %(default)s)")
    parser.add_argument("--host", default=_HOST, help="address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=_PORT, help="port (default: %(default)s)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    try:
        serve(options.storage, options.host, options.port)
    except KeyboardInterrupt:
        return 0
    except Exception as error:
        return exit_code_of(error)
    return 0


def _keep_notes(
    storage: BaseStorage, storage_url: str, ended: threading.Event, writing: threading.Lock
) -> None:
    # Takes a second to load, which the server need not wait for.
    from sweep.report.upkeep import Upkeep

    Upkeep(storage, storage_url, ended, writing).keep_fresh()


def _leave(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _check_port(host: str, port: int, storage_url: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OverflowError:
            raise ArgumentError("--port", port, "0 to 65535") from None
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise ArgumentError(
                    "--host", host, f"an address of this machine: {error.strerror}"
                ) from error
            # Those below 1024 are the administrator's.
            free = port + 1 if 1024 <= port < _LAST_PORT else _PORT
            command = command_of("sweep.dashboard", None, storage_url)
            place = [] if host == _HOST else ["--host", host]
            raise SlicewiseError(
                f"--port={port}: cannot listen on {host}:{port}: {error.strerror}; "
                f"try: {command} {shlex.join([*place, '--port', str(free)])}"
            ) from error


if __name__ == "__main__":
    sys.exit(main())
