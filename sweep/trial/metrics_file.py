"""metrics.csv, in the trial's own folder.

Lightning has a row written as soon as it is logged. Here rows wait for a validation, a checkpoint,
the end of the fit, or ten seconds: opening a file takes about as long as a GPU's step.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable
from pathlib import Path

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from slicewise.atomic import write_atomically
from sweep.trial.active import active_trial
from sweep.trial.rows import read_rows


class MetricsFile(CSVLogger):
    """Lightning's CSV logger, which here goes on with the file of a fit that is continued.

    Lightning's own deletes what it finds as soon as it is made; a process killed between that and
    its first row would take the rows before its checkpoint with it. This one leaves the file
    alone until it is told from which step the fit goes on, or has a row of a fit that begins.

    Args:
        directory: The trial's.
        every_seconds: The longest that a row waits for the next one to be written with; 10 unless
            given, and 0 to write each at once.
    """

    def __init__(self, directory: str, every_seconds: float = 10.0) -> None:
        super().__init__(directory, "", "")
        self.every_seconds = every_seconds
        self._flushed = time.monotonic()

    @property
    @rank_zero_experiment
    def experiment(self) -> _Rows:
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir)
        assert isinstance(self._experiment, _Rows)
        return self._experiment

    @rank_zero_only
    def drop_after(self, step: int) -> None:
        """Leaves out the rows of steps that will be taken again."""
        if not _belongs_to_another():
            self.experiment.begin(step)

    @rank_zero_only
    def save(self) -> None:
        """What Lightning calls after each row."""
        if time.monotonic() - self._flushed >= self.every_seconds:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Writes all rows that there are."""
        self._flushed = time.monotonic()
        # Also called when a fit is left, which may be because the trial was lost.
        if not _belongs_to_another():
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._experiment is not None:
            self.flush()


def save_rows(loggers: Iterable[Logger]) -> None:
    """Has loggers write what they hold: now it counts."""
    for logger in loggers:
        if isinstance(logger, MetricsFile):
            logger.flush()
        else:
            logger.save()


def _belongs_to_another() -> bool:
    """Whether the trial, and its file, has been given to another worker."""
    active = active_trial()
    return active is not None and active.is_lost()


class _Rows(ExperimentWriter):
    """The rows of the file: appended, or replaced all at once."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self._begun = False

    def begin(self, step: int) -> None:
        """Keeps the rows of earlier steps."""
        self._begun = True
        kept = [row for row in read_rows(Path(self.metrics_file_path)) if float(row["step"]) < step]
        self.metrics_keys = sorted({key for row in kept for key in row})
        if kept:
            self._replace(kept)
        else:
            Path(self.metrics_file_path).unlink(missing_ok=True)

    def save(self) -> None:
        if self.metrics and not self._begun:
            self.begin(0)
        super().save()

    def _check_log_dir_exists(self) -> None:
        """Lightning's deletes the file."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._replace(read_rows(Path(self.metrics_file_path)))

    def _replace(self, rows: list[dict[str, str]]) -> None:
        content = io.StringIO(newline="")
        writer = csv.DictWriter(content, self.metrics_keys)
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.metrics_file_path, content.getvalue())
