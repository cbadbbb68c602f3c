"""Trials side by side: each is what it would be alone, to the bit, whatever the others do."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from slicewise import cuda_graph
from slicewise.errors import ArgumentError
from sweep import application
from sweep.console import INTERRUPTED
from sweep.resolvers import register_resolvers
from sweep.study.attributes import REASON, WORKER, name_beside, worker_of
from sweep.study.presence import own_heartbeat, write_heartbeat
from sweep.study.shared import Rest, quiet_optuna
from sweep.trial.outcome import End, Outcome
from sweep.view.status import StudyMonitor
from sweep.workers.side_by_side import Claimed, SideBySide, settled
from sweep.workers.turns import Seat
from tests.sweep import faults
from tests.sweep.conftest import Sweep
from tests.sweep.trial.test_resume import ALL_SAVES, DIE, NO_SAVES, STOP, Fit

pytestmark = pytest.mark.filterwarnings("ignore:The reported value is ignored")

# Differ from study to study, or from run to run.
VARYING = ("study", "overrides", "seconds", "student_latency_ms")
DROPOUT = "student.dropout=0.1"


@pytest.fixture(autouse=True, scope="module")
def _trusted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLICEWISE_TRUSTED", faults.TRUSTED)
        yield


def trials_of(study: str) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study, storage="sqlite:///multirun/studies.db").trials


def left(place: Path) -> dict[str, Any]:
    """All that a trial leaves that the others beside it must not change."""
    record = json.loads((place / "trial.json").read_text())
    with (place / "metrics.csv").open(newline="") as file:
        metrics = [
            {key: value for key, value in row.items() if value} for row in csv.DictReader(file)
        ]
    weights = place / "student" / "model.safetensors"
    return {
        "number": record.pop("number"),
        "record": {key: value for key, value in record.items() if key not in VARYING},
        "metrics": metrics,
        "weights": weights.read_bytes() if weights.exists() else None,
    }


def test_in_one_study_each_ends_as_it_would_alone(sweep: Sweep, folder: Path) -> None:
    """One fails, some are pruned, the others do not notice; of a place that is free, another."""
    space = ("student.qkv_layers=0,1", "optimizer.lr=1e-4,3e-3,1e-1", "hydra/sweeper/sampler=grid")
    given = ("-m", "trainer.log_every_n_steps=1", "callbacks=ema", "data.cache=off", *space)
    assert sweep(*given, "study=alone", "hydra.sweeper.side_by_side=1") == 0
    fault = "+callbacks.error={_target_: tests.sweep.faults.Raise, trial: 1, what: error}"
    median = ("hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=0")
    note = "+hydra.callbacks.note={_target_: tests.sweep.faults.NoteJob}"
    assert sweep(*given, "study=beside", "hydra.sweeper.side_by_side=3", *median, fault, note) == 0
    points = {json.dumps(trial.params): trial for trial in trials_of("alone")}
    trials = trials_of("beside")
    assert len(trials) == len(points) == 6
    for trial in trials:
        same = points[json.dumps(trial.params)]
        one = left(folder / f"multirun/beside/{trial.number}")
        other = left(folder / f"multirun/alone/{same.number}")
        assert one.pop("number") == trial.number
        assert other.pop("number") == same.number
        if trial.state is TrialState.COMPLETE:
            assert one == other
            assert trial.intermediate_values == same.intermediate_values
        else:
            assert one["metrics"] == other["metrics"][: len(one["metrics"])]
        said = (folder / f"multirun/beside/{trial.number}/sweep.log").read_text()
        assert (folder / f"multirun/beside/{trial.number}/begun").read_text() == f"{trial.number}"
        headings = [f"{trial.number}, in"]
        if trial.state is TrialState.COMPLETE:
            headings.append(f"{trial.number}, after")
        assert re.findall(r"Trial (\d+, \w+)", said) == headings, "of another trial"
    ends = {trial.state for trial in trials}
    assert ends == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert trials[1].user_attrs[REASON] == "RuntimeError: the student is tired"
    names = {trial.user_attrs[WORKER] for trial in trials}
    assert len(names) == 3
    assert len({worker_of(name) for name in names}) == 1


def test_out_of_memory_halves_how_many_run_and_goes_on(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    fault = "{_target_: tests.sweep.faults.OutOfMemoryBeside, trial: 2, what: cpu memory}"
    given = ("-m", "optimizer.lr=1e-3,2e-3,1e-2,2e-2", "hydra.sweeper.side_by_side=4")
    assert sweep(*given, "study=beside", f"+callbacks.oom={fault}") == 0
    # Once: it goes on alone.
    said = re.findall(r"Out of memory: (.*)", capfd.readouterr().out)
    assert said == ["2 trials side by side from here on"]
    trials = trials_of("beside")
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len(trials) == 4
    # It was nobody's fault.
    assert not any("attempts" in trial.user_attrs for trial in trials)


def test_memory_that_a_recording_lacks_ends_whoever_has_company(sweep: Sweep) -> None:
    faults.NoteWhatRecordingsRaise.seen.clear()
    note = "+callbacks.note={_target_: tests.sweep.faults.NoteWhatRecordingsRaise}"
    given = ("-m", "optimizer.lr=1e-3,2e-3,1e-2", "hydra.sweeper.side_by_side=2", "study=beside")
    assert sweep(*given, note) == 0
    assert set(faults.NoteWhatRecordingsRaise.seen) == {(True, True, False), (False, False, False)}
    assert not cuda_graph._raises.get()(torch.OutOfMemoryError("without a trial"))


@pytest.mark.gpu
def test_memory_that_a_recording_lacks_is_out_of_memory_as_any(
    sweep: Sweep, capfd: pytest.CaptureFixture[str]
) -> None:
    losses = "slicewise.losses.l1_loss,tests.sweep.faults.l1_that_cannot_be_recorded_beside_others"
    given = (*ON_A_GPU, f"loss._target_={losses}", "optimizer.lr=1e-3,2e-3")
    assert sweep("-m", *given, "study=beside", "hydra.sweeper.side_by_side=4") == 0
    printed = capfd.readouterr().out
    assert "Out of memory: " in printed
    # Alone they are recorded.
    assert "No CUDA graph" not in printed
    trials = trials_of("beside")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert not any("attempts" in trial.user_attrs for trial in trials)
    # By the same loss, as it is called otherwise.
    values = {}
    for trial in trials:
        values.setdefault(trial.params["optimizer.lr"], set()).add(trial.values[0])
    assert [len(of_each) for of_each in values.values()] == [1, 1]


def test_all_of_them_stop_with_their_sweep_and_go_on_with_it(sweep: Sweep) -> None:
    given = ("-m", "optimizer.lr=1e-3,2e-3,1e-2", "study=beside", "hydra.sweeper.side_by_side=2")
    assert sweep(*given, STOP % 5) == INTERRUPTED
    trials = trials_of("beside")
    assert [trial.state for trial in trials] == [TrialState.WAITING] * 2
    assert [max(trial.intermediate_values) for trial in trials] == [4, 4]
    assert sweep(*given, "+resume=force") == 0
    assert [trial.state for trial in trials_of("beside")] == [TrialState.COMPLETE] * 3
    assert not any("attempts" in trial.user_attrs for trial in trials_of("beside"))


def test_what_is_swept_may_ask_for_the_whole_process(sweep: Sweep) -> None:
    given = ("-m", "trainer.max_time='00:00:10:00','00:00:11:00'", "optimizer.lr=1e-3,2e-3")
    alone = "+callbacks.alone={_target_: tests.sweep.faults.FailInCompany}"
    assert sweep(*given, alone, "study=alone", "hydra.sweeper.side_by_side=3") == 0
    assert [trial.state for trial in trials_of("alone")] == [TrialState.COMPLETE] * 4


# Without a sweep around them.


@pytest.fixture(scope="module")
def fits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Fit]]:
    register_resolvers()
    GlobalHydra.instance().clear()
    quiet_optuna()
    home = tmp_path_factory.mktemp("fits")
    yield lambda name: Fit(home / name)
    HydraConfig.instance().cfg = None


_examples = itertools.count()

RECIPES = (
    ("student.qkv_layers=1", "student.dropout=0.2"),
    ("student=bert_layer", "optimizer.lr=3e-3", "trainer.max_epochs=2"),
    ("student=approx_ffn", "callbacks=ema", "seed=3"),
)
RICH = "+callbacks.bar={_target_: pytorch_lightning.callbacks.RichProgressBar}"
OTHERS = (
    ("student=low_rank", "student.rank=3", "optimizer=muon"),
    ("student=linear", "data.cache=off", "trainer.enable_progress_bar=true", RICH),
    ("student=original", "callbacks=best", "trainer.max_epochs=2"),
    ("student=nothing",),
    ("student.qkv_layers=2", "steps.at_once=2", "scheduler=one_cycle", "data.cache=memory"),
    ("student.qkv_layers=0", "trainer.accumulate_grad_batches=2", "data=text", "data.cache=disk"),
)


def run_beside(
    begun: Sequence[tuple[Fit, tuple[str, ...]]], most: int, on_gpu: bool = False
) -> list[End]:
    """Runs fits side by side until none is left; how they ended, in their order."""
    waiting = deque(range(len(begun)))
    ends = [End.LOST] * len(begun)

    def claim(place: int) -> Claimed | Rest:
        if not waiting:
            return Rest.EXHAUSTED
        fit: Any = waiting.popleft()
        return Claimed(fit, f"w:{place}", place, 0.0, None, False)

    def run(claimed: Claimed, seat: Seat) -> Outcome:
        number: Any = claimed.trial
        fit, overrides = begun[number]
        fit.place = seat
        try:
            fit.run(*overrides)
            outcome = Outcome(End.COMPLETE)
        except Exception as error:
            outcome = Outcome.of(error)
        ends[number] = outcome.end
        return outcome

    rest = SideBySide(most, on_gpu, claim, run, lambda claimed: None, lambda: False).work()
    assert rest is Rest.EXHAUSTED
    return ends


@given(
    fits=st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=8), most=st.integers(1, 4)
)
def test_what_runs_alone_has_nobody_beside_it_and_all_run(
    fits: list[tuple[bool, int]], most: int
) -> None:
    waiting = deque(range(len(fits)))
    company: dict[int, int] = {}

    def claim(place: int) -> Claimed | Rest:
        if not waiting:
            return Rest.EXHAUSTED
        number: Any = waiting.popleft()
        return Claimed(number, f"w:{place}", place, 0.0, None, fits[number][0])

    def run(claimed: Claimed, seat: Seat) -> Outcome:
        number: Any = claimed.trial
        company[number] = seat.others
        for _ in range(fits[number][1]):
            seat.pass_turn()
            company[number] = max(company[number], seat.others)
        return Outcome(End.COMPLETE)

    rest = SideBySide(most, False, claim, run, lambda claimed: None, lambda: False).work()
    assert rest is Rest.EXHAUSTED
    assert sorted(company) == list(range(len(fits)))
    assert all(others < most for others in company.values())
    assert not any(company[number] for number, (alone, _) in enumerate(fits) if alone)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@given(data=st.data())
def test_what_one_ends_with_counts_against_no_other(
    error: type[BaseException], data: st.DataObject
) -> None:
    """Be it one of the trials, or the next claim; what had ended before stays as it is."""
    turns = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5), label="turns of each")
    most = data.draw(st.integers(1, 3), label="side by side")
    culprit = data.draw(st.none() | st.integers(0, len(turns) - 1), label="who")
    waiting = deque(range(len(turns)))
    ended: list[Any] = []
    put_back: list[Any] = []

    def claim(place: int) -> Claimed | Rest:
        if not waiting:
            raise error
        number: Any = waiting.popleft()
        return Claimed(number, f"w:{place}", place, 0.0, None, False)

    def run(claimed: Claimed, seat: Seat) -> Outcome:
        number: Any = claimed.trial
        for _ in range(turns[number]):
            seat.pass_turn()
        ended.append(number)
        if number == culprit:
            raise error
        return Outcome(End.COMPLETE)

    def note(claimed: Claimed) -> None:
        put_back.append(claimed.trial)

    side_by_side = SideBySide(most, False, claim, run, note, lambda: False)
    with pytest.raises(error):
        side_by_side.work()
    begun = len(turns) - len(waiting)
    assert sorted([*ended, *put_back]) == list(range(begun))


class Outcomes(list[dict[str, Any]]):
    """What each recipe leaves that is run alone; not shown, as it has all weights."""

    def __repr__(self) -> str:
        return "..."


@pytest.fixture(scope="module")
def alone(fits: Callable[[str], Fit]) -> Outcomes:
    outcomes = Outcomes()
    for number, recipe in enumerate(RECIPES):
        fit = fits(f"alone-{number}")
        fit.run(*recipe)
        outcomes.append(fit.outcome())
    return outcomes


def test_side_by_side_and_alone_are_the_same_to_the_bit_whatever_they_are(
    fits: Callable[[str], Fit], alone: Outcomes
) -> None:
    begun = [(fits(f"beside-{number}"), recipe) for number, recipe in enumerate(RECIPES + OTHERS)]
    assert set(run_beside(begun, 5)) == {End.COMPLETE}
    for number, recipe in enumerate(OTHERS, len(RECIPES)):
        fit = fits(f"alone-{number}")
        fit.run(*recipe)
        alone = [*alone, fit.outcome()]
    assert [fit.outcome() for fit, _ in begun] == alone


@settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_killed_or_stopped_at_any_step_and_continued_they_end_as_they_would_alone(
    fits: Callable[[str], Fit], alone: Outcomes, data: st.DataObject
) -> None:
    name = f"example-{next(_examples)}"
    most = data.draw(st.integers(2, 3), label="side by side")
    victim = data.draw(st.integers(0, 2), label="who")
    step = data.draw(st.integers(1, 9), label="step")
    dies = data.draw(st.booleans(), label="dies")
    saves = data.draw(st.sampled_from([ALL_SAVES, NO_SAVES]))
    begun = [fits(f"{name}-{number}") for number in range(len(RECIPES))]
    fault = (DIE if dies else STOP) % step
    courses = [
        (fit, (*recipe, saves, *([fault] if number == victim else [])))
        for number, (fit, recipe) in enumerate(zip(begun, RECIPES, strict=True))
    ]
    if dies:
        # As if the process were killed: all of them end, in the middle of whatever they do.
        with pytest.raises(faults.Death):
            run_beside(courses, most)
        assert not (begun[victim].directory / "trial.json").exists()
    else:
        ends = [End.COMPLETE] * len(RECIPES)
        ends[victim] = End.STOPPED
        assert run_beside(courses, most) == ends
    going_on = [
        (fit, recipe)
        for fit, recipe in zip(begun, RECIPES, strict=True)
        if not (fit.directory / "trial.json").exists()
    ]
    assert set(run_beside(going_on, most)) == {End.COMPLETE}
    assert [fit.outcome() for fit in begun] == alone


def test_one_that_ends_with_its_process_has_not_failed(fits: Callable[[str], Fit]) -> None:
    """Not even where clearing up for it fails too."""
    victim, other = fits("ends-the-process"), fits("ends-with-it")
    broken = "+callbacks.broken={_target_: tests.sweep.faults.FailToEnd}"
    courses = [(other, (*RECIPES[0], broken)), (victim, (*RECIPES[1], DIE % 3))]
    with pytest.raises(faults.Death):
        run_beside(courses, 2)
    assert not (other.directory / "trial.json").exists()


# Steps that are captured: 64 at once, and validations between them.
ON_A_GPU = (
    *("trainer.accelerator=gpu", "data.train_batches=128", "trainer.val_check_interval=0.5"),
    *("data.batch_size=8", "data.seq_length=32", "optimizer.fused=true", "seed=1"),
)
CAPTURED = (
    ("student.qkv_layers=1", "student.dropout=0.2"),
    ("student.qkv_layers=2", "student.dropout=0.1", "data.cache=off"),
    ("student=bert_layer", "optimizer.lr=3e-3", "trainer.max_epochs=2"),
    ("student=approx_ffn", "callbacks=ema", "scheduler=cosine", "data.cache=off"),
    ("student.qkv_layers=1", "student.dropout=0.2", "scheduler=one_cycle"),
    ("student.qkv_layers=2", "trainer.accumulate_grad_batches=2", "data.cache=disk"),
)


@pytest.mark.gpu
@pytest.mark.parametrize(("most", "precision"), [(3, "32-true"), (6, "bf16-mixed")])
def test_captured_side_by_side_and_alone_are_the_same(
    fits: Callable[[str], Fit], most: int, precision: str
) -> None:
    common = (*ON_A_GPU, f"trainer.precision={precision}")
    name = f"gpu-{precision}-{most}"
    beside = [(fits(f"{name}-{n}"), (*common, *recipe)) for n, recipe in enumerate(CAPTURED)]
    assert set(run_beside(beside, most, on_gpu=True)) == {End.COMPLETE}
    for number, (fit, overrides) in enumerate(beside):
        one = fits(f"{name}-alone-{number}")
        one.run(*overrides)
        alone, other = one.outcome(), fit.outcome()
        print(overrides[-3:], "the same to the bit:", alone == other)
        assert alone == other


# Wide enough for products of matrices to be split among multiprocessors, and to need a workspace.
WIDE = (
    *("teacher.hidden_size=384", "teacher.num_attention_heads=12"),
    *("teacher.intermediate_size=1536", "data.batch_size=32", "data.seq_length=128"),
    *("trainer.precision=bf16-mixed", "data.cache=memory"),
)


@pytest.mark.gpu
def test_eight_wide_ones_begin_and_end_beside_each_other(fits: Callable[[str], Fit]) -> None:
    """Lightning, left to itself, takes away memory that the others' graphs write to.

    Two of them are broken off, as pruned ones are, while others record.
    """
    epochs = (1, 3, 2, 1, 2, 1, 3, 1)
    courses = [
        (*ON_A_GPU, *WIDE, f"optimizer.lr={1 + number}e-4", f"trainer.max_epochs={number_of}")
        for number, number_of in enumerate(epochs)
    ]
    ends = [End.COMPLETE] * len(courses)
    for number in (2, 4):
        courses[number] = (*courses[number], STOP % 65)
        ends[number] = End.STOPPED
    beside = [(fits(f"wide-{number}"), course) for number, course in enumerate(courses)]
    assert run_beside(beside, 5, on_gpu=True) == ends
    for number in (0, 1, 7):
        alone = fits(f"wide-alone-{number}")
        alone.run(*courses[number])
        one, other = alone.outcome(), beside[number][0].outcome()
        print("trial", number, "the same to the bit:", one == other)
        assert one["record"]["valid_l1"] == pytest.approx(other["record"]["valid_l1"], rel=1e-6)


@pytest.mark.gpu
def test_whoever_comes_or_goes_takes_no_work_from_the_gpu(
    fits: Callable[[str], Fit], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def noted(function: Callable[..., None]) -> Callable[..., None]:
        def waiting(*arguments: Any, **named: Any) -> None:
            waits.append(function.__name__)
            function(*arguments, **named)

        return waiting

    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, noted(getattr(torch.cuda, name)))
    # Nor for memory, of which a small GPU may be short.
    monkeypatch.setattr("sweep.trial.attempt._UNUSED", 1.0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**40, 2**40))
    beside = [
        (fits(f"coming-{n}"), (*ON_A_GPU, f"optimizer.lr={n}e-3", f"trainer.max_epochs={n}"))
        for n in (1, 2, 3, 4)
    ]
    assert set(run_beside(beside, 2, on_gpu=True)) == {End.COMPLETE}
    # The last one has left.
    assert waits == ["empty_cache"]


# What is asked for.


def configuration(*overrides: str) -> Any:
    from hydra import compose, initialize_config_dir

    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(application.config_directory()), job_name="sweep"):
        return compose(
            "config", ["experiment=tiny", "study=s", *overrides], return_hydra_config=True
        )


def test_by_itself_it_is_one_on_a_cpu_unless_the_teacher_is_asked_anew() -> None:
    config = configuration("trainer.accelerator=cpu")
    assert settled("auto", config, application.run) == 1
    assert settled(3, config, application.run) == 3
    config = configuration("trainer.accelerator=cpu", "data.cache=off")
    assert settled("auto", config, application.run) == 4


@pytest.mark.parametrize(("gpus", "workers", "expected"), [(1, 1, 8), (1, 2, 1), (2, 2, 8)])
def test_by_itself_it_is_eight_on_a_gpu_that_a_worker_has_for_itself(
    gpus: int, workers: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.workers.side_by_side.visible_gpus", lambda: list(range(gpus)))
    config = configuration("trainer.accelerator=gpu")
    assert settled("auto", config, application.run, workers) == expected
    assert settled(3, config, application.run, workers) == 3
    alone = configuration("trainer.accelerator=gpu", "hydra.sweeper.max_retries=0")
    assert settled("auto", alone, application.run, workers) == 1


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("trainer.devices=2", "a fit on several devices"),
        ("objective.seeds=[0,1]", "fits several students"),
        ("objective.metrics=[seconds]", "counts what others take"),
        ("trainer.max_time='00:00:01:00'", "counts what others take"),
        ("+callbacks.timer={_target_: pytorch_lightning.callbacks.Timer}", "counts what others"),
        ("trainer.val_check_interval='00:00:01:00'", "goes by the clock"),
        ("+trainer.profiler=pytorch", "one fit of a process"),
        ("hydra.sweeper.max_retries=0", "one attempt"),
        ("logger=wandb", "one run a process"),
        ("hydra.job.chdir=true", "for a whole process"),
    ],
)
def test_what_cannot_share_a_process_runs_one_at_a_time(override: str, reason: str) -> None:
    config = configuration("trainer.accelerator=cpu", "data.cache=off", override)
    assert settled("auto", config, application.run) == 1
    with pytest.raises(ArgumentError, match=reason):
        settled(2, config, application.run)


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, 0), (11, 11), (1.5, 1.5), (True, "true"), ("many", '"many"'), ("2", '"2"')],
)
def test_how_many_is_a_number_or_auto(value: Any, written: object) -> None:
    with pytest.raises(ArgumentError, match=f"side_by_side={written}: .* from 1 to 10"):
        settled(value, configuration(), application.run)


def test_other_applications_run_one_at_a_time() -> None:
    with pytest.raises(ArgumentError, match="single slices"):
        settled(2, configuration(), lambda config: 0.0)


def test_the_picture_has_a_row_for_each_of_a_workers_trials() -> None:
    study = optuna.create_study()
    write_heartbeat(study, "worker", "s/0-ab", own_heartbeat("s"))
    write_heartbeat(study, "worker", "s/1-cd", own_heartbeat("s"))
    for place in range(3):
        study.ask().set_user_attr(WORKER, name_beside("s/0-ab", place))
    workers = StudyMonitor(study).status().workers
    assert [(w.label, w.trial and w.trial.number) for w in workers] == [
        ("0", 0),
        ("0", 1),
        ("0", 2),
        ("1", None),
    ]
