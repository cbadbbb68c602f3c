"""What a sweep says when it ends."""

from __future__ import annotations

import io
import shlex
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console

from sweep.application import config_directory
from sweep.resolvers import register_resolvers
from sweep.study.attributes import IDENTITY, STOPPED
from sweep.study.plan import Plan, write_plan
from sweep.study.shared import quiet_optuna
from sweep.view.summary import show_study

MINILM = {"_target_": "slicewise.teacher.minilm", "pretrained": None}
NOISE = {"_target_": "slicewise.data.noise.NoiseDataModule"}
TEXT = {"_target_": "slicewise.data.text.TextDataModule", "files": None, "text_field": "text"}


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


def last_lines(
    values: list[Any],
    config: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
    names: tuple[str, ...] = ("valid_l1",),
    params: dict[str, Any] | None = None,
    application: str | None = None,
    n_trials: int | None = None,
    exhausted: bool = False,
    **said: Any,
) -> list[str]:
    """What a sweep says last, of trials that came to these values; None: it failed.

    Args:
        values: Of each trial.
        config: What the trials share.
        metrics: What was measured of each.
        names: Of the values.
        params: Of each.
        application: Whose study it is.
        n_trials: How many were asked for; None: these.
        exhausted: Whether the space has no others.
        said: What the study keeps besides.
    """
    quiet_optuna()
    study = optuna.create_study(study_name="s", directions=["minimize"] * len(names))
    study.set_metric_names(list(names))
    study.set_user_attr(IDENTITY, {"config": config or {"teacher": MINILM, "data": NOISE}})
    for key, value in said.items():
        study.set_user_attr(key, value)
    n_trials, command = n_trials or len(values), "python -m mine -m a=1,2"
    write_plan(study, Plan(n_trials, None, command, application=application, exhausted=exhausted))
    params = params or {}
    for value in values:
        several = value if isinstance(value, tuple) else (value,)
        trial = create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            params=params,
            distributions={key: CategoricalDistribution([one]) for key, one in params.items()},
            values=None if value is None else several,
            user_attrs={"reason": "no luck"} if value is None else metrics or {},
        )
        study.add_trial(trial)
    printed = io.StringIO()
    show_study(study, Path("nowhere"), Console(file=printed, width=80))
    return printed.getvalue().rpartition("\n\n")[2].splitlines()


def test_noise_alone_does_not_transfer() -> None:
    measured = {"text_cosine": 0.2032, "baseline_ratio": 1.3}
    shown, on_text, following = last_lines([0.31, 0.3, 0.4], metrics=measured)
    assert shown == (
        "Shown:        valid_l1 from 0.3 (trial 1) to 0.4 (trial 2) in 3 trials; the best is "
        "1.30 times better than what needs no student."
    )
    assert on_text == (
        "On text:      cosine 0.2032 to the original's embeddings, where the same is 1: noise "
        "alone does not transfer; data=text does better."
    )
    assert following == (
        "Next:         python -m sweep.compress budget.parameters=0.33  # a smaller model"
    )


def test_what_transfers_is_not_called_noise_that_does_not() -> None:
    for cosine, data, params in (
        (0.95, NOISE, {}),
        (0.2, TEXT, {}),
        (0.2, {}, {"data": "text"}),
        (None, NOISE, {}),
    ):
        config = {"teacher": MINILM, "data": data}
        metrics = {} if cosine is None else {"text_cosine": cosine}
        _, on_text, _ = last_lines([0.3], config, metrics, params=params)
        assert "does not transfer" not in on_text
        assert ("data=text" in on_text) == (cosine == 0.95)
        assert (f"cosine {cosine:.4f}" if cosine else "not compared") in on_text
    _, on_text, _ = last_lines([0.3], {"data": {}}, {"text_cosine": 0.2}, params={"data": "noise"})
    assert "noise alone does not transfer" in on_text


def test_what_was_shown_is_what_was_sought() -> None:
    assert last_lines([0.3])[0] == "Shown:        valid_l1 0.3 (trial 0)."
    no_better = last_lines([0.3], metrics={"baseline_ratio": 0.9})[0]
    assert "no better than the best baseline" in no_better
    names = ("valid_l1", "student_parameters")
    both = last_lines([(0.3, 2000.0), (0.2, 3000.0), (0.4, 4000.0)], names=names)[0]
    assert both == (
        "Shown:        no trial is better in all than 0, 1 of 3; the best in each: valid_l1 0.2 "
        "(trial 1); student_parameters 2,000 (trial 0)."
    )
    assert "trial 1 is best in all" in last_lines([(0.3, 2.0), (0.2, 1.0)], names=names)[0]
    nothing = last_lines([None, None])
    assert nothing == [
        "Shown:        nothing yet, as no trial is complete: 2 fail.",
        "Next:         python -m mine -m a=1,2  # once what is said above is mended",
    ]


def test_only_what_has_failed_is_to_be_mended() -> None:
    assert last_lines([]) == [
        "Shown:        nothing yet, as no trial is complete: none ran.",
        "Next:         python -m mine -m a=1,2",
    ]


def test_another_application_is_spoken_of_in_its_own_words() -> None:
    asked: dict[str, Any] = {"names": ("error",), "params": {"rate": 3}, "application": "mine.py"}
    assert last_lines([0.3, 0.2], **asked) == [
        "Shown:        error from 0.2 (trial 1) to 0.3 (trial 0) in 2 trials.",
        "Best with:    rate=3",
        "To go on:     python -m mine -m a=1,2 hydra.sweeper.n_trials=4  # as many again",
    ]
    # Where the space has no others, nothing goes on.
    assert last_lines([0.3, 0.2], **asked, exhausted=True)[-1] == "Best with:    rate=3"
    # Where a rule has ended it, it does without, as far as was asked for at first.
    ruled = {STOPPED: {"reason": "so"}}
    without = "To go on:     python -m mine -m a=1,2 hydra/sweeper/stop=none"
    assert last_lines([0.3, 0.2], **asked, n_trials=9, **ruled)[-1] == without
    for lines in (last_lines([0.3, 0.2], **asked), last_lines([None], **asked)):
        assert "student" not in " ".join(lines)
        assert "compress" not in " ".join(lines)


@pytest.mark.parametrize(
    ("teacher", "data", "params", "sought"),
    [
        (MINILM, NOISE, {}, {}),
        (
            MINILM,
            TEXT | {"files": ["a b.txt", "c.jsonl"]},
            {},
            {"data.files": ["a b.txt", "c.jsonl"]},
        ),
        (MINILM | {"pretrained": "my model"}, TEXT, {}, {"teacher.pretrained": "my model"}),
        (
            {"_target_": "slicewise.teacher.load_slice", "pretrained": "bert-base-uncased"},
            NOISE,
            {},
            {"teacher.pretrained": "bert-base-uncased"},
        ),
        ({}, NOISE, {"teacher": "bert_base"}, {"teacher.pretrained": "bert-base-uncased"}),
        ({}, NOISE, {"teacher": "random_bert"}, {"teacher._target_": "slicewise.teacher.minilm"}),
        ({"_target_": "mine.Teacher"}, NOISE, {}, {"teacher._target_": "slicewise.teacher.minilm"}),
    ],
)
def test_the_command_of_a_smaller_model_is_one_of_this_teacher(
    teacher: dict[str, Any], data: dict[str, Any], params: dict[str, Any], sought: dict[str, Any]
) -> None:
    following = last_lines([0.3], {"teacher": teacher, "data": data}, params=params)[-1]
    command = shlex.split(following.removeprefix("Next:"), comments=True)
    assert command[:3] == ["python", "-m", "sweep.compress"]
    is_minilm = "minilm" in sought.get("teacher._target_", "")
    assert ("MiniLM" in following) == is_minilm
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory())):
        config = compose("compress", command[3:])
    assert config.budget.parameters == 0.33
    for key, value in sought.items():
        found = config
        for part in key.split("."):
            found = found[part]
        assert found == value
