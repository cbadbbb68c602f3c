"""What is wrong with all trials alike is found before any of them, and named as itself."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sweep.study.attributes import REASON
from sweep.trial.outcome import End, Outcome
from tests.sweep import faults
from tests.sweep.conftest import Sweep


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEWISE_TRUSTED", faults.TRUSTED)


def _trials() -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name="s", storage="sqlite:///multirun/studies.db")
    return study.trials


SHARED = [
    (["seed=-1"], "seed=-1: allowed: an integer from 0 to"),
    (["data=text", "data.files=[nowhere.txt]"], "data.files=nowhere.txt: allowed: files that can"),
    (["trainer.accelerator=gpu"], "trainer.accelerator=gpu: allowed: cpu or auto"),
    (["trainer.val_check_interval=11"], "trainer.val_check_interval=11: allowed: at most the 10"),
    (["trainer.limit_val_batches=0"], "trainer.limit_val_batches=0: allowed: null, or more"),
    (
        ["scheduler=cosine", "trainer.max_epochs=-1", "trainer.max_time=00:00:00:05"],
        "scheduler=cosine: allowed: null, where only trainer.max_time ends a fit",
    ),
    (["trainer.limit_val_batches=0.01"], "trainer.limit_val_batches=0.01: allowed: null, or what"),
    (["trainer.limit_train_batches=0"], "trainer.limit_train_batches=0: allowed: null, or what"),
    (["+trainer.overfit_batches=0.01"], "trainer.overfit_batches=0.01: allowed: null, or what"),
    (["trainer.val_check_interval=0"], "trainer.val_check_interval=0: allowed: above 0"),
    (["trainer.val_check_interval=0.0"], "trainer.val_check_interval=0.0: allowed: above 0"),
    (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch=0: allowed: at least"),
    (["trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches=0: allowed: at least"),
    (["trainer.accumulate_grad_batches=-3"], "trainer.accumulate_grad_batches=-3: allowed: at le"),
    (["trainer.gradient_clip_val=-1"], "trainer.gradient_clip_val=-1: allowed: at least 0, or"),
    (["trainer.precision=bf16-true"], "trainer.precision=bf16-true: allowed: 32-true, bf16-mixed"),
    (["trainer.precision=64-true"], "trainer.precision=64-true: allowed: 32-true, bf16-mixed"),
    (["+callbacks.x={}"], "callbacks.x={}: allowed: a map that says by _target_ what it is"),
    (["+callbacks.x=7"], "callbacks.x=7: allowed: a map that says by _target_ what it is"),
    (["+callbacks.x=null"], "callbacks.x=null: allowed: a map that says by _target_ what it is"),
    (["+logger.x=7"], "logger.x=7: allowed: a map that says by _target_ what it is"),
    (["loss._target_=os.system"], "Error: loss._target_=os.system: allowed: slicewise.*"),
    (["loss._target_=slicewise.losses.nothing"], "Error: loss._target_=slicewise.losses.nothing"),
    (["loss=smooth_l1", "loss.beta=0"], "Error: loss.beta=0.0: allowed: a number above 0"),
    (["loss=l1_and_cosine", "loss.weight=-1"], "Error: loss.weight=-1.0: allowed: a number of at"),
    (["loss=smooth_l1", "loss.beta=x"], "Error: loss.beta=x: allowed: a number"),
    (["+logger.x={_target_: os.system}"], "logger.x._target_=os.system: allowed: slicewise.*"),
    (["steps.at_once=100"], "steps.at_once=100: allowed: auto, 1, 2"),
    (["data.cache_limit=inf"], "data.cache_limit=inf: allowed: gigabytes"),
    (["objective.metrics=[]"], "objective.metrics=[]: allowed: a list, each once, of valid_l1"),
    (["objective.metrics=valid_l1"], "objective.metrics=valid_l1: allowed: a list"),
    (
        ["objective.metrics=[valid_l1,valid_l1]", "hydra.sweeper.direction=[minimize,minimize]"],
        "objective.metrics=[valid_l1,valid_l1]: allowed: a list, each once",
    ),
    (["objective.max_parameters=abc"], "objective.max_parameters=abc: allowed: a number above 0"),
    (["objective.max_latency_ms=0"], "objective.max_latency_ms=0: allowed: a number above 0"),
    (["optimizer.lr=-1"], "optimizer: Invalid learning rate: -1"),
    (["teacher.first_layer=9"], "teacher.first_layer=9: allowed: 0 to 2"),
    (["student.dropout=2"], "student.dropout=2.0: allowed: a probability"),
    (["student.num_attention_heads=5"], "student.value_dim=12: allowed: a multiple of"),
    (["objective.max_parameters=10"], "parameters, more than objective.max_parameters=10"),
    (["+student.rank=8"], "student.rank=8: allowed: the arguments"),
    (["+callbacks.x={_target_: sweep.nothing.Here}"], "callbacks.x._target_=sweep.nothing.Here"),
]


@pytest.mark.parametrize(("overrides", "said"), SHARED, ids=lambda value: str(value[0]))
def test_a_mistake_of_all_is_said_before_any_trial(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    swept = "seed=-1,-1" if overrides == ["seed=-1"] else "optimizer.weight_decay=0,1e-4"
    if overrides == ["seed=-1"]:
        swept = "student.qkv_layers=0,1"
    no_gpu = [] if "trainer.accelerator=gpu" in overrides else ["trainer.accelerator=cpu"]
    assert sweep("-m", "study=s", swept, *no_gpu, *overrides) == 1
    printed = capfd.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert printed.err.count("Error:") == 1
    assert not _trials()
    assert not (folder / "multirun/s/0").exists()


@pytest.mark.parametrize(
    ("swept", "said"),
    [
        (
            ["student.qkv_layers=interval(1,4)"],
            "student.qkv_layers=interval(1.0,4.0): allowed: an integer\n"
            "Such as student.qkv_layers=int(interval(1,4))",
        ),
        (
            ["student.qkv_layers=interval(1,4)", "data.train_batches=tag(log,interval(1.5,3))"],
            "Such as data.train_batches=tag(log,int(interval(2,3)))",
        ),
        (["student.dropout=interval(2,4)"], "student.dropout=interval(2.0,4.0): allowed: a prob"),
    ],
)
def test_an_interval_of_which_no_value_can_be_run_is_refused(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], swept: list[str], said: str
) -> None:
    assert sweep("-m", "study=s", *swept) == 1
    assert said in capfd.readouterr().err
    assert not _trials()


def test_an_interval_of_which_some_values_can_be_run_is_searched(sweep: Sweep) -> None:
    assert (
        sweep("-m", "study=s", "student.dropout=interval(0.5,2)", "hydra.sweeper.n_trials=1") == 0
    )


# What needs no trial's configuration: nothing has been opened.
SWEEPS = [
    (["hydra.sweeper.direction=[]"], "hydra.sweeper.direction=[]: allowed: one for each of valid_"),
    (
        ["hydra.sweeper.direction=[minimize,minimize]"],
        "hydra.sweeper.direction=[minimize,minimize]: allowed: one for each of valid_l1",
    ),
    (["objective=l1,l1_parameters"], "objective=l1,l1_parameters: allowed: one"),
    (["hydra.sweeper.n_jobs=many"], "hydra.sweeper.n_jobs=many: allowed: auto, or an integer"),
    (["hydra.sweeper.heartbeat=0"], "hydra.sweeper.heartbeat=0.0: allowed: a number of seconds"),
    (["hydra.sweeper.timeout=-1"], "hydra.sweeper.timeout=-1.0: allowed: a number of seconds"),
    (
        ["hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=-1"],
        "hydra.sweeper.pruner: Number of startup trials cannot be negative",
    ),
    (
        ["hydra/sweeper/pruner=hyperband", "hydra.sweeper.pruner.reduction_factor=1"],
        "hydra/sweeper/pruner: HyperbandPruner: ZeroDivisionError: ",
    ),
    (["hydra.sweep.subdir=same"], "hydra.sweep.subdir=same: allowed: a folder of its own for each"),
    (
        ["hydra.sweep.subdir=q${student.qkv_layers}", "optimizer.lr=interval(1e-4,1e-3)"],
        "hydra.sweep.subdir=q${student.qkv_layers}: allowed: a folder of its own for each",
    ),
    (["hydra.sweep.subdir=${nothing}"], "hydra.sweep.subdir=${nothing}: allowed: what can be res"),
    (["hydra.sweep.dir=file/s"], "file/s: allowed: a folder that can be made"),
    (["study=.."], 'study="..": allowed: a name that a folder can have'),
    (["study="], 'study="": allowed: a name that a folder can have'),
    (["study=null"], "study=null: allowed: a name that a folder can have"),
    (["hydra/sweeper/sampler=[]"], "hydra.sweeper.sampler: missing; choose one of hydra/sweeper/s"),
]


@pytest.mark.parametrize(("overrides", "said"), SWEEPS, ids=lambda value: str(value[0]))
def test_a_mistake_of_the_sweeps_own_is_said_before_there_is_a_study(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    (folder / "file").touch()
    assert sweep("-m", "study=s", "student.qkv_layers=0,1", *overrides) == 1
    printed = capfd.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err + printed.out
    assert not (folder / "multirun/studies.db").exists()


def test_a_mistake_in_the_first_command_can_be_mended(sweep: Sweep) -> None:
    command = ("-m", "study=s", "student.qkv_layers=0,1")
    assert sweep(*command, "seed=-1") == 1
    assert sweep(*command) == 0
    assert [trial.state for trial in _trials()] == [TrialState.COMPLETE] * 2


def test_a_point_that_cannot_be_run_does_not_keep_the_others_from_it(sweep: Sweep) -> None:
    assert sweep("-m", "study=s", "student.value_dim=7,12") == 0
    assert [trial.state for trial in _trials()] == [TrialState.FAIL, TrialState.COMPLETE]


@pytest.mark.parametrize("missing", ["~callbacks", "~logger", "~scheduler"])
def test_what_may_be_missing_is_missed_by_nobody(sweep: Sweep, missing: str) -> None:
    assert sweep("-m", "study=s", "student.qkv_layers=0,1", missing) == 0


def test_a_file_that_goes_away_is_a_failure_that_counts(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And no fault of the points that it keeps from running."""
    text = folder / "text.txt"
    text.write_text("".join(f"This is sentence number {n} of the file.\n" for n in range(200)))
    remove = "+callbacks.gone={_target_: tests.sweep.faults.RemoveFile, trial: 1, path: text.txt}"
    command = ("-m", "study=s", "data=text", "data.files=[text.txt]", remove)
    points = "student.qkv_layers=0,1,2,3,4,5,6,7,8,9"
    small = ("data.batch_size=4", "data.seq_length=8", "data.train_batches=4")
    assert sweep(*command, points, *small, "hydra.sweeper.n_trials=10") == 1
    states = [trial.state for trial in _trials()]
    assert states[:2] == [TrialState.COMPLETE] * 2
    # max_failure_rate=0.5 of ten.
    assert states[2:] == [TrialState.FAIL] * 6
    assert "text.txt: allowed: files that can be read" in _trials()[-1].user_attrs[REASON]
    assert "the sweep stopped: 6 trials failed" in capfd.readouterr().err


def test_a_file_that_a_point_names_is_the_points_fault() -> None:
    from slicewise.data.corpus import Source, read_texts
    from slicewise.errors import ArgumentError

    with pytest.raises(ArgumentError) as caught:
        read_texts(Source(files=("nowhere.txt",)))
    error = caught.value.within("data")
    assert Outcome.of(error, ["data.files"]).end is End.IMPOSSIBLE
    assert Outcome.of(error, ["student.qkv_layers", "data.batch_size"]).end is End.LACKING
