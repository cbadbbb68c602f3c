"""A data module in a package of one's own: no file of slicewise names it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.console import MISTAKE
from sweep.trial import cache
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]

OWN_PACKAGE = str(Path(__file__).parents[1] / "own_family")
POINTS = "student.qkv_layers=0,1"


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(OWN_PACKAGE)
    monkeypatch.setenv("SLICEWISE_TRUSTED", "my_package.*")
    for name in ("my_package", "my_package.data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    cache._targets.cache_clear()


def _data(name: str) -> tuple[str, ...]:
    """The data module of that name, as small as that of `experiment=tiny`."""
    sizes = ("batch_size=4", "seq_length=8", "train_batches=10", "valid_batches=2")
    target = f"data._target_=my_package.data.{name}"
    return ("data=custom", target, *(f"data.{size}" for size in sizes))


def _losses(record: Record, study: str) -> list[tuple[float, float]]:
    records = [record(f"{study}/{number}") for number in range(2)]
    return [(found["valid_l1"], found["train_l1"]) for found in records]


def _cached(folder: Path) -> dict[str, list[str]]:
    """The names of the files in each folder of targets."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.glob("multirun/.cache/*/*")):
        found.setdefault(path.parent.name, []).append(path.name)
    return found


def test_it_is_trained_on_cached_and_repeated(
    command: Callable[..., subprocess.CompletedProcess[str]], folder: Path, record: Record
) -> None:
    others = os.environ.get("PYTHONPATH")
    env = {"PYTHONPATH": os.pathsep.join(filter(None, [OWN_PACKAGE, others]))}
    env["SLICEWISE_TRUSTED"] = "my_package.*"
    own = (*_data("Uniform"), "+data.high=2", "data.cache=disk")
    tiny = ("experiment=tiny", "trainer.accelerator=cpu")
    sweep = command("sweep", "-m", "study=s", *tiny, *own, POINTS, **env)
    assert sweep.returncode == 0, sweep.stderr
    [files] = _cached(folder).values()
    # Of training and of validation; for both trials.
    assert sum(name.startswith("train-") for name in files) == 10
    assert sum(name.startswith("valid-") for name in files) == 2
    assert len(set(_losses(record, "s"))) == 2
    again = command("sweep.rerun", "multirun/s/1", **env)
    assert again.returncode == 0, again.stderr
    assert "Identical to the bit." in again.stdout


@pytest.mark.usefixtures("trusted")
def test_two_never_share_targets(sweep: Sweep, record: Record, folder: Path) -> None:
    """Whatever they call themselves, and however much their configurations look alike."""
    for mode in ("off", "disk"):
        for name in ("Uniform", "Negative"):
            study = (f"study={name}-{mode}", f"data.cache={mode}")
            assert sweep("-m", *study, *_data(name), POINTS) == 0
    assert _losses(record, "Uniform-off") != _losses(record, "Negative-off")
    for name in ("Uniform", "Negative"):
        assert _losses(record, f"{name}-disk") == _losses(record, f"{name}-off")
    assert len(_cached(folder)) == 2


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("name", ["Unnamed", "Doubled"])
@pytest.mark.parametrize("mode", ["auto", "memory", "disk"])
def test_without_a_digest_nothing_is_kept(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], name: str, mode: str
) -> None:
    """Neither without any nor with one that is about the batches of another class."""
    assert sweep("study=s", *_data(name), f"data.cache={mode}") == MISTAKE
    assert (
        capfd.readouterr()
        .err.strip()
        .endswith(
            f"data.cache={mode}: allowed: off, as my_package.data.{name} has no digest of its own\n"
            "For the teacher's outputs to be kept, write the method digest(self) -> str: it names "
            "whatever decides a batch besides sizes and seed\n"
            "Without: ++data.cache=off"
        )
    )
    assert not _cached(folder)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("name", ["Unnamed", "Doubled"])
def test_the_command_that_the_error_names_works(sweep: Sweep, record: Record, name: str) -> None:
    # Also where the configuration says nothing of the cache.
    assert sweep("study=s", *_data(name), "~data.cache", "++data.cache=off") == 0
    assert record("s/0")["steps"] == 10


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data=custom",), "data._target_=???: allowed: the dotted name of a class"),
        ((*_data("Uniform"), "+data.low=2"), "data.low=2: allowed: the arguments hidden_size"),
        ((*_data("Uniform"), "+data.high=tall"), "data.high=tall: allowed: a number"),
        ((*_data("Uniform"), "data.batch_size=0"), "data.batch_size=0: allowed: an integer of"),
        (
            _data("Plain"),
            "data._target_=my_package.data.Plain: allowed: a subclass of "
            "slicewise.data.hidden_states.HiddenStatesDataModule",
        ),
    ],
)
def test_mistakes_are_one_message(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], overrides: tuple[str, ...], message: str
) -> None:
    assert sweep("study=s", *overrides) == MISTAKE
    error = capfd.readouterr().err
    assert message in error
    assert "Traceback" not in error
