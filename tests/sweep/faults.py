"""What goes wrong, on purpose: Lightning callbacks for `+callbacks.NAME={_target_: ...}`.

The program loads them where SLICEWISE_TRUSTED=tests.sweep.faults.* allows it.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytorch_lightning as lightning
import torch
from hydra.experimental.callback import Callback as HydraCallback
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from slicewise import cuda_graph
from slicewise.losses import l1_loss
from sweep.trial.active import ActiveTrial, active_trial
from sweep.trial.metrics import METRICS_NAME
from sweep.trial.metrics_file import MetricsFile

TRUSTED = "tests.sweep.faults.*"
METRICS_OF_ANOTHER = "step,valid_l1\n0,0.5\n"


class Death(BaseException):
    """As near as one process can come to being killed: nothing catches it."""


def running() -> ActiveTrial:
    active = active_trial()
    assert active is not None
    return active


class Slow(Callback):
    """Each batch takes so many seconds longer."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(self.seconds)


class StopDuring(Callback):
    """Asks the worker to stop during a step; the first is 1, and 0 means every step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.step in (0, trainer.global_step + 1):
            running().stop.set()


class DieDuring(Callback):
    """The fit ends during a step, and can neither say so nor write anything: as if killed."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step + 1 == self.step:
            for logger in trainer.loggers:
                assert isinstance(logger, MetricsFile)
                logger.experiment.metrics.clear()
            raise Death


class KillDuring(Callback):
    """The process kills itself in a step of one of the trials, whenever it comes there."""

    def __init__(self, trial: int, step: int) -> None:
        self.trial = trial
        self.step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if running().number == self.trial and trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


class BreakGpu(Callback):
    """In a step of one of the trials, CUDA refuses its process all further work.

    Args:
        trial: Its number.
        once: Only in the first process.
    """

    def __init__(self, trial: int, once: bool = False) -> None:
        self.trial = trial
        self.once = once

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if running().number == self.trial:
            if self.once:
                mark = Path(trainer.default_root_dir).parent / "broken"
                if mark.exists():
                    return
                mark.touch()
            torch.cuda.is_initialized = lambda: True  # type: ignore[method-assign]
            torch.cuda.synchronize = self._refuse
            torch.cuda.empty_cache = torch.cuda.memory_reserved = self._refuse
            stream = SimpleNamespace(synchronize=self._refuse)
            torch.cuda.current_stream = lambda *_: stream  # type: ignore[assignment, return-value]
            torch.cuda.set_stream = lambda *_: None
            self._refuse()

    def _refuse(self, *_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")


class FailToEnd(Callback):
    """Whatever a fit is broken off with, clearing up fails, as on a GPU that refuses all work."""

    def on_exception(self, *_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class Raise(Callback):
    """One of the trials raises something in its second step."""

    ERRORS = {  # noqa: RUF012
        "host memory": MemoryError("no 640 GiB here"),
        "gpu memory": torch.OutOfMemoryError("no 640 GiB there"),
        "error": RuntimeError("the student is tired"),
    }

    def __init__(self, trial: int, what: str) -> None:
        self.trial = trial
        self.what = what

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if running().number == self.trial and trainer.global_step == 1:
            if self.what == "exit":
                sys.exit("enough")
            raise self.ERRORS[self.what]


class FillDisk(Callback):
    """In a step of one of the trials the disk is full, while a file of this name is there."""

    def __init__(self, trial: int, step: int, file: str) -> None:
        self.trial = trial
        self.step = step
        self.file = file

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        here = running().number == self.trial and trainer.global_step + 1 == self.step
        if here and Path(self.file).exists():
            Path("/dev/full").write_text("a checkpoint, say")


class NoteJob(HydraCallback):
    """Of Hydra's: writes into a job's folder, at its end, which one had begun."""

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        self.number = config.hydra.job.num

    def on_job_end(self, config: DictConfig, **_: Any) -> None:
        Path(config.hydra.runtime.output_dir, "begun").write_text(f"{self.number}")


class FailInCompany(Callback):
    """A trial fails that runs beside another."""

    def on_train_batch_end(self, *_: Any) -> None:
        if running().has_company():
            raise RuntimeError("there is another")


class OutOfMemoryBeside(Callback):
    """One of the trials runs out of memory in its second step, as long as others run beside it."""

    def __init__(self, trial: int, what: str) -> None:
        self.trial = trial
        self.what = what

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        place = running().place
        crowded = place is not None and place.others >= 1
        if crowded and running().number == self.trial and trainer.global_step == 1:
            if self.what == "cpu memory":
                torch.empty(2**60, dtype=torch.uint8)
            raise Raise.ERRORS[self.what]


class NoteWhatRecordingsRaise(Callback):
    """At each step: whether others run beside the trial; whether it would be an end to it if memory
    were lacking to record the step, and if something else went wrong."""

    seen: ClassVar[list[tuple[bool, bool, bool]]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        raises = cuda_graph._raises.get()
        errors = torch.OutOfMemoryError("not here"), RuntimeError("it waits for the device")
        lacking, other = map(raises, errors)
        self.seen.append((running().has_company(), lacking, other))


def l1_that_cannot_be_recorded_beside_others(
    prediction: Tensor, target: Tensor, real_tokens: Tensor | None = None
) -> Tensor:
    """A loss: while its CUDA graph is recorded, memory runs out that others have."""
    if prediction.is_cuda and torch.cuda.is_current_stream_capturing() and running().has_company():
        torch.empty(2**45, device=prediction.device)
    return l1_loss(prediction, target, real_tokens)


class RemoveFile(Callback):
    """A file goes away as soon as a trial has been fitted."""

    def __init__(self, trial: int, path: str) -> None:
        self.trial = trial
        self.path = path

    def on_fit_end(self, *_: Any) -> None:
        if running().number == self.trial:
            Path(self.path).unlink()


class OneRank(Callback):
    """Something happens to one rank in a step, the first time that the trial comes there.

    Args:
        rank: Which one.
        step: In which step; the first is 1.
        what: `raise`, `leave` (be killed, but leave a process behind), or a signal's name.
        trial: Of which trial; None: of any.
    """

    def __init__(self, rank: int, step: int, what: str, trial: int | None = None) -> None:
        self.rank = rank
        self.step = step
        self.what = what
        self.trial = trial

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_rank != self.rank or trainer.global_step + 1 != self.step:
            return
        if self.trial is not None and running().number != self.trial:
            return
        mark = Path(trainer.default_root_dir, "happened")
        if mark.exists():
            return
        mark.touch()
        if self.what == "raise":
            raise RuntimeError(f"rank {self.rank} is tired")
        if self.what == "leave":
            # It holds the rank's pipe open, as a forked data worker would.
            descendant = os.fork()
            while descendant == 0:
                signal.pause()
            mark.write_text(str(descendant))
            self.what = "SIGKILL"
        os.kill(os.getpid(), signal.Signals[self.what])


class InterruptWorker(Callback):
    """Ctrl-C comes to the worker that has started this rank, while it is in a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.is_global_zero and trainer.global_step + 1 == self.step:
            os.kill(os.getppid(), signal.SIGINT)


class LosePossession(Callback):
    """The trial is given to another worker, with its files, while this one is in a step.

    Args:
        step: In which one; the first is 1.
        and_fail: The step fails, as where the other worker removed what it needs.
    """

    def __init__(self, step: int, and_fail: bool = False) -> None:
        self.step = step
        self.and_fail = and_fail

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step + 1 == self.step:
            running()._is_ours = lambda: False
            Path(trainer.default_root_dir, METRICS_NAME).write_text(METRICS_OF_ANOTHER)
            if self.and_fail:
                raise FileNotFoundError


class NoteSaves(Callback):
    """Writes the time of each checkpoint to a file `saves` in the trial's directory."""

    def on_save_checkpoint(self, trainer: lightning.Trainer, *_: Any) -> None:
        with Path(trainer.default_root_dir, "saves").open("a") as file:
            file.write(f"{time.monotonic()}\n")


class DieWithSeed(Callback):
    """The fit of one seed of the trial ends during a step, and cannot say so."""

    def __init__(self, seed: int, step: int) -> None:
        self.seed = seed
        self.step = step

    def on_train_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        at_seed = Path(trainer.default_root_dir).name == f"seed_{self.seed}"
        if at_seed and trainer.global_step + 1 == self.step:
            raise Death


class FailWithSeed(Callback):
    """The fit of one seed of the trial loses its way."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any
    ) -> None:
        if Path(trainer.default_root_dir).name == f"seed_{self.seed}":
            with torch.no_grad():
                for parameter in pl_module.student.parameters():  # type: ignore[union-attr]
                    parameter.fill_(math.nan)
