"""One trial: a configuration becomes a teacher, a student, data and a Trainer; then a result."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import platform
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from optuna import TrialPruned
from pytorch_lightning.callbacks import Callback

from slicewise.cost import count_flops, count_parameters, latency_ms
from slicewise.data.batch import Batch, BatchIndex, Split
from slicewise.data.noise import NoiseDataModule
from slicewise.distiller import OptimizerFactory, SchedulerFactory
from slicewise.errors import ArgumentError, SlicewiseError
from slicewise.steps import new_distiller
from slicewise.students.base import Student
from slicewise.students.folder import save_student
from slicewise.teacher import TeacherSlice
from slicewise.transfer import TransferTest, transfer_test
from sweep.trial.active import ActiveTrial, FitFailed, TrialStopped, active_trial
from sweep.trial.build import build, mistakes_of
from sweep.trial.cache import CACHE_KEYS, shared_targets
from sweep.trial.callbacks import FinalValidation, ObeyStudy
from sweep.trial.checkpoint import CHECKPOINT, Checkpoint, usable_checkpoint
from sweep.trial.live import LiveProgress
from sweep.trial.lockstep import agreed
from sweep.trial.loggers import Trackers
from sweep.trial.record import STUDENT_FOLDER, TrialRecord, recorded_result

log = logging.getLogger(__name__)

# What of a record can be an objective.
_OBJECTIVES = (
    "valid_l1",
    "train_l1",
    "baseline_ratio",
    "student_parameters",
    "student_latency_ms",
    "text_l1",
    "text_cosine",
    "seconds",
)
# What enters the slice, for students that begin with the teacher's weights or are solved for.
_CALIBRATION_TOKENS = 16_384
_known_flops: dict[tuple[type[Student], str, int, int], int] = {}


def run_trial(config: DictConfig) -> float | tuple[float, ...]:
    """Fits one student in Hydra's output directory, and leaves its record there.

    Args:
        config: The application's configuration; Hydra's own is taken from `HydraConfig`.

    Returns:
        The objective's values; a float where there is one.

    Raises:
        SlicewiseError: The configuration cannot be run; nothing has been trained.
        optuna.TrialPruned: The study's pruner ended the trial.
        TrialStopped: The trial was asked to stop; it can be continued.
        FitFailed: The loss is not a number.
    """
    directory = Path(HydraConfig.get().runtime.output_dir)
    active = active_trial()
    result = recorded_result(directory, active)
    if result is not None:
        return result
    record = TrialRecord.begin(config, active, torch.get_num_threads())
    try:
        fit(config, record, directory, active)
    finally:
        record.conclude(directory)
        if active is not None:
            active.attributes |= record.attributes()
    return record.result()


def fit(
    config: DictConfig, record: TrialRecord, directory: Path, active: ActiveTrial | None
) -> None:
    """Fits one student, or one rank's share of it, and fills in the record.

    Args:
        config: The application's configuration.
        record: Of the trial; its state stays RUNNING where the trial can be continued.
        directory: The trial's, for its student and its checkpoint.
        active: The trial in its study, if it is in one.

    Raises:
        Exception: As `run_trial`, and whatever else the fit raised.
    """
    started = time.perf_counter()
    trackers = Trackers(config)
    try:
        _fit(config, record, directory, active, trackers)
    except TrialStopped:
        raise
    except Exception as error:
        if active is not None:
            # What fails because another worker removes its files is no failure of the trial.
            active.check_possession()
        record.state = "PRUNED" if isinstance(error, TrialPruned) else "FAIL"
        record.reason = _reason(error)
        raise
    finally:
        record.seconds = round(time.perf_counter() - started, 3)
        trackers.conclude(record)


def _fit(
    config: DictConfig,
    record: TrialRecord,
    directory: Path,
    active: ActiveTrial | None,
    trackers: Trackers,
) -> None:
    """Trains, and fills in the record."""
    # Lightning's advice, and its own use of torch, say nothing to the reader.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="The number of training batches")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    check_objective(config)
    teacher = _teacher(json.dumps(OmegaConf.to_container(config.teacher, resolve=True)))
    lightning.seed_everything(_seed(config), verbose=False)
    data = _data(config, teacher)
    student = build_student(config, teacher, _calibration(data))
    record.teacher = teacher.source
    record.teacher_parameters = count_parameters(teacher)
    record.student_parameters = count_parameters(student)
    log.info("Trial %d, in %s", record.number, os.path.relpath(directory))
    log.info("Teacher: %s parameters, from %s", f"{record.teacher_parameters:,}", teacher.source)
    log.info("Student: %s parameters", f"{record.student_parameters:,}")

    optimizer, scheduler = _recipe(config, student)
    final = FinalValidation()
    callbacks: list[Callback] = [final]
    if active is not None:
        callbacks.append(ObeyStudy(active, prunable=config.objective.metrics[0] == "valid_l1"))
        callbacks.append(LiveProgress(directory))
    callbacks += [build(f"callbacks.{k}", node) for k, node in (config.callbacks or {}).items()]
    trainer: lightning.Trainer = build(
        "trainer",
        config.trainer,
        logger=trackers.open() or False,
        callbacks=callbacks,
        # Resuming is ResumePoint's; the student is saved once, at the end.
        enable_checkpointing=False,
        default_root_dir=str(directory),
    )
    trackers.begin()
    record.hardware = _hardware(trainer)
    record.precision = str(trainer.precision)
    _size_up(student, teacher, config, trainer, record)
    test = _transfer_test(teacher, trainer, config)
    checkpoint = usable_checkpoint(directory) if trainer.is_global_zero else None
    going_on = agreed(lambda: checkpoint is not None)
    steps = step_settings(config, checkpoint)
    targets = shared_targets(config, teacher, data, trainer, directory, in_study=active is not None)
    try:
        distiller = new_distiller(
            trainer,
            data,
            teacher,
            student,
            config.data.seq_length,
            optimizer,
            scheduler,
            targets=targets,
            seed=config.seed,
            **steps,
        )
    except ArgumentError as error:
        raise error.within("steps") from error
    try:
        if student.is_trainable:
            path = directory / CHECKPOINT if going_on else None
            trainer.fit(distiller, datamodule=data, ckpt_path=path, weights_only=True)
        else:
            for batch in _calibration(data):
                distiller.baselines.update(teacher(*batch[:2]), batch.real_tokens())
        if final.step != trainer.global_step:
            # The fit ended between two validations.
            trainer.validate(distiller, datamodule=data, verbose=False)
    finally:
        record.steps = trainer.global_step
        record.take_metrics(final.metrics)
    if record.valid_l1 is None or not math.isfinite(record.valid_l1):
        raise FitFailed(f"valid_l1 is {record.valid_l1} after {record.steps} steps")
    if test is not None:
        student.to(trainer.strategy.root_device)
        record.text_l1, record.text_cosine = test(student)
    if trainer.is_global_zero:
        record.values = objective_values(config, record)
        if active is not None:
            active.check_possession()
        save_student(student, directory / STUDENT_FOLDER)
    record.state = "COMPLETE"
    better = f"{record.baseline_ratio:.2f} times better" if record.baseline_ratio else "better"
    log.info(
        "valid_l1 %.4f: %s than the best baseline, %s (%.4f)",
        record.valid_l1,
        better,
        str(record.best_baseline).replace("_", " "),
        record.baselines[str(record.best_baseline)],
    )
    if test is not None:
        log.info("In the whole model, on text: cosine to the original's %.4f", record.text_cosine)


def step_settings(config: DictConfig, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """How steps are taken, as `new_distiller` takes it: `steps` in the configuration.

    A fit that goes on counts as the one did that saved its checkpoint.

    Raises:
        ArgumentError: A setting is not allowed.
    """
    settings = {"capture": "auto", "at_once": "auto", "compile": False}
    settings.update(OmegaConf.select(config, "steps", default={}))
    capture, at_once, compiled = (settings[key] for key in ("capture", "at_once", "compile"))
    if capture not in ("auto", "off", False):  # YAML's word for false.
        raise ArgumentError("steps.capture", capture, "auto, off")
    if at_once != "auto" and not (type(at_once) is int and at_once > 0):
        raise ArgumentError("steps.at_once", at_once, "auto, or an integer of at least 1")
    if not isinstance(compiled, bool):
        raise ArgumentError("steps.compile", compiled, "true or false")
    if checkpoint is not None and checkpoint.at_once is None:
        return {"capture": False, "at_once": 1, "compile": False}
    if checkpoint is not None:
        at_once = checkpoint.at_once
    return {"capture": capture == "auto", "at_once": at_once, "compile": compiled}


def build_student(
    config: DictConfig, teacher: TeacherSlice, batches: Iterable[Batch] = ()
) -> Student:
    """The student, its sizes taken from the teacher where the configuration leaves them open.

    Args:
        config: The application's configuration.
        teacher: The slice to stand in for.
        batches: What enters the slice, for first weights that come from the teacher; not looked
            at where they are random.

    Raises:
        ArgumentError: It does not take or give what the teacher does, or cannot start from what
            `student.init` says.
        SlicewiseError: It is larger than the objective allows.
    """
    with mistakes_of("student"):
        node = OmegaConf.to_container(config.student, resolve=True)
    assert isinstance(node, dict)
    target = {"_target_": node["_target_"], "_partial_": True}
    family = build("student", OmegaConf.create(target)).func
    if not (isinstance(family, type) and issubclass(family, Student)):
        raise ArgumentError("student._target_", node["_target_"], "a subclass of Student")
    init = node.pop("init", family.initialisations[0])
    if init not in family.initialisations:
        raise ArgumentError("student.init", init, " or ".join(family.initialisations))
    sizes = family.sizes_from(teacher)
    for key in ("input_dim", "output_dim"):
        if key in sizes and node.get(key) not in (None, sizes[key]):
            raise ArgumentError(
                f"student.{key}",
                node[key],
                f"null or {sizes[key]}, the hidden size of the teacher",
            )
    from_teacher = {key: size for key, size in sizes.items() if node.get(key) is None}
    student: Student = build("student", OmegaConf.create(node), **from_teacher)
    _check_size(student, config.objective.max_parameters)
    if init == "teacher":
        try:
            student.start_from(teacher, batches)
        except ArgumentError as error:
            raise error.within("student") from error
    return student


def _data(config: DictConfig, teacher: TeacherSlice) -> NoiseDataModule:
    """The data, without what is said about its targets."""
    given: Any = OmegaConf.to_container(config.data, resolve=True)
    node = OmegaConf.create({k: v for k, v in given.items() if k not in CACHE_KEYS})
    offered = {"teacher": teacher, "hidden_size": teacher.hidden_size}
    data: NoiseDataModule = build("data", node, offered=offered)
    return data


def _calibration(data: NoiseDataModule) -> Iterator[Batch]:
    """The first training batches, on the CPU."""
    batch_size, seq_length, _ = data.size
    needed = max(1, _CALIBRATION_TOKENS // (batch_size * seq_length))
    for number in range(min(needed, data.sizes["train_batches"])):
        yield data.make_batch(BatchIndex(Split.TRAIN, number), torch.device("cpu"))


def _size_up(
    student: Student,
    teacher: TeacherSlice,
    config: DictConfig,
    trainer: lightning.Trainer,
    record: TrialRecord,
) -> None:
    """Measures what the student costs.

    Raises:
        SlicewiseError: It is slower than the objective allows.
    """
    slowest = config.objective.max_latency_ms
    seq_length, hidden_size = config.data.seq_length, teacher.hidden_size
    record.student_flops = _flops(student, seq_length, hidden_size)
    student.to(trainer.strategy.root_device)
    # Where nothing is decided by it, a few runs will do: every trial waits for them.
    decides = slowest is not None or "student_latency_ms" in config.objective.metrics
    runs = {} if decides else {"runs": 7, "warm_up_runs": 2}
    latency = latency_ms(student, hidden_size, seq_length, **runs)
    record.student_latency_ms = round(latency, 3)
    if slowest is not None and agreed(lambda: latency > slowest):
        raise SlicewiseError(
            f"the student takes {latency:.3g} ms for a text of {seq_length} tokens, more than "
            f"objective.max_latency_ms={slowest:g}"
        )


def _check_size(student: Student, most: int | None) -> None:
    """Refuses a student larger than the objective allows, before anything is spent on it."""
    parameters = count_parameters(student)
    if most is not None and parameters > most:
        raise SlicewiseError(
            f"the student has {parameters:,} parameters, more than "
            f"objective.max_parameters={most:,}"
        )


def _flops(student: Student, seq_length: int, hidden_size: int) -> int:
    """Of one text; counted once for each shape of student, as most trials of a sweep share one."""
    shape = (type(student), json.dumps(student.config), seq_length, hidden_size)
    if shape not in _known_flops:
        _known_flops[shape] = count_flops(student, 1, seq_length, hidden_size)
    return _known_flops[shape]


def _transfer_test(
    teacher: TeacherSlice, trainer: lightning.Trainer, config: DictConfig
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
        if any(name.startswith("text_") for name in config.objective.metrics):
            raise
        log.warning("No comparison on text: %s", error)
        return None


def check_objective(config: DictConfig) -> None:
    """Refuses an objective that no record will have a number for."""
    for name in config.objective.metrics:
        if name not in _OBJECTIVES:
            raise ArgumentError("objective.metrics", f"[{name}]", ", ".join(_OBJECTIVES))


def objective_values(config: DictConfig, record: TrialRecord) -> list[float]:
    """What `objective.metrics` names, out of a trial's record."""
    return [float(getattr(record, name)) for name in config.objective.metrics]


def _recipe(
    config: DictConfig, student: Student
) -> tuple[OptimizerFactory, SchedulerFactory | None]:
    """What makes the optimizer and the scheduler; tried once, so that a wrong value shows now."""
    make_optimizer = build("optimizer", config.optimizer)
    with mistakes_of("optimizer"):
        optimizer = make_optimizer(student.parameters())
    if config.scheduler is None:
        return make_optimizer, None
    make_scheduler = build("scheduler", config.scheduler)
    with mistakes_of("scheduler"):
        make_scheduler(optimizer, total_steps=100)
    return make_optimizer, make_scheduler


def _seed(config: DictConfig) -> int:
    seed = config.seed
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ArgumentError("seed", seed, f"an integer from 0 to {2**32 - 1}")
    return seed


@functools.lru_cache(maxsize=2)
def _teacher(config: str) -> TeacherSlice:
    """A teacher is loaded once per process, not once per trial."""
    teacher: TeacherSlice = build("teacher", OmegaConf.create(json.loads(config)))
    return teacher


def _reason(error: Exception) -> str:
    if isinstance(error, (SlicewiseError, FitFailed, TrialPruned)):
        return str(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return f"out of memory: {error}"
    return f"{type(error).__name__}: {error}"


def _hardware(trainer: lightning.Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = _processor()
    return f"{trainer.world_size} x {device.type}: {name}"


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
