"""Runs the program as a person does: in its own process, or, where that is enough, in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from sweep.__main__ import main
from sweep.command_line import speak_for

Sweep = Callable[..., int]


@pytest.fixture(autouse=True)
def _speaks_for_itself() -> Iterator[None]:
    """Whatever application a test sweeps, the next one's messages do not name it."""
    yield
    speak_for(None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sweep]:
    """`python -m sweep experiment=tiny ...` in this process, with one worker in it.

    What a command does across processes is tested across processes; a torch that is loaded
    already saves the rest ten seconds each.
    """

    def run(*arguments: str) -> int:
        launcher = ("hydra/launcher=basic",)
        chosen = any(argument.startswith("experiment=") for argument in arguments)
        tiny = () if chosen else ("experiment=tiny",)
        argv = ["sweep", *launcher, *tiny, *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        GlobalHydra.instance().clear()
        return main()

    yield run
    GlobalHydra.instance().clear()


@pytest.fixture
def with_storage(folder: Path) -> Callable[[str], tuple[str, ...]]:
    """Arguments that choose an experiment of the user's own, whose file names a storage."""

    def choose(url: str) -> tuple[str, ...]:
        file = folder / "mine" / "experiment" / "mine.yaml"
        file.parent.mkdir(parents=True)
        storage = f"hydra:\n  sweeper:\n    storage: {url}\n"
        file.write_text(f"# @package _global_\ndefaults: [tiny]\n{storage}")
        return "--config-dir", str(folder / "mine"), "experiment=mine"

    return choose


@pytest.fixture
def record(folder: Path) -> Callable[[str], dict[str, Any]]:
    """Reads `multirun/<place>/trial.json`."""

    def read(place: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / "multirun" / place / "trial.json").read_text())
        return found

    return read


@pytest.fixture
def command(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m MODULE ARGUMENTS` in a process of its own."""

    def run(module: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    return run
