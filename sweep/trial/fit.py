"""A fit: a configuration becomes a teacher, a student, data and a Trainer; then a result."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ProgressBar

from slicewise.cost import count_flops, count_parameters, latency_ms
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.distiller import Distiller
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.steps import new_distiller
from slicewise.students.base import Student
from slicewise.students.folder import save_student
from slicewise.targets import CachedTargets
from slicewise.teacher import TeacherSlice
from slicewise.transfer import TransferTest, transfer_test
from slicewise.waiting import waiting_for
from sweep.trial.active import ActiveTrial, Place
from sweep.trial.attempt import Attempt, attempt
from sweep.trial.build import build
from sweep.trial.cache import shared_targets
from sweep.trial.callbacks import FinalValidation, FirstStep, ObeyStudy
from sweep.trial.checkpoint import CHECKPOINT, usable_checkpoint
from sweep.trial.hardware import hardware_of
from sweep.trial.live import LiveProgress
from sweep.trial.lockstep import agreed
from sweep.trial.metrics import METRICS
from sweep.trial.outcome import FitFailed
from sweep.trial.parts import (
    best_weights,
    calibration,
    check_course,
    load_teacher,
    named_within,
    new_data,
    new_loss,
    new_recipe,
    new_student,
    new_trainer,
    quiet_lightning,
    start_student,
)
from sweep.trial.record import STUDENT_FOLDER, TrialRecord
from sweep.trial.run import Share
from sweep.trial.settings import Objective, TrialSettings
from sweep.trial.task import Task

log = logging.getLogger(__name__)

# Of shapes of students, which most trials of a sweep share.
_known_flops: dict[tuple[object, ...], int] = {}
_known_latencies: dict[tuple[object, ...], float] = {}
# Writes what a fit leaves, while those beside it go on.
_disk = ThreadPoolExecutor(1, thread_name_prefix="disk")


def fit(task: Task, active: ActiveTrial) -> Share:
    """Fits one student, or one rank's share of it, to whatever end.

    Args:
        task: What is to be fitted.
        active: The trial in its study.

    Returns:
        How it ended, and the record of it.
    """
    return attempt(task, active, _fit)


def _fit(trial: Attempt) -> tuple[float, ...]:
    """Trains, measures, and fills in the record; returns the objective's values."""
    quiet_lightning()
    task, record, active = trial.task, trial.record, trial.active
    settings, directory = _without_bar(TrialSettings.of(task.config), active), task.directory
    objective, make_way = settings.objective, _way_for_others(active, settings)
    teacher = load_teacher(settings.teacher)
    lightning.seed_everything(settings.seed, verbose=False)
    data = new_data(settings.data, teacher)
    make_way()
    # Once more: what has been loaded on the way may have drawn, and the next trial finds it loaded.
    lightning.seed_everything(settings.seed, verbose=False)
    student, init = new_student(settings.student, teacher, objective.max_parameters)
    record.take_sizes(teacher.source, count_parameters(teacher), count_parameters(student))
    log.info("Trial %d, in %s", record.number, task.place)
    log.info("Teacher: %s parameters, from %s", f"{record.teacher_parameters:,}", teacher.source)
    log.info("Student: %s parameters", f"{record.student_parameters:,}")

    make_way()
    optimizer, scheduler = new_recipe(settings, student)
    final = FinalValidation()
    callbacks = [final, *_callbacks(settings, task, active, record)]
    trainer = new_trainer(settings, callbacks, trial.trackers.open(settings.logger), directory)
    make_way()
    check_course(settings, trainer, data)
    # There in a worker's first trial too, where the teacher has just been loaded.
    teacher.to(trainer.strategy.root_device)
    _wait_for_device(trainer)
    start_student(student, init, teacher, calibration(data))
    best = best_weights(trainer)
    trial.trackers.begin(settings)
    record.hardware, record.precision = hardware_of(trainer), str(trainer.precision)
    with waiting_for("Measuring what the student costs"):
        _measure_cost(student, settings, teacher.hidden_size, trainer, record)
    make_way()
    test = _transfer_test(teacher, trainer, objective)
    _wait_for_device(trainer)
    make_way()
    checkpoint = usable_checkpoint(directory) if trainer.is_global_zero else None
    going_on = agreed(lambda: checkpoint is not None)
    steps = settings.steps
    if checkpoint is not None:
        steps = steps.continuing(checkpoint.at_once)
    with waiting_for("Looking for the teacher's outputs"):
        targets = shared_targets(
            settings, teacher, data, trainer, task.trial_directory, active.in_study
        )
    make_way()
    loss = new_loss(settings.loss)
    with named_within("steps"):
        distiller = new_distiller(
            trainer,
            data,
            teacher,
            student,
            settings.data.seq_length,
            optimizer,
            scheduler,
            targets=targets,
            seed=settings.seed,
            loss=loss,
            **asdict(steps),
        )
    if "train_l1" in objective.metrics and distiller.train_name != "train_l1":
        allowed = "train_loss, or valid_l1, where something else is learned by than L1"
        raise ArgumentError("objective.metrics", "[train_l1]", allowed)
    if active.place is not None:
        _share(active.place, distiller, targets, data)
    try:
        if student.is_trainable:
            path = directory / CHECKPOINT if going_on else None
            trainer.fit(distiller, datamodule=data, ckpt_path=path, weights_only=True)
            if active.place is not None:
                # Others have said something since.
                log.info("Trial %d, after %d steps", record.number, trainer.global_step)
        else:
            _show_targets(distiller, data)
        if best is not None and best.best_model_path:
            _load_weights(distiller, Path(best.best_model_path))
            final.step = -1
        if final.step != trainer.global_step:
            # The fit ended between two validations, or has gone back to the best of them.
            trainer.validate(distiller, datamodule=data, verbose=False)
    finally:
        distiller.let_go()
        record.steps = trainer.global_step
        record.take_metrics(final.metrics)
    if record.valid_l1 is None or not math.isfinite(record.valid_l1):
        raise FitFailed(f"valid_l1 is {record.valid_l1} after {record.steps} steps")
    make_way()
    if test is not None:
        student.to(trainer.strategy.root_device)
        with waiting_for("Comparing with the original on held-out text"):
            record.text_l1, record.text_cosine = test(student)
    make_way()
    if trainer.is_global_zero:
        record.seconds = trial.seconds
        record.values = objective_values(objective, record)
        active.check_possession()
        # Here: while anybody records a CUDA graph, no other thread may ask anything of the GPU.
        student.cpu()
        _write(lambda: save_student(student, directory / STUDENT_FOLDER), active)
    _log_result(record)
    return tuple(record.values or ())


def _callbacks(
    settings: TrialSettings, task: Task, active: ActiveTrial, record: TrialRecord
) -> list[Callback]:
    objective = settings.objective

    def known() -> dict[str, float]:
        sought = [m for m in METRICS if m.is_known_before and m.name in objective.metrics]
        values = {metric.name: record.get(metric) for metric in sought}
        return {name: float(value) for name, value in values.items() if value is not None}

    obey = ObeyStudy(active, prunable=objective.is_pruned_by_loss, known=known)
    callbacks: list[Callback] = [obey]
    if active.place is None:
        first = "Compiling the first step" if settings.steps.compile else "Taking the first step"
        callbacks.append(FirstStep(first))
    if active.in_study:
        callbacks.append(LiveProgress(task.trial_directory, part=task.part))
    given = [build(f"callbacks.{k}", node) for k, node in settings.callbacks.items()]
    if active.place is not None:
        given = [callback for callback in given if not isinstance(callback, ProgressBar)]
    return callbacks + given


def _without_bar(settings: TrialSettings, active: ActiveTrial) -> TrialSettings:
    """Of trials side by side none draws on the terminal, by Lightning's bar or one's own."""
    if active.place is None:
        return settings
    return replace(settings, trainer={**settings.trainer, "enable_progress_bar": False})


def _share(
    place: Place, distiller: Distiller, targets: CachedTargets, data: HiddenStatesDataModule
) -> None:
    """Lets the fits that run beside this one go on whenever it can wait, and shares with those that
    are at the same step what both need there."""
    distiller.pause = place.pass_turn
    at_once = data.at_once or 1
    # Those of the round before last are needed by nobody.
    targets.share_recent(max(2 * at_once, place.others + 1))
    data.recent = targets.recent_batches


def _way_for_others(active: ActiveTrial, settings: TrialSettings) -> Callable[[], None]:
    """What lets those beside this one go on, while it is prepared or concluded: with what they
    launch in a turn a GPU has something to do meanwhile.

    Where no target is kept, all must be at the same steps, for the teacher to be asked once.
    """
    if (
        active.place is None or settings.data.cache.mode == "off" or not torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    ):
        return lambda: None
    return active.place.make_way


def _wait_for_device(trainer: lightning.Trainer) -> None:
    """Until what was prepared on a GPU is there: the teacher, and its side of the comparison on
    text, which others will use on streams of their own."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _show_targets(distiller: Distiller, data: HiddenStatesDataModule) -> None:
    """For the baselines of a student that comes ready made: no step of a fit sees the targets."""
    teacher = distiller.teacher
    device = next(teacher.parameters()).device
    for batch in calibration(data):
        mask = None if batch.attention_mask is None else batch.attention_mask.to(device)
        target_BTH = teacher(batch.hidden_states.to(device), mask)
        distiller.baselines.update(target_BTH.cpu(), batch.real_tokens())


def _load_weights(distiller: Distiller, path: Path) -> None:
    """Takes the student's weights from a checkpoint of Lightning's."""
    log.info("The best weights: %s", path.stem)
    content = torch.load(path, map_location=distiller.device, weights_only=True)
    distiller.load_state_dict(content["state_dict"])


def _write(work: Callable[[], object], active: ActiveTrial) -> None:
    """Writes to the disk what lies in the CPU's memory; those beside this one do not wait for it.

    Raises:
        Exception: Whatever the work raises.
    """
    if active.place is None or not active.has_company():
        work()
        return
    written = _disk.submit(work)
    try:
        while active.has_company() and not written.done():
            active.place.pass_turn()
    finally:
        # Whatever ends this one: nothing is written when another worker may have it.
        wait([written])
    written.result()


def _log_result(record: TrialRecord) -> None:
    ratio = record.baseline_ratio
    better = "better"
    if ratio is not None:
        better = f"{ratio:.2f} times better" if ratio > 1 else "no better"
    log.info(
        "valid_l1 %.4f: %s than the best baseline, %s (%.4f)",
        record.valid_l1,
        better,
        str(record.best_baseline).replace("_", " "),
        record.baselines[str(record.best_baseline)],
    )
    if record.text_cosine is not None:
        log.info("In the whole model, on text: cosine to the original's %.4f", record.text_cosine)


def _measure_cost(
    student: Student,
    settings: TrialSettings,
    hidden_size: int,
    trainer: lightning.Trainer,
    record: TrialRecord,
) -> None:
    """Measures what the student costs.

    Raises:
        SlicewiseError: It is slower than the objective allows.
    """
    objective, seq_length = settings.objective, settings.data.seq_length
    shape = (type(student), json.dumps(student.config), seq_length, hidden_size)
    record.student_flops = _flops(student, shape)
    student.to(trainer.strategy.root_device)
    latency = _latency(student, shape, objective.needs_latency)
    record.student_latency_ms = round(latency, 3)
    slowest = objective.max_latency_ms
    if slowest is not None and agreed(lambda: latency > slowest):
        raise SlicewiseError(
            f"the student takes {latency:.3g} ms for a text of {seq_length} tokens, more than "
            f"objective.max_latency_ms={slowest:g}"
        )


def _flops(student: Student, shape: tuple[Any, ...]) -> int:
    """Of one text; counted once for each shape of student."""
    if shape not in _known_flops:
        *_, seq_length, hidden_size = shape
        _known_flops[shape] = count_flops(student, 1, seq_length, hidden_size)
    return _known_flops[shape]


def _latency(student: Student, shape: tuple[Any, ...], decides: bool) -> float:
    """Milliseconds for one text. Where nothing is decided by them, a few runs of the first student
    of a shape will do: every trial waits for them, and those beside it would slow them down."""
    *_, seq_length, hidden_size = shape
    if decides:
        return latency_ms(student, hidden_size, seq_length)
    parameter = next(student.parameters(), torch.empty(0))
    key = (*shape, parameter.device, parameter.dtype, torch.get_num_threads())
    if key not in _known_latencies:
        _known_latencies[key] = latency_ms(student, hidden_size, seq_length, runs=7, warm_up_runs=2)
    return _known_latencies[key]


def _transfer_test(
    teacher: TeacherSlice, trainer: lightning.Trainer, objective: Objective
) -> TransferTest | None:
    """What compares the student to the slice in the whole model; on rank 0.

    Raises:
        SlicewiseError: It cannot be made, and the objective needs it.
    """
    if not trainer.is_global_zero:
        return None
    try:
        return transfer_test(teacher.to(trainer.strategy.root_device))
    except SlicewiseError as error:
        if objective.needs_text:
            raise
        log.warning("No comparison on text: %s", error)
        return None


def objective_values(objective: Objective, record: TrialRecord) -> list[float]:
    """What the objective names, out of a trial's record."""
    return [float(getattr(record, name)) for name in objective.metrics]
