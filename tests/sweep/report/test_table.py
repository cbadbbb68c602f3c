"""The tables of trials: results first, and no column that tells nothing."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import IntDistribution
from optuna.trial import TrialState, create_trial

from sweep.report.figures import draw
from sweep.report.material import Material, read_material
from sweep.report.sections import SECTIONS
from sweep.report.table import trial_columns, trial_table
from sweep.study.shared import quiet_optuna
from tests.sweep.studies import make_study

# Of each trial: how it ended, and the parameters that it was asked.
trials = st.lists(
    st.tuples(
        st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]),
        st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2), max_size=6),
    ),
    min_size=1,
    max_size=8,
)


def material_of(asked: list[tuple[TrialState, dict[str, int]]]) -> Material:
    quiet_optuna()
    study = optuna.create_study()
    study.set_metric_names(["valid_l1"])
    for number, (state, params) in enumerate(asked):
        trial = create_trial(
            state=state,
            params=dict(params),
            distributions=dict.fromkeys(params, IntDistribution(0, 2)),
            value=float(number // 3) if state is TrialState.COMPLETE else None,
            intermediate_values={7: 0.5} if state is TrialState.PRUNED else {},
        )
        study.add_trial(trial)
    return read_material(study, Path("nowhere").absolute(), None)


@settings(max_examples=60, deadline=None)
@given(trials)
def test_nothing_that_tells_trials_apart_is_left_out(
    asked: list[tuple[TrialState, dict[str, int]]],
) -> None:
    material = material_of(asked)
    everything = trial_columns(material, material.trials)
    table = trial_table(material, material.trials, "", is_tall=False)
    headings = [column.heading for column in table.columns]
    assert headings[0] == "trial"
    # Results, then parameters.
    is_searched = [column.is_searched for column in table.columns]
    assert is_searched == sorted(is_searched)
    for index, row in enumerate(table.rows):
        told = dict(zip(headings, (cell.text for cell in row.cells), strict=True))
        others = told.pop("others", "")
        told |= dict(part.split("=") for part in others.split(", ") if part)
        for column in everything:
            text = column.cells[index].text
            known = told.get(column.heading, dict(table.alike).get(column.heading, ""))
            # Where something was not measured, it may be said that it is the same in all others.
            assert known == text or (not text and not column.is_searched), column.heading
    if len(asked) > 1:
        for column in table.columns[1:]:
            assert column.heading == "valid_l1" or len({cell.text for cell in column.cells}) > 1


def test_a_pruned_trial_shows_in_brackets_what_it_had_reached(folder: Path) -> None:
    material = read_material(make_study(folder, 10), folder / "multirun/mine", None)
    table = trial_table(material, material.trials, "", is_tall=False)
    (place,) = [i for i, column in enumerate(table.columns) if column.heading == "valid_l1"]
    pruned = material.of(TrialState.PRUNED)
    assert len(pruned) == 2
    for trial in pruned:
        cell = table.rows[trial.number].cells[place]
        # Sorted last, as it has no value.
        assert (cell.text, cell.full) == (f"({trial.curve[-1][1]:.4g})", "")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([{"a": 1}], ""),
        ([{"a": 1}, {"a": 1}], "All trials were asked the same."),
        ([{"a": n, "b": 1} for n in range(3)] * 2, "Only a varied: valid_l1 0 with 0, valid_l1 1"),
        ([{"a": n, "b": n} for n in range(3)], "Of 2 parameters that varied, so few trials"),
        ([{"a": n, "b": n // 2} for n in range(3)] * 2, ""),
    ],
)
def test_what_mattered_is_a_picture_or_a_sentence(asked: list[dict[str, int]], said: str) -> None:
    material = material_of([(TrialState.COMPLETE, params) for params in asked])
    (section,) = [section for section in SECTIONS if section.name == "parameters"]
    words = section.values(material)["words"]
    assert words.startswith(said)
    names = {picture.name for picture in draw(material)}
    assert (
        ("importance" in names) == ("parallel-valid-l1" in names) == (not said and len(asked) > 1)
    )
