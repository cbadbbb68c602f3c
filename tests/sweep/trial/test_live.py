"""How far a fit is, said while it runs: progress.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from slicewise.fetched import Fetched
from sweep.trial.live import LiveProgress
from sweep.trial.pulse import PULSE_NAME, Pulse, read_pulse, remove_pulse
from tests.sweep.conftest import Sweep


def test_a_pulse_is_read_as_it_was_written(tmp_path: Path) -> None:
    pulse = Pulse(3, 10, 0.25, 12.5, 1.5, validating=True)
    pulse.write(tmp_path)
    assert read_pulse(tmp_path) == pulse
    assert [path.name for path in tmp_path.iterdir()] == [PULSE_NAME]
    remove_pulse(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert read_pulse(tmp_path) is None


def test_what_cannot_be_read_or_written_is_no_pulse(tmp_path: Path) -> None:
    (tmp_path / PULSE_NAME).write_text('{"step": 3')
    assert read_pulse(tmp_path) is None
    Pulse(1, None).write(tmp_path / "not there")
    assert Pulse(1, None).fraction is None
    assert Pulse(5, 10).fraction == 0.5


def test_a_fit_says_how_far_it_is_and_leaves_no_trace(
    sweep: Sweep, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, object]] = []
    write = Pulse.write

    def write_and_keep(self: Pulse, directory: Path) -> None:
        write(self, directory)
        written.append(json.loads((directory / PULSE_NAME).read_text()))

    monkeypatch.setattr(Pulse, "write", write_and_keep)
    defaults = LiveProgress.__init__.__defaults__
    monkeypatch.setattr(LiveProgress.__init__, "__defaults__", (0.0,))
    assert defaults == (0.5,)
    assert sweep("-m", "study=a", "seed=0,1") == 0
    training = [pulse for pulse in written if not pulse["validating"]]
    assert {pulse["total"] for pulse in written} == {10}
    assert [pulse["step"] for pulse in training][:3] == [0, 1, 2]
    assert all(isinstance(p["loss"], float) for p in training if p["step"])
    assert any(pulse["validating"] for pulse in written)
    assert not list((folder / "multirun").rglob(f"*{PULSE_NAME}*"))


def test_steps_are_counted_where_several_are_taken_at_once(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; `sweep.watch` shows what is written here."""
    written: list[Pulse] = []
    monkeypatch.setattr(Pulse, "write", lambda self, directory: written.append(replace(self)))
    monkeypatch.setattr(LiveProgress.__init__, "__defaults__", (0.0,))
    settings = ("data.train_batches=40", "steps.at_once=4")
    assert sweep("-m", "study=a", "seed=0", *settings) == 0
    assert {pulse.total for pulse in written} == {40}
    assert sorted({pulse.step for pulse in written}) == list(range(0, 41, 4))


class _Event:
    """Of what is there when it is asked for the third time."""

    def __init__(self) -> None:
        self.asked = 0

    def query(self) -> bool:
        self.asked += 1
        return self.asked >= 3

    def synchronize(self) -> None:
        assert self.asked >= 3, "a device was waited for"


def test_no_device_is_waited_for(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where what has just been launched is not done."""
    written: list[Pulse] = []
    monkeypatch.setattr(Pulse, "write", lambda self, directory: written.append(replace(self)))
    monkeypatch.setattr(LiveProgress.__init__, "__defaults__", (0.0,))

    class Late:
        @staticmethod
        def behind(tensor: Tensor) -> Fetched:
            event: Any = _Event()
            return Fetched(tensor.detach(), event)

    monkeypatch.setattr("sweep.trial.live.Fetched", Late)
    # With a validation after each second step a loss comes to it later, and is not lost.
    for interval, study in ((1.0, "a"), (2, "b")):
        written.clear()
        assert sweep("-m", f"study={study}", f"trainer.val_check_interval={interval}") == 0
        training = [pulse for pulse in written if not pulse.validating and pulse.step]
        assert [pulse.step for pulse in training] == [3, 6, 9]
        assert all(isinstance(pulse.loss, float) for pulse in training)


def test_a_fit_that_fails_leaves_none_either(sweep: Sweep, folder: Path) -> None:
    assert sweep("-m", "study=a", "optimizer.lr=1e30,1e31") == 1
    assert not list((folder / "multirun").rglob(f"*{PULSE_NAME}*"))
