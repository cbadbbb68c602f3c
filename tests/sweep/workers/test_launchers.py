"""The same sweep through every launcher: the same trials."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from optuna.trial import FrozenTrial, TrialState

from sweep.__main__ import main

pytestmark = pytest.mark.slow

RAY = {"num_cpus": 2, "include_dashboard": "false", "object_store_memory": 100_000_000}
SETTINGS = {
    "local": [],
    "joblib": [],
    "ray": [f"+hydra.launcher.ray.init.{key}={value}" for key, value in RAY.items()],
    "submitit_local": ["hydra.launcher.timeout_min=5"],
}


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Where Ray keeps its files and its token for itself, and tells nobody that it ran."""
    # Its sockets lie there, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray = {"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", "HOME": folder}
        yield {**os.environ, **ray}


def run(folder: Path, launcher: str) -> list[FrozenTrial]:
    """The trials of a sweep over four points by two workers."""
    folder.mkdir()
    arguments = ("study=a", "student.qkv_layers=0,1,2,3", "hydra.sweeper.n_jobs=2")
    command = [sys.executable, "-m", "sweep", "-m", "experiment=tiny", *arguments]
    with environment() as env:
        process = subprocess.Popen(
            [*command, f"hydra/launcher={launcher}", *SETTINGS[launcher]],
            cwd=folder,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            said, _ = process.communicate(timeout=400)
        finally:
            # And whatever the launcher has started.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, said
    storage = f"sqlite:///{folder}/multirun/studies.db"
    return optuna.load_study(study_name="a", storage=storage).trials


def points(trials: list[FrozenTrial]) -> list[tuple[Any, ...]]:
    return sorted((trial.params["student.qkv_layers"], trial.value) for trial in trials)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """Parameters and losses as the local launcher finds them."""
    found = points(run(tmp_path_factory.mktemp("reference") / "local", "local"))
    assert [qkv_layers for qkv_layers, _ in found] == [0, 1, 2, 3]
    return found


@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_local"])
def test_every_launcher_runs_the_same_trials(
    tmp_path: Path, reference: list[tuple[Any, ...]], launcher: str
) -> None:
    folder = tmp_path / launcher
    trials = run(folder, launcher)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert points(trials) == reference
    for number in range(4):
        assert (folder / f"multirun/a/{number}/trial.json").is_file()
    # A log for each worker, and none mixed with a trial's.
    for worker in range(2):
        assert (folder / f"multirun/a/workers/{worker}/sweep.log").is_file()
    assert not (folder / "multirun/a/4").exists()


@pytest.mark.parametrize(
    ("launcher", "extra"),
    [
        ("joblib", "joblib"),
        ("ray", "ray"),
        ("submitit_local", "slurm"),
        ("submitit_slurm", "slurm"),
    ],
)
def test_a_launcher_that_is_not_installed_is_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    launcher: str,
    extra: str,
) -> None:
    # Plugins register themselves when they are first looked for.
    Plugins.instance()
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(launchers, f"{launcher}.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweep", "-m", "seed=1,2", f"hydra/launcher={launcher}"])
    GlobalHydra.instance().clear()
    assert main() == 1
    said = capfd.readouterr().err
    assert said.startswith("Error: ")
    assert f"hydra/launcher={launcher}: allowed: basic, " in said
    assert f"pip install 'slicewise[{extra}]'" in said
    assert "Traceback" not in said
