"""What is wrong with every trial alike, found before any is claimed.

A point that cannot be run says nothing about the others, unless they all say the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.console import message_of
from sweep.study.compose import TrialComposer
from sweep.study.dimension import Dimension, described
from sweep.study.space import SearchSpace


def mistake_of_all(
    rehearse: Callable[[DictConfig], None],
    composer: TrialComposer,
    space: SearchSpace,
    config: DictConfig,
) -> str | None:
    """Rehearses a few points of a space.

    Args:
        rehearse: Builds all that a trial is made of; raises what is wrong with it.
        composer: Makes a trial's configuration of a point.
        space: What is searched.
        config: The sweep's configuration.

    Returns:
        What they all say, None where one of them can be run and nothing tells that others of an
        endless key cannot.
    """

    def said_of(point: Mapping[str, Any]) -> Exception | None:
        try:
            rehearse(composer.compose(dict(point)))
        except (HydraException, OmegaConfBaseException, SlicewiseError) as error:
            return error
        return None

    said = set()
    for point in space.samples(config):
        error = said_of(point)
        if error is None:
            return None
        dimension = _endless(error, space)
        if dimension is None:
            said.add(message_of(error))
            continue
        assert isinstance(error, ArgumentError)
        if _runs_on_integers(error, point, space, said_of):
            # By chance, a sampler never draws one of these few.
            return str(_of_key(error, dimension, f"Such as {error.name}={_integers(dimension)}"))
        said.add(str(_of_key(error, dimension)))
    return said.pop() if len(said) == 1 else None


def _runs_on_integers(
    error: Exception | None,
    point: Mapping[str, Any],
    space: SearchSpace,
    said_of: Callable[[Mapping[str, Any]], Exception | None],
) -> bool:
    """Whether a point can be run once the values at fault are rounded."""
    rounded = dict(point)
    while error is not None:
        dimension = _endless(error, space)
        if dimension is None:
            return False
        assert isinstance(error, ArgumentError)
        whole = round(rounded[error.name])
        if rounded[error.name] == whole or not dimension.holds(whole):
            return False
        rounded[error.name] = whole
        error = said_of(rounded)
    return True


def _endless(error: Exception, space: SearchSpace) -> Dimension | None:
    """The dimension between real numbers whose value is at fault, if it is one's."""
    dimension = space.dimensions.get(error.name) if isinstance(error, ArgumentError) else None
    return dimension if dimension is not None and math.isinf(dimension.size()) else None


def _of_key(error: ArgumentError, dimension: Dimension, hint: str = "") -> ArgumentError:
    """The same about all values of the key, each of which would say it of itself."""
    return ArgumentError(
        error.name, described(dimension.distribution), error.allowed, hint or error.hint
    )


def _integers(dimension: Dimension) -> str:
    distribution: Any = dimension.distribution
    low, high = math.ceil(distribution.low), math.floor(distribution.high)
    text = f"int(interval({low},{high}))"
    return f"tag(log,{text})" if distribution.log else text
