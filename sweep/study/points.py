"""Points given by hand: read, checked against a study's space, and enqueued once."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from optuna.distributions import CategoricalDistribution, json_to_distribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.console import message_of
from sweep.overrides import element_text, override_text
from sweep.study.attributes import ERAS, IDENTITY
from sweep.study.dimension import Dimension, described, same_value, stored_forms
from sweep.study.space import CUSTOM, Era, History, SearchSpace
from sweep.study.storage import decided

Point = Mapping[str, Any]


def searched_space(study: optuna.Study) -> SearchSpace:
    """What a study searches, as it says itself; without the texts of choices.

    Raises:
        SlicewiseError: It does not say.
    """
    known = study.user_attrs.get(IDENTITY, {}).get("space")
    if known is None:
        raise SlicewiseError(
            f"study={study.study_name} does not say what it searches: it was not made by a sweep"
        )
    distributions = {
        key: json_to_distribution(json.dumps(one)) for key, one in known.items() if key != CUSTOM
    }
    if CUSTOM in known:
        # What it asks in some cases is known of the trials that were asked.
        for trial in study.get_trials(deepcopy=False):
            distributions = {**trial.distributions, **distributions}
    dimensions = {
        key: Dimension(d, d.choices if isinstance(d, CategoricalDistribution) else None, {})
        for key, d in distributions.items()
    }
    eras = [Era(**era) for era in study.user_attrs.get(ERAS, [])]
    # Where questions depend on answers, no point is known to be a whole one.
    custom = (lambda config, trial: None) if CUSTOM in known else None
    return SearchSpace(dimensions, {}, custom=custom, history=History(eras))


def read_point(arguments: Sequence[str], space: SearchSpace) -> Point:
    """A point, as far as it is given, of overrides `KEY=VALUE`.

    Raises:
        SlicewiseError: One is none, or lies outside the space.
    """
    point: dict[str, Any] = {}
    for argument in arguments:
        try:
            [override] = OverridesParser.create().parse_overrides([argument])
        except HydraException as error:
            raise SlicewiseError(message_of(error) or str(error)) from error
        key = override.get_key_element()
        if override.is_sweep_override() or override.is_delete() or override.is_list_extend():
            raise ArgumentError(key, override.get_value_string(), "one value")
        element: Any = override._value
        given = _checked(key, stored_forms(element, element_text(element)), argument, space)
        if given.keys() & point.keys():
            raise ArgumentError(key, override.get_value_string(), "one value; it has two")
        point.update(given)
    return point


def checked_point(values: Mapping[Any, Any], space: SearchSpace) -> Point:
    """A point, as far as it is given, of plain values.

    Raises:
        SlicewiseError: One lies outside the space.
    """
    point = {}
    for key, value in values.items():
        text = override_text(value)
        point.update(_checked(str(key), stored_forms(value, text), f"{key}={text}", space))
    return point


def read_points(path: Path, space: SearchSpace) -> list[Point]:
    """The points of a CSV file, whose first row has the keys; an empty cell is left to the sampler.

    Raises:
        SlicewiseError: It cannot be read, or a row is no point of the space.
    """
    try:
        with path.open(newline="") as file:
            keys, *rows = csv.reader(file, skipinitialspace=True)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArgumentError("--csv", str(path), f"a CSV file that can be read: {error}") from error
    except ValueError:
        raise ArgumentError("--csv", str(path), "a CSV file with a row of keys") from None
    points = []
    for number, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(keys):
            raise SlicewiseError(
                f"{path}, row {number}: allowed: {len(keys)} cells, not {len(row)}; "
                'quote what has a comma: "[1,2]"'
            )
        given = [f"{k.strip()}={c.strip()}" for k, c in zip(keys, row, strict=True) if c.strip()]
        try:
            points.append(read_point(given, space))
        except SlicewiseError as error:
            raise SlicewiseError(f"{path}, row {number}: {error}") from error
    return points


def enqueue(
    study: optuna.Study,
    storage: BaseStorage,
    directory: Path,
    space: SearchSpace,
    points: Sequence[Point],
) -> list[int | None]:
    """Lets points wait for a worker, before all that a sampler would choose.

    Args:
        study: Which.
        storage: Its storage.
        directory: Its folder.
        space: What it searches.
        points: As far as they are given; the sampler chooses the rest.

    Returns:
        For each the number of its trial; None where a trial has that point already, or trials
        have all that agree with it.
    """

    def decide() -> list[int | None]:
        numbers: list[int | None] = []
        for point in points:
            trials = storage.get_all_trials(study._study_id, deepcopy=False)
            if holder(trials, space, point) is not None or not is_free(trials, space, point):
                numbers.append(None)
                continue
            study.enqueue_trial(dict(point))
            numbers.append(len(trials))
        return numbers

    return decided(storage, study.study_name, directory, decide)


def holder(trials: Sequence[FrozenTrial], space: SearchSpace, point: Point) -> int | None:
    """The number of the trial that has a point, or waits with it, as far as that is given."""
    whole = None if space.custom is not None else space.point(point)
    for trial in trials:
        asked = trial.system_attrs.get("fixed_params")
        if asked == dict(point) or (whole is not None and space.point_of(trial) == whole):
            return trial.number
    return None


def is_free(trials: Sequence[FrozenTrial], space: SearchSpace, point: Point) -> bool:
    """Whether a point that agrees with what is given of one is surely left for its trial."""
    if math.isinf(space.size()):
        return True
    taken, promised = set(), 0
    for trial in trials:
        values = space.values_of(trial)
        if values is None or not _agree(values, point):
            continue
        if (own := space.point(values)) is not None:
            taken.add(own)
        elif not trial.state.is_finished():
            # Of what waits with a part of a point, any may be it.
            promised += 1
    others = [dimension for key, dimension in space.dimensions.items() if key not in point]
    return len(taken) + promised < math.prod(dimension.size() for dimension in others)


def _agree(one: Point, other: Point) -> bool:
    """Whether two points, as far as they are given, may be one."""
    return all(same_value(one[key], other[key]) for key in one.keys() & other.keys())


def points_of(trials: Iterable[FrozenTrial], number: int, space: SearchSpace) -> list[Point]:
    """The first so many points of other trials that lie in a space."""
    points: list[Point] = []
    for trial in trials:
        given = {key: value for key, value in trial.params.items() if key in space.dimensions}
        try:
            point = {key: space.dimensions[key].find(value) for key, value in given.items()}
        except ValueError:
            continue
        if point and point not in points:
            points.append(point)
        if len(points) == number:
            break
    return points


def _checked(key: str, forms: Sequence[Any], shown: str, space: SearchSpace) -> dict[str, Any]:
    """A key and its value, as the space has them."""
    plain = {one.lstrip("+"): one for one in space.dimensions}
    if key.lstrip("+") not in plain:
        known = ", ".join(space.dimensions) or "none"
        raise SlicewiseError(f"{shown}: allowed: a key that the study searches: {known}")
    own = plain[key.lstrip("+")]
    dimension = space.dimensions[own]
    for form in forms:
        try:
            return {own: dimension.find(form)}
        except ValueError:
            continue
    raise SlicewiseError(f"{shown}: allowed: {own}={described(dimension.distribution)}")
