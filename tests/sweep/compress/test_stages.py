"""What one stage hands to the next: overrides, plans, results, names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from slicewise.errors import SlicewiseError
from sweep.application import config_directory
from sweep.command_line import command_of_study, part_of
from sweep.compress.application import CONFIG_NAME
from sweep.compress.deliver import show
from sweep.compress.plans import ChosenPlan, Plans
from sweep.compress.result import Figures, Result
from sweep.compress.settings import CompressSettings
from sweep.compress.stages import of_library
from sweep.resolvers import register_resolvers

PLAN = ChosenPlan(["L0/2h/8n", "drop1"], ["layer 0", "nothing"], {"parameters": 8.0}, 0.25, 0.3)
PLANS = Plans(
    made_of="ab",
    budget={"parameters": 9.0},
    original={"parameters": 20.0},
    spans=[[0, 0], [1, 1]],
    shapes=[{"heads": 2, "neurons": 16}] * 2,
    chosen=[PLAN],
    homogeneous=None,
    resource="parameters",
    curve=[PLAN],
    rank_correlation=1.0,
)


def test_another_budget_or_healing_is_the_same_library() -> None:
    same = ["teacher=minilm", "data.files=[a.txt]", "library.neurons=[8]", "partition=2", "seed=1"]
    later = ["budget.parameters=0.3", "heal.steps=3", "choose.plans=2", "evaluate.pairs=a.csv"]
    fits = [
        "optimizer=adamw",
        "optimizer.lr=1",
        "scheduler=[]",
        "~callbacks",
        "trainer.max_steps=1",
    ]
    where = ["trainer.accelerator=cpu", "hydra.sweeper.n_jobs=2", "hydra/launcher=basic"]
    assert of_library([*same, *later, *fits, *where], fits=False) == [*same, *where]
    # What candidates are fitted by decides them.
    assert of_library([*same, *later, *fits, *where], fits=True) == [*same, *fits, *where]


def test_the_command_of_a_part_is_that_of_the_whole() -> None:
    with part_of("c", ["budget.parameters=0.3", "study=old", "data.files=[my file.txt]"]):
        command = command_of_study("c/library")
    assert command.endswith("budget.parameters=0.3 'data.files=[my file.txt]' study=c")
    assert "c/library" in command_of_study("c/library")


def test_plans_are_read_as_they_were_written(tmp_path: Path) -> None:
    PLANS.write(tmp_path)
    assert Plans.read(tmp_path) == PLANS
    assert PLAN.text == "L0/2h/8n drop1"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"chosen": [{"a": 1}]}'])
def test_damaged_plans_and_results_are_said_to_be(tmp_path: Path, content: str) -> None:
    for name, kind in (("plans.json", Plans), ("result.json", Result)):
        with pytest.raises(SlicewiseError, match=f"has no {name}"):
            kind.read(tmp_path)
        (tmp_path / name).write_text(content)
        with pytest.raises(SlicewiseError, match=f"{name} is damaged"):
            kind.read(tmp_path)


FIGURES = Figures(100, 1000, 2.0, 3.0, 50.0, 0.8)
RESULT = Result(
    **{
        **{field.name: "x" for field in dataclasses.fields(Result)},
        "original": FIGURES,
        "result": dataclasses.replace(FIGURES, parameters=50, flops=500, texts_per_second=90.0),
        "held_out": (7, "texts"),
    }
)


@pytest.mark.parametrize(
    ("before", "after", "steps", "is_said"),
    [(0.2, 0.1, 9, False), (0.1, 0.2, 9, True), (0.1, 0.1, 0, False), (None, 0.1, 9, False)],
)
def test_a_healing_that_made_nothing_better_is_said_to_be(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    before: float | None,
    after: float,
    steps: int,
    is_said: bool,
) -> None:
    figures = {"cosine": 0.9, "overlap": None, "has_onnx": False, "is_plain": True}
    healed = {"damage_before": before, "damage": after, "steps": steps}
    show(dataclasses.replace(RESULT, **figures, **healed), tmp_path)
    printed = capsys.readouterr()
    assert ("Healing has made nothing better: damage 0.1000 before" in printed.err) is is_said
    assert "cosine, 7 texts" in printed.out


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = RESULT
    result.write(tmp_path)
    again = Result.read(tmp_path)
    assert again == result
    assert (again.speed, again.promised_speed) == (1.8, 2.0)
    assert json.loads((tmp_path / "result.json").read_text())["result"]["parameters"] == 50


@pytest.mark.parametrize(
    ("override", "is_other"),
    [
        ("heal.steps=9", True),
        ("heal.hidden_weight=0.5", True),
        ("optimizer.lr=0.5", True),
        ("seed=3", True),
        ("data.seq_length=9", True),
        ("choose.measured=1", False),
        ("evaluate.texts=99", False),
        ("export.onnx=true", False),
        ("data.cache=off", False),
        ("logger=[]", False),
    ],
)
def test_what_decides_a_healing_names_it(override: str, is_other: bool) -> None:
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_directory())):
        names = [
            CompressSettings.of(
                compose(CONFIG_NAME, ["budget.parameters=0.5", *more])
            ).name_of_healing(["L0/1h"])
            for more in ([], [override])
        ]
    assert (names[0] != names[1]) is is_other
