"""What optuna-dashboard is told: written once, kept fresh, and never over what somebody wrote."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna_dashboard import get_note, save_note

from sweep import studies
from sweep.report.notes import _code, _signed, _text, is_signed
from sweep.report.upkeep import Upkeep
from sweep.study.plan import read_plan, write_plan
from sweep.study.storage import open_storage
from tests.sweep.studies import make_study

SQLITE = "sqlite:///multirun/studies.db"
JOURNAL = "journal:///multirun/studies.log"


@pytest.fixture
def study(folder: Path) -> optuna.Study:
    return make_study(folder, 8)


def attributes(study: optuna.Study) -> dict[str, Any]:
    return study._storage.get_study_system_attrs(study._study_id)


def note_of(study: optuna.Study, number: int) -> str:
    return get_note(optuna.Trial(study, study.trials[number]._trial_id))


def edit(study: optuna.Study, number: int, text: str) -> None:
    save_note(optuna.Trial(study, study.trials[number]._trial_id), text)


@pytest.mark.parametrize("url", [SQLITE, JOURNAL])
def test_what_is_there_is_not_written_again(study: optuna.Study, url: str) -> None:
    if url == JOURNAL:
        assert studies.main(["--copy", "mine", "--to", url]) == 0
        study = optuna.load_study(study_name="mine", storage=open_storage(url))
    upkeep = Upkeep(study._storage, url)
    upkeep.refresh()
    written = attributes(study)
    assert "**Question:** minimize valid\\_l1" in get_note(study)
    assert f"--storage {JOURNAL}" in get_note(study) or url == SQLITE
    assert "dashboard:plot_data:loss-by-size:0" in written
    for trial in study.trials:
        assert f"multirun/mine/{trial.number}`" in note_of(study, trial.number)
    upkeep.refresh()
    Upkeep(study._storage, url).refresh()
    assert attributes(study) == written


def test_what_somebody_wrote_stays_and_the_rest_is_kept_fresh(study: optuna.Study) -> None:
    upkeep = Upkeep(study._storage, SQLITE)
    save_note(study, "What I want to know.")
    edit(study, 1, "")
    upkeep.refresh()
    edit(study, 2, note_of(study, 2).replace("**Directory", "Looks wrong. **Directory"))
    before = note_of(study, 3)
    study.add_trial(study.trials[0])
    for number in (2, 3):
        path = Path(f"multirun/mine/{number}/trial.json")
        path.write_text(path.read_text().replace('"text_cosine": 0.97', '"text_cosine": 0.123'))
    Path("multirun/mine/5/trial.json").unlink()
    also_before = note_of(study, 5)
    upkeep.refresh()
    assert get_note(study) == "What I want to know."
    assert note_of(study, 1) == ""
    assert "Looks wrong." in note_of(study, 2)
    assert "0.1230" not in before
    assert "0.1230" in note_of(study, 3)
    # It said more than what can be read now.
    assert note_of(study, 5) == also_before
    assert "smaller is better" in note_of(study, 8)


def test_its_own_study_note_tells_of_a_new_best(study: optuna.Study) -> None:
    upkeep = Upkeep(study._storage, SQLITE)
    upkeep.refresh()
    best = study.trials[0]
    best.values, best.user_attrs = [0.001], {}
    study.add_trial(best)
    upkeep.refresh()
    assert "| [8](/dashboard/studies/1/trials?numbers=8) |" in get_note(study)


def test_a_study_of_another_program_is_left_alone(folder: Path) -> None:
    other = optuna.create_study(study_name="other", storage=f"sqlite:///{folder}/studies.db")
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    before = attributes(other)
    Upkeep(other._storage, "sqlite:///studies.db").refresh()
    assert attributes(other) == before


def test_another_applications_study_is_in_its_words(study: optuna.Study) -> None:
    plan = read_plan(study)
    plan.application = plan.command = "python sphere.py"
    write_plan(study, plan)
    Upkeep(study._storage, SQLITE).refresh()
    assert "python sphere.py" in get_note(study)
    assert "python -m sweep " not in get_note(study)
    assert "| step | valid\\_l1 |" in note_of(study, 0)


def test_no_password_is_written(study: optuna.Study) -> None:
    url = "postgresql+psycopg://me:s3cret@host/db"
    plan = read_plan(study)
    plan.command = f"python -m sweep -m hydra.sweeper.storage='{url}' a=1,2"
    write_plan(study, plan)
    reason = f"could not reach {url}?password=s3cret after a while, is it up? & more"
    failed = optuna.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs={"reason": reason})
    study.add_trial(failed)
    Upkeep(study._storage, url).refresh()
    assert not [key for key, value in attributes(study).items() if "s3cret" in str(value)]
    assert "me@host/db" in get_note(study)
    assert "is it up? & more" in note_of(study, 8)


@given(st.text())
def test_a_changed_note_is_told_from_one_that_is_not(body: str) -> None:
    note = _signed(body)
    assert is_signed(note)
    for changed in (f"x{note}", f"{note}x", note[1:], note[:-1], body, note.rstrip()):
        assert not is_signed(changed)


@given(st.text())
def test_names_are_shown_and_not_set(text: str) -> None:
    shown = _text(text)
    assert re.sub(r"\\(.)", r"\1", shown) == " ".join(text.split())
    assert not re.search(r"(?<!\\)[`*_\[\]<>|#]", re.sub(r"\\\\", "", shown))
    assert "\n" not in shown


@given(st.text(alphabet="`ab \n"), st.booleans())
def test_code_ends_where_it_ends(text: str, inline: bool) -> None:
    code = _code(text, inline)
    fence = re.match("`+", code)
    assert fence is not None
    inner = code[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in inner or set(text) <= set("`\n ")
