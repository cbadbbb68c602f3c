"""What a sweep says when it ends."""

from __future__ import annotations

import io
from pathlib import Path

import optuna
from optuna.distributions import IntDistribution
from rich.console import Console

from sweep.view.summary import show_study


def test_many_parameters_are_words_in_eighty_columns(tmp_path: Path) -> None:
    """As in a conditional space, each trial has a value for some of them only."""
    study = optuna.create_study(study_name="s")
    for first in (0, 4):
        params = {f"student.part_{i}": 100 + i for i in range(first, first + 4)}
        distributions = {key: IntDistribution(0, 1000) for key in params}
        trial = optuna.create_trial(params=params, distributions=distributions, value=0.25)
        study.add_trial(trial)
    printed = io.StringIO()
    show_study(study, tmp_path, Console(file=printed, width=80))
    said = printed.getvalue()
    assert "…" not in said
    for i in range(8):
        assert said.count(f"part_{i}={100 + i}") == 1
