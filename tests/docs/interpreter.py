"""A Python that has loaded the large libraries already, for commands that are typed in a shell.

`python` on the path of a page's shell hands its arguments, folder, environment and files to a
server, which forks: the command is a process of its own, as ever, and starts without the three
seconds of torch. What it starts itself (workers, ranks) is started by the real Python. Of this
package nothing is loaded before.

What a command is given besides, to be small, is added here, so that pages show the real one.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import os
import runpy
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.docs.pages import ROOT

# A worker of its own process loads torch anew; this one is where the command is.
_ONE_WORKER = "hydra/launcher=basic"
# Whoever names either has workers of its own.
_WORKERS = ("hydra/launcher=", "hydra.sweeper.n_jobs=")
SMALL = {
    "sweep": ("experiment=tiny", "trainer.accelerator=cpu", _ONE_WORKER),
    "sweep.compress": (
        _ONE_WORKER,
        "data.batch_size=8",
        "data.seq_length=12",
        "library.neurons=[0.33]",
        "library.heads=[1.0,0.33]",
        "library.texts=32",
        "library.damage_texts=16",
        "choose.measured=1",
        "heal.steps=2",
        "evaluate.texts=32",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "trainer.enable_progress_bar=false",
    ),
}
# Instead of being run.
_COMPOSED = ("--cfg", "job")
# What a block is given besides, and whether it is only composed: for the shell's `python`.
OVERRIDES, ONLY_COMPOSE = "DOCS_OVERRIDES", "DOCS_ONLY_COMPOSE"

_TORCHRUN = "torch.distributed.run"
_DASHBOARD = "sweep.dashboard"
_LIBRARIES = (
    "hydra._internal.hydra",
    "hydra._internal.utils",
    "optuna",
    "plotly.graph_objects",
    "rich.live",
    "sqlalchemy.orm",
    "torch",
    "transformers.models.bert.modeling_bert",
)

# Loads nothing but what it needs: it is what every command waits for.
_CLIENT = """#!{python} -ISu
import json, os, socket, sys
request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
server.sendall(request)
sys.exit(int(server.recv(16) or 1))
"""


@contextlib.contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """The folder of commands, `python` and `torchrun`, that a running server answers.

    Args:
        folder: For them and its socket; its name is short.
    """
    address = folder / "socket"
    commands = folder / "bin"
    commands.mkdir()
    client = commands / "python"
    client.write_text(_CLIENT.format(python=sys.executable, address=str(address)))
    torchrun = commands / "torchrun"
    torchrun.write_text(f'#!/bin/sh\nexec python -m {_TORCHRUN} "$@"\n')
    for path in (client, torchrun):
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    python_path = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, python_path))}
    command = [sys.executable, "-m", "tests.docs.interpreter", str(address)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield commands
        finally:
            server.terminate()


def small(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """A command as it is run.

    Args:
        arguments: Of `python`.
        overrides: What its block is given besides.
    """
    program = _program(arguments)[0]
    if program in SMALL or program == _TORCHRUN or program.endswith(".py"):
        given = [*SMALL.get("sweep" if program == _TORCHRUN else program, ()), *overrides]
        named = [one for one in (*arguments, *overrides) if one.startswith(_WORKERS)]
        unwanted = [*arguments, _ONE_WORKER] if named else arguments
        return [*arguments, *(one for one in given if one not in unwanted)]
    return list(arguments)


def added(overrides: Sequence[str]) -> list[str]:
    """All that commands of a block may have been given, as they print it."""
    every = [*overrides, *(override for group in SMALL.values() for override in group)]
    return [f" {written}" for one in every for written in (shlex.quote(one), one)]


def _program(arguments: Sequence[str]) -> list[str]:
    """A script or a module, and its arguments."""
    return list(arguments[1:] if arguments and arguments[0] == "-m" else arguments)


def _serve(address: str) -> tuple[list[str], str, dict[str, str]]:
    """Answers for ever; returns in the processes that are to be a command."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen(32)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while True:
        client, _ = server.accept()
        if os.fork() == 0:
            server.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _received(client)
        client.close()


def _received(client: socket.socket) -> tuple[list[str], str, dict[str, str]]:
    """Reads what is to be run, and has it run by a child, whose exit code is sent back."""
    size, files, _, _ = socket.recv_fds(client, 8, 3)
    with client.makefile("rb") as stream:
        arguments, folder, environment = json.loads(stream.read(int.from_bytes(size, "big")))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    child = os.fork()
    if child == 0:
        client.close()
        os.setpgid(0, 0)
        return arguments, folder, environment
    # Ends with the shell's `python`, as if it were that process.
    end = os.pidfd_open(child)
    if end not in wait([end, client]):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        client.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def _become(arguments: list[str], folder: str, environment: Mapping[str, str]) -> None:
    """Runs what `python ARGUMENTS` would."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    overrides = json.loads(os.environ.pop(OVERRIDES, "[]"))
    arguments = small(arguments, overrides)
    if os.environ.pop(ONLY_COMPOSE, ""):
        arguments = _only_composed(arguments)
    mode, *rest = arguments
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [folder, *(path for path in paths if path and path not in sys.path)]
    if mode == "-m":
        if rest[0] == _DASHBOARD:
            rest += ["--port", str(_interrupted_when_it_answers())]
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif mode == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(mode).resolve().parent)
        runpy.run_path(mode, run_name="__main__")


def _only_composed(arguments: list[str]) -> list[str]:
    """A command that composes its configuration, or parses its arguments, and ends."""
    program, *rest = _program(arguments)
    if program == _TORCHRUN:
        runner = importlib.import_module(_TORCHRUN)
        options = runner.get_args_parser().parse_args(rest)
        assert options.module
        return _only_composed(["-m", options.training_script, *options.training_script_args])
    if program in SMALL:
        return ["-m", program, *_first_point(rest), *_COMPOSED]
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(parser: Any, *given: Any, **named: Any) -> NoReturn:
        parse(parser, *given, **named)
        sys.exit(0)

    argparse.ArgumentParser.parse_args = parse_and_end  # type: ignore[assignment]
    return arguments


def _first_point(arguments: Sequence[str]) -> list[str]:
    """A command line without `-m`, and of what it sweeps the first value; of an interval none."""
    parser = OverridesParser.create()
    found = []
    for argument in arguments:
        if argument in ("-m", "--multirun"):
            continue
        override = parser.parse_override(argument)
        if not override.is_sweep_override():
            found.append(argument)
        elif override.is_choice_sweep() or override.is_range_sweep():
            key = argument.partition("=")[0]
            found.append(f"{key}={next(override.sweep_string_iterator())}")
    return found


def _interrupted_when_it_answers() -> int:
    """A free port; once a page comes from it, this process is interrupted as by Ctrl-C."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]

    def ask() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/"):
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.1)
        os._exit(1)

    threading.Thread(target=ask, daemon=True).start()
    return port


def main() -> None:
    from sweep.loading import load_libraries

    load_libraries()
    for library in _LIBRARIES:
        importlib.import_module(library)
    # What is loaded is shared, and not looked through when a command ends.
    gc.freeze()
    _become(*_serve(sys.argv[1]))


if __name__ == "__main__":
    main()
