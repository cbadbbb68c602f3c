"""debug=fast, profile, overfit: a single fit, and each trial of a sweep."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from sweep.application import CONFIG_NAME, config_directory
from sweep.resolvers import register_resolvers
from sweep.study.identity import DECIDES, decides
from tests.sweep.conftest import Sweep

Record = Callable[[str], dict[str, Any]]


def _choices(*overrides: str) -> dict[str, Any]:
    register_resolvers()
    with initialize_config_dir(str(config_directory()), job_name="sweep"):
        config = compose(CONFIG_NAME, list(overrides), return_hydra_config=True)
    return dict(config.hydra.runtime.choices)


def test_fast_works_in_this_process_whatever_the_experiment() -> None:
    assert _choices()["hydra/launcher"] == "local"
    assert _choices("experiment=tiny", "debug=fast")["hydra/launcher"] == "basic"
    # The command line has the last word.
    assert _choices("debug=fast", "hydra/launcher=joblib")["hydra/launcher"] == "joblib"


def test_fast_takes_three_steps_and_keeps_nothing(
    sweep: Sweep, record: Record, folder: Path
) -> None:
    assert sweep("-m", "study=s", "debug=fast", "data.cache_limit=1", "student.qkv_layers=0,1") == 0
    assert [record(f"s/{number}")["steps"] for number in (0, 1)] == [3, 3]
    assert not (folder / "multirun" / ".cache").exists()


def test_profile_writes_where_the_time_went_and_says_how_to_open_it(
    sweep: Sweep, folder: Path
) -> None:
    assert sweep("-m", "study=s", "debug=profile", "student.qkv_layers=0,1") == 0
    for number in (0, 1):
        place = folder / f"multirun/s/{number}/profile"
        tables = {path.stem: path.read_text() for path in place.glob("*.txt")}
        assert set(tables) == {"fit-lightning", "fit-torch"}
        assert "Distiller.optimizer_step" in tables["fit-lightning"]
        # Of all rows the longest, whichever those are on a busy machine.
        assert "aten::" in tables["fit-torch"]
        for name in ("training_step", "validation_step"):
            trace = json.loads((place / f"{name}.json").read_text())
            # The student's own layers, and what they are made of.
            assert {"aten::linear", "aten::addmm"} & {e["name"] for e in trace["traceEvents"]}
            steps = [e for e in trace["traceEvents"] if e["name"].startswith("ProfilerStep#")]
            assert len({event["name"] for event in steps}) == 3
        said = (place.parent / "sweep.log").read_text().splitlines()
        lines = [line for line in said if "the time went: less " in line or " webbrowser " in line]
        opened = [word for line in lines for word in shlex.split(line) if "/profile/" in word]
        assert sorted(folder / word for word in opened) == sorted(place.iterdir())


def test_overfit_learns_one_batch_by_heart(sweep: Sweep, record: Record, folder: Path) -> None:
    # On noise, of which nothing is known by a wider student but the batch itself.
    overrides = ("student=bert_layer", "optimizer.lr=1e-2", "trainer.max_epochs=60")
    assert sweep("study=s", "debug=overfit", *overrides) == 0
    found = record("s/0")
    assert found["steps"] == 60
    with (folder / "multirun/s/0/metrics.csv").open() as file:
        losses = [float(row["train_l1"]) for row in csv.DictReader(file) if row["train_l1"]]
    assert losses[-1] < losses[0] / 3
    assert losses[-1] < 0.8 * found["valid_l1"]


def test_where_a_profiler_writes_is_no_part_of_what_a_study_is_about() -> None:
    assert not decides("trainer.profiler", DECIDES)
    assert decides("trainer.overfit_batches", DECIDES)
