"""What a student costs: operations, and milliseconds, for one text."""

from __future__ import annotations

import json
from typing import Any

import pytorch_lightning as lightning
import torch

from slicewise.cost import count_flops, latency_ms
from slicewise.errors import SlicewiseError
from slicewise.students.base import Student
from sweep.trial.lockstep import agreed
from sweep.trial.record import TrialRecord
from sweep.trial.settings import TrialSettings

# Of shapes of students, which most trials of a sweep share.
_known_flops: dict[tuple[object, ...], int] = {}
_known_latencies: dict[tuple[object, ...], float] = {}


def measure_cost(
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
