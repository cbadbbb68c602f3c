"""python -m sweep.watch STUDY: follows a sweep, from any terminal.

The same picture is shown by a sweep of several workers itself. It is made of the storage and of the
workers' progress files alone, so it does not matter who started them and how. Without a terminal
it is one plain line for each trial that ends.
"""

from __future__ import annotations

import argparse
import sys
import time

import optuna
from rich.console import Console

from sweep.console import exit_code_of
from sweep.study.plan import DEFAULT_STORAGE, command_to_go_on, find_study, read_plan
from sweep.view.picture import can_draw, picture, shown_live
from sweep.view.progress import Progress
from sweep.view.status import StudyMonitor


def watch(study: optuna.Study, console: Console, once: bool, every: float) -> None:
    """Follows a study until no sweep works on it any more.

    Args:
        study: Which.
        console: Where to.
        once: Only show how it stands now.
        every: Seconds between two looks.
    """
    monitor = StudyMonitor(study)
    status = monitor.status()
    if once or not status.is_running:
        console.print(picture(status))
    elif can_draw(console):
        with shown_live(study, console, transient=False) as draw:
            while draw().is_running:
                time.sleep(every)
    else:
        _follow_in_lines(study, monitor, console, every)
    if once:
        return
    command = command_to_go_on(study)
    more = f" To go on: {command}" if command and not monitor.status().is_finished else ""
    console.print(f"No sweep works on it now.{more}", soft_wrap=True, markup=False)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.watch", description="Follow a sweep, from any terminal."
    )
    parser.add_argument("study", help="its name, or its folder multirun/STUDY")
    parser.add_argument("--storage", default=DEFAULT_STORAGE, help="URL (default: %(default)s)")
    parser.add_argument("--once", action="store_true", help="show how it stands, and end")
    parser.add_argument(
        "--every", type=float, default=1.0, help="seconds between two looks (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        study = find_study(options.study, options.storage)
        watch(study, Console(highlight=False), options.once, options.every)
    except KeyboardInterrupt:
        # The usual way to stop looking.
        return 0
    except Exception as error:
        return exit_code_of(error)
    return 0


def _follow_in_lines(
    study: optuna.Study, monitor: StudyMonitor, console: Console, every: float
) -> None:
    progress = Progress(study, read_plan(study).n_trials)
    console.print(picture(monitor.status()))
    running = True
    while running:
        time.sleep(every)
        # Asked before the news: what ended before the sweep did is told.
        running = monitor.status().is_running
        for line in progress.news():
            console.print(f"{time.strftime('[%H:%M:%S]')} {line}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    sys.exit(main())
