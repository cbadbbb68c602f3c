"""`python -m sweep.dashboard` over a real storage, asked over HTTP."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sweep import dashboard
from tests.sweep.conftest import Sweep
from tests.waiting import PATIENCE


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def serving(
    folder: Path, *arguments: str, port: int | None = None
) -> Iterator[Callable[[str], Any]]:
    port = port or free_port()
    command = [sys.executable, "-m", "sweep.dashboard", "--port", str(port), *arguments]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return json.load(answer)

    try:
        assert server.stdout is not None
        assert f"http://127.0.0.1:{port}/" in server.stdout.readline()
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                ask("/api/studies")
                break
            except (urllib.error.URLError, ConnectionError):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield ask
    finally:
        server.terminate()
        server.wait(PATIENCE)


def test_it_shows_numbers_as_numbers_and_what_a_trial_is_worth(sweep: Sweep, folder: Path) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    with serving(folder) as ask:
        [study] = ask("/api/studies")["study_summaries"]
        assert study["study_name"] == "a"
        trials = ask(f"/api/studies/{study['study_id']}")["trials"]
        assert [t["params"][0]["param_external_value"] for t in trials] == ["0", "1"]
        for number, trial in enumerate(trials):
            record = json.loads((folder / f"multirun/a/{number}/trial.json").read_text())
            attributes = {item["key"]: item["value"] for item in trial["user_attrs"]}
            assert int(attributes["student_parameters"]) == record["student_parameters"]
            assert float(attributes["baseline_ratio"]) == record["baseline_ratio"]
            assert attributes["directory"] == str(folder / "multirun/a" / str(number))


def test_a_port_that_is_taken_names_another(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep("-m", "study=a", "student.qkv_layers=0,1") == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert dashboard.main(["--port", str(port)]) == 1
        said = capsys.readouterr().err
        assert f"--port={port}: cannot listen" in said
        assert f"python -m sweep.dashboard --port {port + 1}" in said
        # With all else that was typed.
        Path("multirun/studies.db").rename("it's.db")
        elsewhere = ["--storage", "sqlite:///it's.db", "--host", "0.0.0.0", "--port", str(port)]
        assert dashboard.main(elsewhere) == 1
        said += capsys.readouterr().err
        assert shlex.join([*elsewhere[:-1], str(port + 1)]) in said
    assert dashboard.main(["--storage", "sqlite:///it's.db", "--host", "no.invalid"]) == 1
    said += capsys.readouterr().err
    assert "--host=no.invalid: allowed: an address of this machine" in said
    assert "Traceback" not in said


def test_a_storage_that_is_not_there_is_not_made(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboard.main([]) == 1
    assert "storage=sqlite:///multirun/studies.db: allowed:" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
