"""A trial of the library: one candidate for one slice gets its first weights, and is measured."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as lightning
from pytorch_lightning.callbacks import Callback

from slicewise.cost import count_parameters
from slicewise.distiller import Distiller
from slicewise.encoder.candidates import Proposal
from slicewise.encoder.sliced import Block, student_of, teacher_slice
from slicewise.students.base import Student
from slicewise.students.folder import load_student, save_student
from slicewise.students.nothing import Nothing
from slicewise.teacher import TeacherSlice
from sweep.compress.settings import CompressSettings
from sweep.compress.workbench import Workbench, open_workbench
from sweep.trial.active import ActiveTrial
from sweep.trial.attempt import Attempt, attempt
from sweep.trial.callbacks import ObeyStudy
from sweep.trial.hardware import hardware_of
from sweep.trial.live import LiveProgress
from sweep.trial.parts import load_teacher, new_data, new_recipe, new_trainer, quiet_lightning
from sweep.trial.record import STUDENT_FOLDER, TrialRecord, record_files
from sweep.trial.run import Share
from sweep.trial.task import Task

log = logging.getLogger(__name__)

# The first candidate that this process has measured, and when.
_begun: tuple[int, float] | None = None


def fit(task: Task, active: ActiveTrial) -> Share:
    """Measures one candidate, to whatever end.

    Args:
        task: Its configuration names the `candidate`.
        active: The trial in its study.
    """
    return attempt(task, active, _measure)


def _measure(trial: Attempt) -> tuple[float, ...]:
    """Builds, fits where that is asked for, measures, and fills in the record."""
    settings, record = CompressSettings.of(trial.task.config), trial.record
    quiet_lightning()
    bench = open_workbench(settings)
    proposal = bench.proposal(trial.task.config.candidate)
    lightning.seed_everything(settings.seed, verbose=False)
    block = bench.workshop.build(proposal)
    student = student_of(block)
    original = count_parameters(teacher_slice(bench.original, proposal.span))
    record.take_sizes(bench.teacher.source, original, count_parameters(student))
    if settings.library.steps and student.is_trainable and count_parameters(student):
        _fit_locally(bench, proposal, student, trial)
    measures = bench.scales.measure(block.eval())
    record.student_flops = measures.flops
    record.student_latency_ms = round(measures.latency_ms, 4)
    record.damage, record.text_l1 = measures.damage.damage, measures.damage.text_l1
    record.text_cosine = 1 - record.damage
    record.seconds = trial.seconds
    record.values = [float(getattr(record, name)) for name in settings.objective.metrics]
    active = trial.active
    active.check_possession()
    if settings.library.steps:
        save_student(student, trial.task.directory / STUDENT_FOLDER)
    log.info(
        "[%s] %s: %s parameters, damage %.4f",
        _progress(record.number + 1, len(bench.codes)),
        proposal.name if not isinstance(student, Nothing) else f"{proposal.span} dropped",
        f"{measures.parameters:,}",
        record.damage,
    )
    return tuple(record.values)


def _progress(number: int, total: int) -> str:
    """Which of how many, and how long the others will take this process."""
    global _begun
    now = time.monotonic()
    first, began = _begun = _begun or (number, now)
    if number == first:
        return f"{number}/{total}"
    left = round((now - began) / (number - first) * (total - number))
    return f"{number}/{total}, {left // 60}:{left % 60:02} left"


def _fit_locally(bench: Workbench, proposal: Proposal, student: Student, trial: Attempt) -> None:
    """Fits a student to its slice alone, on text: L1 of the hidden states."""
    settings = bench.settings
    trainer_node = {
        **settings.trainer,
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "max_steps": settings.library.steps,
    }
    settings = replace(CompressSettings.of(trial.task.config), trainer=trainer_node)
    teacher = _slice_of(settings, proposal)
    data = new_data(settings.data, teacher)
    optimizer, scheduler = new_recipe(settings, student)
    callbacks: list[Callback] = [ObeyStudy(trial.active, prunable=False)]
    if trial.active.in_study:
        callbacks.append(LiveProgress(trial.task.directory))
    loggers = trial.trackers.open(settings.logger)
    trainer = new_trainer(settings, callbacks, loggers, trial.task.directory)
    trial.trackers.begin(settings)
    trial.record.hardware, trial.record.precision = hardware_of(trainer), str(trainer.precision)
    distiller = Distiller(
        teacher,
        student.train(),
        settings.data.seq_length,
        optimizer,
        scheduler,
        seed=settings.seed,
    )
    trainer.fit(distiller, datamodule=data)
    trial.record.steps = trainer.global_step
    student.to(next(bench.original.parameters()).device)


def _slice_of(settings: CompressSettings, proposal: Proposal) -> TeacherSlice:
    node = {
        **settings.teacher,
        "first_layer": proposal.span.first_layer,
        "num_layers": proposal.span.num_layers,
    }
    return load_teacher(node)


def block_of(bench: Workbench, proposal: Proposal, library: Path | None) -> Block:
    """A candidate as the library measured it.

    Args:
        bench: Of the same settings.
        proposal: Which.
        library: Folder of its trials, in which the students of some are kept; None: there is none.
    """
    for code, student in _students(library) if library is not None else ():
        if code == proposal.code:
            device = next(bench.original.embeddings.parameters()).device
            return Block(load_student(student).to(device), proposal.span, proposal.layers).eval()
    if bench.settings.library.steps and proposal.family is not Nothing:
        log.warning(
            "%s was not kept as it was fitted: its first weights alone (library.keep=all)",
            proposal.name,
        )
    lightning.seed_everything(bench.settings.seed, verbose=False)
    return bench.workshop.build(proposal)


def save_students(library: Path, blocks: Mapping[str, Block]) -> None:
    """Puts first weights into the folders of their trials: solving for them takes much memory.

    Args:
        library: Folder of the trials.
        blocks: By the codes of their candidates; what is there already stays.
    """
    for path in record_files(library):
        student = path.parent / STUDENT_FOLDER
        block = blocks.get(str(TrialRecord.read(path.parent).params.get("candidate")))
        if block is not None and not student.is_dir():
            save_student(student_of(block), student)


def keep_students(library: Path, codes: Collection[str]) -> None:
    """Removes the students of all candidates but some: a library may be larger than the model.

    Args:
        library: Folder of the trials.
        codes: Whose students stay.
    """
    for code, student in list(_students(library)):
        if code not in codes:
            shutil.rmtree(student)


def _students(library: Path) -> Iterator[tuple[str, Path]]:
    """The folders of students that are there, each with its candidate's code."""
    for path in record_files(library):
        student = path.parent / STUDENT_FOLDER
        if student.is_dir():
            yield str(TrialRecord.read(path.parent).params.get("candidate")), student
