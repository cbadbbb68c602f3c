"""A fit: a configuration becomes a teacher, a student, data and a Trainer; then a result."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback, ProgressBar

from slicewise.cost import count_parameters
from slicewise.data.hidden_states import HiddenStatesDataModule
from slicewise.distiller import Distiller
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.steps import new_distiller
from slicewise.students.folder import save_student
from slicewise.teacher import TeacherSlice
from slicewise.transfer import TransferTest, transfer_test
from slicewise.waiting import waiting_for
from sweep.trial.active import ActiveTrial
from sweep.trial.attempt import Attempt, attempt
from sweep.trial.build import build
from sweep.trial.cache import shared_targets
from sweep.trial.callbacks import FinalValidation, FirstStep, ObeyStudy
from sweep.trial.checkpoint import CHECKPOINT, usable_checkpoint
from sweep.trial.company import share, way_for_others, write
from sweep.trial.costs import measure_cost
from sweep.trial.hardware import hardware_of
from sweep.trial.live import LiveProgress
from sweep.trial.lockstep import agreed
from sweep.trial.metrics import METRICS
from sweep.trial.outcome import FitFailed
from sweep.trial.parts import (
    best_weights,
    calibration,
    check_course,
    ends_unvalidated,
    keep_on_device,
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
    objective, make_way = settings.objective, way_for_others(active, settings)
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
    keep_on_device(trainer)
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
        measure_cost(student, settings, teacher.hidden_size, trainer, record)
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
        share(active.place, settings, distiller, targets, data)
    try:
        if student.is_trainable:
            path = directory / CHECKPOINT if going_on else None
            trainer.fit(distiller, datamodule=data, ckpt_path=path, weights_only=True)
            if ends_unvalidated(trainer):
                final.step = -1
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
            compared = test.start(student)
        make_way()
        record.text_l1, record.text_cosine = compared()
    make_way()
    if trainer.is_global_zero:
        record.seconds = trial.seconds
        record.values = objective_values(objective, record)
        active.check_possession()
        # Here: while anybody records a CUDA graph, no other thread may ask anything of the GPU.
        student.cpu()
        write(lambda: save_student(student, directory / STUDENT_FOLDER), active)
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
