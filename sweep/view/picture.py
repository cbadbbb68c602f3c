"""The picture of a study as it runs: what each of its workers does."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.console import Console, Group, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.trial.metrics import Metrics, seen_in
from sweep.view.progress import Progress
from sweep.view.status import Status, StudyMonitor, WorkerStatus
from sweep.view.words import metric_shown, point

# Lines of the picture besides the workers'.
_OTHER_LINES = 10
_BAR_WIDTH = 12
_WORDS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def picture(status: Status, rows: int = 100) -> RenderableType:
    """A study as it stands, in 80 columns or more.

    Args:
        status: Of the study.
        rows: Workers that are shown at most.
    """
    parts: list[RenderableType] = [_heading(status), _overall(status), _counts(status)]
    if status.stopped is not None:
        parts.append(Text(f"Stopped before its budget was met: {status.stopped}"))
    if status.best is not None:
        parts.append(_best(status.best, status))
    if status.workers:
        parts.append(_workers(status.workers[:rows], status.reported))
    hidden = len(status.workers) - rows
    if hidden > 0:
        parts.append(Text(f"and {hidden} more workers", style="dim"))
    return Group(*parts)


@contextlib.contextmanager
def shown_live(
    study: optuna.Study, console: Console, transient: bool
) -> Iterator[Callable[[], Status]]:
    """Keeps the picture at the end of the terminal; whatever is logged goes above it.

    Args:
        study: Which.
        console: A terminal.
        transient: Whether the picture goes away in the end.

    Yields:
        What draws it anew.
    """
    monitor = StudyMonitor(study)
    live = Live(console=console, auto_refresh=False, transient=transient)

    def draw() -> Status:
        status = monitor.status()
        rows = max(1, console.height - _OTHER_LINES)
        live.update(picture(status, rows), refresh=True)
        return status

    with live, _log_above():
        yield draw


@contextlib.contextmanager
def shown_progress(
    study: optuna.Study, n_trials: int | None, live: bool
) -> Iterator[Callable[[], object]]:
    """Shows on this process's output how a study goes on, whenever what it yields is called.

    Args:
        study: Which.
        n_trials: How many finished trials it will have; None: unknown.
        live: Whether a terminal, if there is one, is all its own.
    """
    console = Console(highlight=False)
    if live and can_draw(console):
        with shown_live(study, console, transient=True) as draw:
            yield draw
    else:
        yield Progress(study, n_trials).say


def can_draw(console: Console) -> bool:
    """Whether it is a terminal on which a picture can be drawn again and again."""
    return console.is_terminal and not console.is_dumb_terminal


def _heading(status: Status) -> Table:
    grid = Table.grid(expand=True)
    grid.add_column()
    grid.add_column(justify="right")
    left = ""
    if status.seconds_left is not None:
        left = f"{timedelta(seconds=round(status.seconds_left))} left"
    elif status.workers and not status.is_finished:
        left = "time left: not known yet"
    grid.add_row(Text(f"Study {status.name}", style="bold"), Text(left))
    return grid


def _overall(status: Status) -> RenderableType:
    if status.n_trials is None:
        return Text(f"{status.finished} finished")
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(ratio=1)
    grid.add_column()
    bar = ProgressBar(total=status.n_trials, completed=status.finished)
    grid.add_row(bar, Text(f"{status.finished}/{status.n_trials} finished"))
    return grid


def _counts(status: Status) -> Text:
    styles = {TrialState.PRUNED: "yellow", TrialState.FAIL: "red"}
    said = [
        Text(f"{status.counts[state]} {word}", style=styles.get(state, "default"))
        for state, word in _WORDS.items()
        if status.counts[state] or state in styles
    ]
    return Text(", ").join(said)


def _best(best: FrozenTrial, status: Status) -> Text:
    """The best so far and its parameters."""
    values = zip(status.objectives, best.values, strict=True)
    said = [f"trial {best.number}", *(f"{name} {metric_shown(name, v)}" for name, v in values)]
    text = Text("Best: ")
    text.append(", ".join(said), style="green")
    known = Metrics.known(best.user_attrs)
    for metric in seen_in("watch"):
        value = known.get(metric)
        if value is not None and metric.name not in status.objectives:
            text.append(f", {metric.shown(value)} {metric.heading}")
    return text.append(f"  {point(best.params, ' ')}", style="dim")


def _workers(workers: list[WorkerStatus], reported: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.add_column("worker", no_wrap=True)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("overrides", ratio=1, overflow="fold")
    table.add_column("step", width=_BAR_WIDTH)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column(reported, justify="right", no_wrap=True)
    table.add_column("steps/s", justify="right", no_wrap=True)
    for worker in workers:
        table.add_row(worker.label, *_fit(worker))
    return table


def _fit(worker: WorkerStatus) -> list[RenderableType]:
    """The cells of a worker besides its name."""
    trial, pulse = worker.trial, worker.pulse
    if trial is None:
        return ["", Text(worker.waits_for or "between two trials", style="dim"), "", "", "", ""]
    number, asked = str(trial.number), point(trial.params, " ")
    if pulse is None:
        steps = sorted(trial.intermediate_values)
        if not steps:
            if worker.waits_for is not None:
                asked += f" ({worker.waits_for})"
            return [number, asked, Text("starting", style="dim"), "", "", ""]
        last = steps[-1]
        return [number, asked, "", str(last), f"{trial.intermediate_values[last]:.4g}", ""]
    done = str(pulse.step) if pulse.total is None else f"{pulse.step}/{pulse.total}"
    if pulse.parts > 1:
        asked += f" (seed {pulse.part + 1} of {pulse.parts})"
    bar: RenderableType = ""
    if pulse.total:
        bar = ProgressBar(total=pulse.total, completed=pulse.step, width=_BAR_WIDTH)
    loss = "" if pulse.loss is None else f"{pulse.loss:.4f}"
    rate = "" if pulse.steps_per_second is None else f"{pulse.steps_per_second:.1f}"
    return [number, asked, bar, done, loss, "valid." if pulse.validating else rate]


@contextlib.contextmanager
def _log_above() -> Iterator[None]:
    """Has log records go through what keeps the picture whole: the standard streams of now.

    Handlers keep the stream that there was when they were made.
    """
    proxies = [s for s in (sys.stdout, sys.stderr) if isinstance(s, FileProxy)]
    _point_handlers({proxy.rich_proxied_file: proxy for proxy in proxies})
    try:
        yield
    finally:
        _point_handlers({proxy: proxy.rich_proxied_file for proxy in proxies})


def _point_handlers(streams: Mapping[Any, Any]) -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream in streams:
            handler.setStream(streams[handler.stream])
