"""Fits on several ranks: what they compute together, and what becomes of them when one fails."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import pytorch_lightning as lightning
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from optuna.trial import TrialState
from torch.nn import functional as F

from slicewise import load_student
from slicewise.data.batch import Split
from slicewise.data.noise import noise_batch
from sweep import application
from sweep.console import INTERRUPTED, MISTAKE
from sweep.ranks import gang
from sweep.study.attributes import ATTEMPTS, REASON
from sweep.trial.active import StudyTrial
from sweep.trial.build import build
from sweep.trial.parts import build_student
from tests.sweep import faults
from tests.sweep.conftest import Sweep
from tests.waiting import eventually, is_alive

Record = Callable[[str], dict[str, Any]]

TWO_RANKS = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
Ranks = tuple[str, ...]
NO_DROPOUT = "student.dropout=0"
ALL_SAVES = "callbacks.resume_point.every_seconds=0"
ONE_RANK = "+callbacks.one={_target_: tests.sweep.faults.OneRank, rank: %d, step: %d, what: %s}"


@pytest.fixture(scope="module", autouse=True)
def _own_ranks() -> Iterator[None]:
    """Ranks that trust what the tests do to them; kept from test to test, where all goes well."""
    gang.disband()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLICEWISE_TRUSTED", faults.TRUSTED)
        yield
    gang.disband()


@pytest.fixture(params=["cpu", pytest.param("gpu", marks=pytest.mark.gpu(2))])
def ranks(request: pytest.FixtureRequest) -> Ranks:
    """Two ranks, on each kind of device that there is."""
    return (*TWO_RANKS[:-1], f"trainer.accelerator={request.param}")


def _study() -> optuna.Study:
    return optuna.load_study(study_name="s", storage="sqlite:///multirun/studies.db")


def _rank_pids() -> list[int]:
    assert gang._current is not None
    return [rank.pid for rank in gang._current._ranks]


def test_one_step_is_the_single_process_step_on_the_joined_batch(
    sweep: Sweep, ranks: Ranks
) -> None:
    """Every rank took part: its gradient is in the mean."""
    assert sweep(*ranks, NO_DROPOUT, "study=s", "data.train_batches=2") == 0
    student = load_student(Path("multirun/s/0/student"))

    with initialize_config_dir(str(application.config_directory()), job_name="sweep"):
        config = compose("config", ["experiment=tiny", NO_DROPOUT, "study=s"])
    teacher = build("teacher", config.teacher)
    lightning.seed_everything(0, verbose=False)
    node: Any = OmegaConf.to_container(config.student, resolve=True)
    expected = build_student(node, teacher)
    device = torch.device("cuda" if ranks[-1].endswith("gpu") else "cpu")
    teacher, expected = teacher.to(device), expected.to(device)
    x_BTH = torch.cat([noise_batch((4, 8, 24), 0, Split.TRAIN, i, device) for i in range(2)])
    optimizer = build("optimizer", config.optimizer)(expected.parameters())
    F.l1_loss(expected(x_BTH), teacher(x_BTH)).backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
    optimizer.step()

    alone = expected.cpu().state_dict()
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(tensor, alone[name], atol=1e-6, rtol=0)


def test_the_loss_does_not_depend_on_the_number_of_ranks(
    sweep: Sweep, record: Record, ranks: Ranks
) -> None:
    """Twenty steps at equal global batch: two ranks, or one that accumulates two batches."""
    shared = ("data.train_batches=40", "data.valid_batches=3", "student.dropout=0.1")
    assert sweep(*ranks, *shared, "study=two") == 0
    alone = ("trainer.accumulate_grad_batches=2", ranks[-1])
    assert sweep(*shared, *alone, "study=one") == 0
    two, one = record("two/0"), record("one/0")
    assert two["steps"] == one["steps"] == 20
    assert two["valid_l1"] == pytest.approx(one["valid_l1"], abs=1e-4)
    assert two["baselines"] == pytest.approx(one["baselines"], abs=1e-5)
    assert two["hardware"].startswith("2 x ")


def test_only_rank_0_writes_and_the_ranks_stay(sweep: Sweep, folder: Path, ranks: Ranks) -> None:
    assert sweep("-m", *ranks, "study=s", "student.qkv_layers=0,1,2") == 0
    before = _rank_pids()
    assert len(before) == 2
    directories = [path.name for path in (folder / "multirun").glob("[!.]*") if path.is_dir()]
    assert directories == ["s"]
    written = {".hydra", "metrics.csv", "student", "sweep.log", "trial.json"}
    for number in range(3):
        place = folder / "multirun/s" / str(number)
        assert {path.name for path in place.iterdir()} == written
        with (place / "metrics.csv").open(newline="") as file:
            steps = [int(row["step"]) + 1 for row in csv.DictReader(file) if row["valid_l1"]]
        assert steps == sorted(_study().trials[number].intermediate_values) == [1, 2, 3, 4, 5]
        log = (place / "sweep.log").read_text()
        assert log.count("Student: ") == 1
    assert sweep("-m", *ranks, "study=s", "student.qkv_layers=0,1,2") == 0
    assert _rank_pids() == before


def test_a_pruned_trial_stops_on_all_ranks(sweep: Sweep, record: Record, ranks: Ranks) -> None:
    """Which here is the mean over two seeds, pruned in the first of its fits."""
    seeds = "objective.seeds=[0,1]"
    pruner = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=1")
    points = "student.qkv_layers=2,0"
    lots = "data.train_batches=40"
    assert sweep("-m", *ranks, *pruner, "study=s", points, lots, seeds) == 0
    before = _rank_pids()
    found = record("s/0")["seeds"]
    assert _study().trials[0].value == (found["0"][0] + found["1"][0]) / 2
    assert found["0"] != found["1"]
    states = [trial.state for trial in _study().trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED]
    pruned = record("s/1")
    assert pruned["state"] == "PRUNED"
    assert pruned["steps"] == max(_study().trials[1].intermediate_values) < 20
    assert _rank_pids() == before


def test_a_trial_stopped_on_all_ranks_goes_on_to_the_same_end(
    sweep: Sweep, folder: Path, record: Record, ranks: Ranks
) -> None:
    shared = ("hydra.sweeper.n_trials=1", "student.qkv_layers=1", "data.train_batches=80")
    command = ("-m", *ranks, *shared)
    assert sweep(*command, "study=whole") == 0
    slow = "+callbacks.slow={_target_: tests.sweep.faults.Slow, seconds: 0.1}"
    stop = "+callbacks.stop={_target_: tests.sweep.faults.InterruptWorker, step: 3}"
    assert sweep(*command, "study=parts", slow, stop) == INTERRUPTED
    assert (folder / "multirun/parts/0/checkpoints/resume.ckpt").exists()
    assert not (folder / "multirun/parts/0/trial.json").exists()
    # Without the callbacks that stopped it.
    assert sweep(*command, "study=parts", "+resume=force") == 0
    log = (folder / "multirun/parts/0/sweep.log").read_text()
    [line] = [line for line in log.splitlines() if "Going on from step" in line]
    assert 3 <= int(line.split()[-1]) < 40
    whole, resumed = record("whole/0"), record("parts/0")
    assert resumed["valid_l1"] == whole["valid_l1"]
    assert resumed["baselines"] == pytest.approx(whole["baselines"], rel=1e-6)


def test_a_point_that_cannot_be_run_is_impossible_on_all_ranks(sweep: Sweep, ranks: Ranks) -> None:
    assert sweep("-m", *ranks, "study=s", "student.value_dim=7,8") == 0
    before = _rank_pids()
    impossible, fine = _study().trials
    assert impossible.state is TrialState.FAIL
    assert "student.value_dim=7" in impossible.user_attrs[REASON]
    assert fine.state is TrialState.COMPLETE
    assert _rank_pids() == before


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_fails_its_trial_once(
    sweep: Sweep, record: Record, folder: Path, rank: int, ranks: Ranks
) -> None:
    fault = (ONE_RANK % (rank, 2, "raise")).replace("}", ", trial: 0}")
    command = ("-m", *ranks, ALL_SAVES, "study=s", "student.qkv_layers=0,1")
    assert sweep(*command, "hydra.sweeper.max_failure_rate=1", fault) == 0
    failed, fine = _study().trials
    assert failed.state is TrialState.FAIL
    assert failed.user_attrs[REASON] == f"RuntimeError: rank {rank} is tired"
    assert ATTEMPTS not in failed.user_attrs
    assert record("s/0")["state"] == "FAIL"
    assert record("s/0")["reason"] == failed.user_attrs[REASON]
    assert not (folder / "multirun/s/0/checkpoints").exists()
    assert "is tired" in (folder / "multirun/s/0/sweep.log").read_text()
    assert fine.state is TrialState.COMPLETE


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_ranks_trial_goes_on_from_its_checkpoint(
    sweep: Sweep, record: Record, folder: Path, rank: int, ranks: Ranks
) -> None:
    command = ("-m", *ranks, ALL_SAVES, "data.train_batches=20", "student.qkv_layers=1")
    fault = ONE_RANK % (rank, 6, "SIGKILL")
    assert sweep(*command, "study=s", fault) == 0
    [trial] = _study().trials
    assert trial.state is TrialState.COMPLETE
    assert trial.user_attrs[ATTEMPTS] == 1
    log = (folder / "multirun/s/0/sweep.log").read_text()
    assert "Going on from step 5" in log
    assert sweep(*command, "study=whole") == 0
    assert record("s/0")["valid_l1"] == record("whole/0")["valid_l1"]


def test_ranks_that_no_longer_answer_are_ended(sweep: Sweep, folder: Path, ranks: Ranks) -> None:
    """A suspended rank: nobody died, and without a watchdog nobody would go on."""
    command = ("-m", *ranks, ALL_SAVES, "study=s", "student.qkv_layers=1", "gang.timeout=15")
    assert sweep(*command, ONE_RANK % (1, 3, "SIGSTOP")) == 0
    [trial] = _study().trials
    assert trial.state is TrialState.COMPLETE
    assert trial.user_attrs[ATTEMPTS] == 1
    assert "Going on from step 2" in (folder / "multirun/s/0/sweep.log").read_text()


@pytest.mark.slow
def test_a_storage_that_is_away_costs_no_rank_its_share(
    sweep: Sweep, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away for longer than a rank may wait for the others: those hear that rank 0 waits."""
    report = StudyTrial.report

    def slow_report(self: StudyTrial, value: float, step: int, known: Any) -> None:
        if step == 2:
            time.sleep(25)
        report(self, value, step, known)

    monkeypatch.setattr(StudyTrial, "report", slow_report)
    command = ("-m", *ranks, "study=s", "student.qkv_layers=1", "gang.timeout=15")
    assert sweep(*command) == 0
    [trial] = _study().trials
    assert trial.state is TrialState.COMPLETE
    assert ATTEMPTS not in trial.user_attrs


def test_a_single_fit_says_which_rank_died(
    sweep: Sweep, record: Record, capfd: pytest.CaptureFixture[str], ranks: Ranks
) -> None:
    command = (*ranks, ALL_SAVES, "study=s")
    assert sweep(*command, ONE_RANK % (1, 3, "SIGKILL")) == MISTAKE
    assert "Error: rank 1 died (SIGKILL)" in capfd.readouterr().err
    assert sweep(*command) == 0
    assert record("s/0")["steps"] == 5


def test_what_a_killed_rank_leaves_behind_ends_with_it(
    sweep: Sweep, folder: Path, capfd: pytest.CaptureFixture[str], ranks: Ranks
) -> None:
    assert sweep(*ranks, ALL_SAVES, "study=s", ONE_RANK % (1, 3, "leave")) == MISTAKE
    assert "Error: rank 1 died (SIGKILL)" in capfd.readouterr().err
    descendant = int((folder / "multirun/s/0/happened").read_text())
    eventually(lambda: not is_alive(descendant), "its end")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trainer.devices=0", "trainer.devices=0: allowed: a number of devices"),
        ("trainer.num_nodes=2", "torchrun --nnodes=2 --nproc-per-node=2"),
        ("gang.timeout=0", "gang.timeout=0: allowed: a number of seconds above 0"),
    ],
)
def test_mistakes_name_what_is_allowed(
    sweep: Sweep, capfd: pytest.CaptureFixture[str], override: str, said: str, ranks: Ranks
) -> None:
    assert sweep(*ranks, "study=s", override) == MISTAKE
    assert said in capfd.readouterr().err
