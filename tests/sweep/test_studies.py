"""`python -m sweep.studies`: what there is, and how it goes away, or elsewhere."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna_dashboard import get_note, save_note

from sweep import studies, watch
from sweep.study.presence import SWEEP_HEARTBEAT_SECONDS, Presence, own_heartbeat
from sweep.study.storage import open_storage
from tests.sweep.studies import make_study

URL = "sqlite:///multirun/studies.db"


@pytest.fixture
def study(folder: Path) -> optuna.Study:
    return make_study(folder, 8)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is typed, line by line; then the end of it."""
    given: list[str] = []
    left: Iterator[str] = iter(given)

    def read(question: str) -> str:
        print(question)
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    return given


def test_it_lists_what_there_is(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    optuna.create_study(study_name="empty", storage=study._storage)
    assert studies.main([]) == 0
    said = capsys.readouterr().out
    [mine] = [line for line in said.splitlines() if line.split()[:1] == ["mine"]]
    for part in ("unfinished", "6 complete, 1 pruned, 1 fail", "valid_l1 0.2", "2026-03-01", "kB"):
        assert part in mine
    [empty] = [line for line in said.splitlines() if line.split()[:1] == ["empty"]]
    assert "none" in empty
    sign = dataclasses.replace(own_heartbeat("x"), pid=os.getppid())
    with Presence(study, "sweep", "x", sign, SWEEP_HEARTBEAT_SECONDS):
        assert studies.main([]) == 0
        assert "running" in capsys.readouterr().out
        assert studies.main(["--remove", "mine", "--yes"]) == 1
        assert "study=mine: a sweep works on it" in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["n"], ["y"], ["y", "other"]])
def test_it_removes_nothing_unless_told_twice(
    study: optuna.Study,
    folder: Path,
    answers: list[str],
    given: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers += given
    assert studies.main(["--remove", "mine"]) == 1
    assert "nothing is removed; without questions: --yes" in capsys.readouterr().err
    assert optuna.get_all_study_names(URL) == ["mine"]
    assert (folder / "multirun/mine/0/trial.json").exists()


@pytest.mark.parametrize("sure", [True, False])
def test_it_removes_a_study_with_its_folder(
    study: optuna.Study,
    folder: Path,
    answers: list[str],
    sure: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    optuna.create_study(study_name="other", storage=study._storage)
    (folder / "multirun/other").mkdir()
    answers += ["y", "mine"]
    assert studies.main(["--remove", "mine", *(["--yes"] if sure else [])]) == 0
    assert "Removed study mine with 8 trials and " in capsys.readouterr().out
    assert optuna.get_all_study_names(URL) == ["other"]
    assert sorted(path.name for path in (folder / "multirun").iterdir() if path.is_dir()) == [
        "other"
    ]
    assert studies.main(["--remove", "mine", "--yes"]) == 1
    assert "study=mine: there is no such study; there are: other" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["mine/library", "mine/0", "mine/0/deep"])
def test_no_other_study_goes_with_its_folder(
    study: optuna.Study, folder: Path, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = optuna.create_study(study_name=other, storage=study._storage)
    inner.ask()
    kept = folder / "multirun" / other / "1" / "trial.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    assert studies.main(["--remove", "mine", "--yes"]) == 0
    said = capsys.readouterr().out
    assert f"but not {folder / 'multirun/mine'}, which holds more than the study" in said
    assert optuna.get_all_study_names(URL) == [other]
    assert kept.exists()


def test_it_copies_a_study_to_another_storage(
    study: optuna.Study,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = "journal:///multirun/studies.log"
    save_note(study, "Mine.")
    for trial in study.trials:
        save_note(optuna.Trial(study, trial._trial_id), f"Of trial {trial.number}.")
    # In the copy, other trials have the identifiers that these have here.
    optuna.create_study(study_name="first", storage=open_storage(target)).add_trials(
        study.trials[:5]
    )
    assert studies.main(["--copy", "mine", "--to", target]) == 0
    copied = optuna.load_study(study_name="mine", storage=open_storage(target))
    assert [(t.number, t.state, t.params, t.values) for t in copied.trials] == [
        (t.number, t.state, t.params, t.values) for t in study.trials
    ]
    assert get_note(copied) == "Mine."
    for trial in copied.trials:
        note = get_note(optuna.Trial(copied, trial._trial_id))
        assert note == f"Of trial {trial.number}."
    assert watch.main(["mine", "--storage", target, "--once"]) == 0
    assert studies.main(["--copy", "mine", "--to", target]) == 1
    assert "study=mine is in it already; remove that first" in capsys.readouterr().err
    # A server's URL may have a password in it, and says it to nobody.
    monkeypatch.setattr(studies, "open_storage", lambda _: open_storage(target))
    monkeypatch.setattr(studies, "absolute_url", lambda url: url)
    secret = ["--copy", "mine", "--to", "postgresql+psycopg://me:secret@host/db"]
    assert studies.main(secret) == 1
    said = capsys.readouterr().err
    assert "--remove mine --storage postgresql+psycopg://me@host/db" in said
    optuna.delete_study(study_name="mine", storage=open_storage(target))
    assert studies.main(secret) == 0
    said += capsys.readouterr().out
    assert "with 8 trials to postgresql+psycopg://me@host/db." in said
    assert "secret" not in said
    assert studies.main(["--copy", "mine"]) == 1
    assert "belong together" in capsys.readouterr().err


def test_a_storage_that_is_not_there_is_not_made(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert studies.main([]) == 1
    assert "storage=sqlite:///multirun/studies.db: allowed:" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
