"""docs/any-application.md says what is so: its files and its commands, run as they stand there."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra

from sweep import rerun, watch
from sweep.report import __main__ as report

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "any-application.md").read_text()
TOOLS = {"sweep.watch": watch.main, "sweep.report": report.main, "sweep.rerun": rerun.main}


def _blocks(language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, flags=re.M | re.S)
    return [text for name, text in blocks if name == language]


def test_five_lines_make_a_study_of_an_application(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    [script], [config] = _blocks("python"), _blocks("yaml")
    Path("my_app.py").write_text(script)
    Path("config.yaml").write_text(config)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    commands = _blocks("")[0].replace("\\\n", " ").splitlines()
    assert len(commands) == 5
    for command in commands:
        words = shlex.split(command)
        if words[1] == "-m":
            assert TOOLS[words[2]](words[3:]) == 0
            continue
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(str(folder / words[1]), run_name="__main__")
    study = optuna.load_study(study_name="mine", storage="sqlite:///multirun/mine/study.db")
    assert len(study.trials) == 10
    said = capfd.readouterr().out
    assert "Best trial:   multirun/mine/" in said
    assert "multirun/mine/report.html" in said
    assert "Identical to the bit." in said


def test_the_five_lines_are_five() -> None:
    ours = [line for line in _blocks("python")[0].splitlines() if "trial" in line.lower()]
    assert len(ours) == 4
    assert len([line for line in _blocks("yaml")[0].splitlines() if "override" in line]) == 1


def test_the_group_without_torch_asks_for_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    group = project["dependency-groups"]["sweeper"]
    assert set(group) < set(project["project"]["dependencies"])
    assert not [one for one in group if re.match("torch|transformers|pytorch", one)]
