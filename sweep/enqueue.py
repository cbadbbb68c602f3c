"""python -m sweep.enqueue STUDY KEY=VALUE ...: points of your own, before a sampler's.

Before a sweep goes on, or while it runs: the next worker that is free takes them. Keys that are not
given are the sampler's. All points are checked before any is enqueued.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.trial import TrialState

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.console import exit_code_of
from sweep.study.attributes import FINISHED, STOPPED
from sweep.study.places import study_folder
from sweep.study.plan import DEFAULT_STORAGE, command_to_go_on, find_study, note_end, read_plan
from sweep.study.points import (
    Point,
    enqueue,
    holder,
    is_free,
    points_of,
    read_point,
    read_points,
    searched_space,
)
from sweep.study.presence import working_sweeps
from sweep.study.space import SearchSpace
from sweep.view.summary import ranked
from sweep.view.words import point as in_words


def add(
    name: str,
    storage_url: str,
    arguments: Sequence[str],
    csv: Path | None = None,
    best: int | None = None,
    of: str | None = None,
) -> None:
    """Enqueues points in a study, and says what becomes of them.

    Args:
        name: The study's.
        storage_url: Of its storage, and of the other study's.
        arguments: Overrides, which make one point.
        csv: A file of points.
        best: How many of another study's best points.
        of: The other study.

    Raises:
        SlicewiseError: There is no such study, or a point lies outside its space; then none is
            enqueued.
    """
    study = find_study(name, storage_url)
    space = searched_space(study)
    if len(arguments) == 1 and "=" not in arguments[0] and Path(arguments[0]).is_file():
        as_file = shlex.join([name, "--csv", arguments[0]])
        raise SlicewiseError(f"{arguments[0]} is a file: python -m sweep.enqueue {as_file}")
    points: list[Point] = [read_point(arguments, space)] if arguments else []
    if csv is not None:
        points += read_points(csv, space)
    if best is not None and of is not None:
        points += _best(of, storage_url, best, space)
    if not points:
        key = next(iter(space.dimensions), "KEY")
        raise SlicewiseError(
            f"no point is given: python -m sweep.enqueue {shlex.quote(name)} {key}=VALUE, "
            "--csv FILE, or --best N --from STUDY"
        )
    if len(points) == 1 and (number := holder(study.trials, space, points[0])) is not None:
        raise SlicewiseError(f"{_shown(points[0])}: trial {number} has that point already")
    if len(points) == 1 and not is_free(study.trials, space, points[0]):
        raise SlicewiseError(
            f"{_shown(points[0])}: every point of the search space with it has been tried, or waits"
        )
    numbers = enqueue(study, study._storage, study_folder(study), space, points)
    if any(number is not None for number in numbers):
        note_end(study)
    for point, number in zip(points, numbers, strict=True):
        what = "has been tried, or waits" if number is None else f"waits as trial {number}"
        print(f"{_shown(point)}: {what}")
    print(_what_next(study))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.enqueue",
        description="Have a study try points of your own next: before a sweep, or while it runs.",
    )
    parser.add_argument("study", help="its name, or its folder multirun/STUDY")
    parser.add_argument("point", nargs="*", metavar="KEY=VALUE", help="a point, or a part of one")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="points: a row of keys, then rows")
    parser.add_argument("--best", type=int, metavar="N", help="the N best points of --from")
    parser.add_argument("--from", dest="of", metavar="STUDY", help="another study")
    parser.add_argument("--storage", default=DEFAULT_STORAGE, help="URL (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        if (options.best is None) != (options.of is None):
            raise SlicewiseError("--best N and --from STUDY belong together")
        if options.best is not None and options.best < 1:
            raise ArgumentError("--best", options.best, "an integer of at least 1")
        add(
            options.study,
            options.storage,
            options.point,
            options.csv,
            options.best,
            options.of,
        )
    except (Exception, KeyboardInterrupt) as error:
        return exit_code_of(error)
    return 0


def _best(name: str, storage_url: str, number: int, space: SearchSpace) -> list[Point]:
    other = find_study(name, storage_url)
    complete = [trial for trial in ranked(other) if trial.state is TrialState.COMPLETE]
    points = points_of(complete, number, space)
    if not points:
        raise SlicewiseError(
            f"--from={name}: none of its {len(complete)} complete trials lies in the space of this "
            f"study, {', '.join(space.dimensions)}"
        )
    return points


def _shown(point: Point) -> str:
    return in_words(point) or "nothing"


def _what_next(study: optuna.Study) -> str:
    if working_sweeps(study):
        return "The next worker that is free takes what waits."
    plan = read_plan(study)
    if stopped := study.user_attrs.get(STOPPED):
        return (
            f"A rule has ended the study: {stopped['reason']}. It waits for the sweep to go on "
            f"without: {command_to_go_on(study)}"
        )
    finished = len(study.get_trials(deepcopy=False, states=FINISHED))
    more = ""
    if plan.n_trials is not None and finished >= plan.n_trials:
        more = f", with hydra.sweeper.n_trials above the {plan.n_trials} that it has met"
    return f"It waits for the sweep to go on{more}: {plan.command}"


if __name__ == "__main__":
    sys.exit(main())
