"""`hydra/sweeper/sampler=auto`: code from elsewhere, run only by consent and from one commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slicewise.errors import SlicewiseError
from sweep.study.auto import _module, auto_sampler
from tests.sweep.conftest import Sweep

# As the registry has it: a class of this name. It leaves a mark where it is run.
CODE = """
from pathlib import Path
from optuna.samplers import TPESampler

Path("was_run").touch()


class AutoSampler(TPESampler):
    def __init__(self, *, seed=None):
        super().__init__(seed=seed)
"""


@pytest.fixture
def registry(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the registry, which the user trusts."""
    _module.cache_clear()
    root = folder / "github/optuna/optunahub-registry"
    place = root / "package/samplers/auto_sampler"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text(CODE)
    monkeypatch.setenv("SLICEWISE_TRUSTED", "optunahub_registry.*")
    monkeypatch.setenv("OPTUNAHUB_CACHE_HOME", str(folder / "cache"))
    # Git goes there instead of to GitHub.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{folder}/github/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/")
    return root


def committed(registry: Path) -> str:
    """Makes the copy a repository; its commit."""
    who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for command in (["init", "--quiet"], ["add", "."], [*who, "commit", "--quiet", "-m", "All"]):
        subprocess.run(["git", *command], cwd=registry, check=True)
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=registry, check=True, capture_output=True, text=True
    )
    return found.stdout.strip()


def test_nothing_is_fetched_or_run_that_the_user_does_not_trust(
    sweep: Sweep,
    registry: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for trusted in ("", "optunahub.*", "my_package.*"):
        monkeypatch.setenv("SLICEWISE_TRUSTED", trusted)
        arguments = ["hydra/sweeper/sampler=auto", "optimizer.lr=interval(0.001,0.1)"]
        own = f"hydra.sweeper.sampler.registry={registry}/package"
        assert sweep("-m", *arguments, own) == 1
        said = capsys.readouterr().err
        assert "To trust it: SLICEWISE_TRUSTED='optunahub_registry.*' python -m ..." in said
        assert "Traceback" not in said
    assert not (folder / "was_run").exists()
    assert not list(folder.glob("multirun/*/*"))


def test_without_its_package_it_says_how_to_get_it(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optunahub", None)
    with pytest.raises(SlicewiseError, match=r"pip install 'slicewise\[auto\]'"):
        auto_sampler("main")


def test_it_chooses_the_points_of_a_study(sweep: Sweep, registry: Path, folder: Path) -> None:
    pytest.importorskip("optunahub")
    commit = committed(registry)
    sampler = ["hydra/sweeper/sampler=auto", f"hydra.sweeper.sampler.ref={commit}"]
    space = ["optimizer.lr=interval(0.001,0.1)", "hydra.sweeper.n_trials=2"]
    assert sweep("-m", "study=a", *sampler, *space) == 0
    assert (folder / "was_run").exists()
    assert (folder / "multirun/a/1/trial.json").exists()
    # It is kept: nothing is asked of GitHub again.
    registry.rename(folder / "gone")
    _module.cache_clear()
    assert type(auto_sampler(commit)).__name__ == "AutoSampler"


def test_what_cannot_be_had_is_said_before_any_trial(registry: Path) -> None:
    pytest.importorskip("optunahub")
    with pytest.raises(SlicewiseError, match="could not be fetched from OptunaHub: fatal: "):
        auto_sampler("main")
    with pytest.raises(SlicewiseError, match="with samplers/auto_sampler in it"):
        auto_sampler("main", str(registry))
