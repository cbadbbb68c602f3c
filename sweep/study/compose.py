"""The configuration of a trial, composed once and then varied.

Composing reads every file of the application and takes longer than all else between two trials.
Most swept keys are plain values, which Hydra sets after composing; so here a configuration is
composed once for each choice of config groups, and a copy gets the values by Hydra's own function.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf._utils import split_key
from omegaconf.errors import OmegaConfBaseException

from slicewise.errors import ArgumentError, SlicewiseError
from sweep.command_line import study_override
from sweep.console import message_of
from sweep.study.dimension import Dimension
from sweep.study.space import SearchSpace

# Configurations kept, for spaces with many choices of groups.
_KEPT = 64
# Values of a choice that are tried before a sweep begins.
_TRIED = 1000
_SUBDIR = "hydra.sweep.subdir"


class TrialComposer:
    """Composes the configuration of trials, as `ConfigLoader.load_sweep_config` would.

    Args:
        config: The sweep's configuration.
        hydra_context: How Hydra composes.
        space: Gives the overrides of a trial.
        composed: What another one has composed of the same application, by its overrides.

    Attributes:
        composed: What has been composed here, for another one, wherever that is: pickled.
    """

    def __init__(
        self,
        config: DictConfig,
        hydra_context: HydraContext,
        space: SearchSpace,
        composed: Mapping[tuple[str, ...], bytes] | None = None,
    ) -> None:
        self._config = config
        self._loader = hydra_context.config_loader
        self._space = space
        self._parser = OverridesParser.create()
        self.composed = dict(composed or {})
        self._is_group: dict[str, bool] = {}
        fixed = self._parser.parse_overrides(space.overrides({}))
        self._settings = [override for override in fixed if self._sets(override)]

    def compose(self, params: Mapping[str, Any]) -> DictConfig:
        """The configuration of a trial with these values, Hydra's own part included.

        Raises:
            SlicewiseError: The overrides do not fit the configuration, or a key is both fixed and
                suggested.
        """
        overrides, plain = self._space.overrides(params), self._plain(params)
        texts = {override.input_line for override in plain}
        structural = tuple(text for text in overrides if text not in texts)
        if structural not in self.composed:
            if len(self.composed) >= _KEPT:
                self.composed.clear()
            self.composed[structural] = pickle.dumps(self._load(structural))
        # OmegaConf is copied several times faster this way than by deepcopy.
        config: DictConfig = pickle.loads(self.composed[structural])
        # A timestamp stays what it was in the sweep's configuration.
        OmegaConf.copy_cache(from_config=self._config, to_config=config)
        try:
            ConfigLoaderImpl._apply_overrides_to_config(plain, config)
        except (HydraException, OmegaConfBaseException) as error:
            raise _mistake(error) from error
        with open_dict(config):
            config.hydra.overrides.task = [text for text in overrides if not _is_hydras(text)]
            # A worker may have gone to a folder of its own: hydra.job.chdir.
            config.hydra.runtime.cwd = self._config.hydra.runtime.cwd
        return config

    def check(self) -> None:
        """Composes what stands for all points, so that what does not fit is found before any trial.

        These are: every option of every group at least once, and every value of every choice; of
        what a custom search space adds, a few.

        Raises:
            SlicewiseError: One of them does not fit the configuration.
        """
        dimensions = self._space.dimensions
        first = {key: _samples(dimension)[0] for key, dimension in dimensions.items()}
        plain = {override.get_key_element() for override in self._plain(first)}
        structural = {key: _samples(dimensions[key]) for key in dimensions if key not in plain}
        rows = max(map(len, structural.values()), default=1)
        for number in range(min(rows, _KEPT)):
            row = {key: values[number % len(values)] for key, values in structural.items()}
            self._check_point(first | row, row)
        for key in plain:
            for value in _samples(dimensions[key])[1:]:
                self._check_point(first | {key: value}, {})
        if self._space.custom is not None:
            self._check_custom()

    def _check_custom(self) -> None:
        """Refuses a custom space of which no point fits that is tried: a key that is not there."""
        mistakes = []
        for point in self._space.samples(self._config):
            try:
                self.compose(point)
                return
            except SlicewiseError as error:
                mistakes.append(error)
        if mistakes:
            raise mistakes[0]

    def _check_point(self, params: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """Composes a point; says which of the row's values settles what is settled by then."""
        try:
            self.compose(params)
        except SlicewiseError as error:
            if not _is_settled_before(error):
                raise
            for key, value in row.items():
                try:
                    self.compose({key: value})
                except SlicewiseError as cause:
                    if _is_settled_before(cause):
                        override = self._space.override(key, value)
                        raise SlicewiseError(
                            f"{override}: allowed: what leaves the sweep itself as it is ({cause})"
                            f"\nA sweep of its own: {override} {study_override()}"
                        ) from error
            raise

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        try:
            return self._loader.load_sweep_config(self._config, list(overrides))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            # Hydra has a ValueError for what a config group cannot be.
            raise _mistake(error) from error

    def _plain(self, params: Mapping[str, Any]) -> list[Override]:
        """The overrides that only set a value, which no other override touches."""
        swept = self._parser.parse_overrides(
            [self._space.override(key, value) for key, value in params.items()]
        )
        setting = [override for override in swept if self._sets(override)]
        return [
            override
            for override in setting
            if override.package is None
            and not override.is_hydra_override()
            and not any(
                _touch(override, other)
                for other in [*self._settings, *setting]
                if other is not override
            )
        ]

    def _sets(self, override: Override) -> bool:
        """Whether it sets a value; a group's options are chosen before that."""
        key = override.key_or_group
        if key not in self._is_group:
            self._is_group[key] = bool(self._loader.get_group_options(key))
        return not self._is_group[key] or isinstance(override.value(), dict)


def _samples(dimension: Dimension) -> Sequence[Any]:
    """The values of a choice; of a range or an interval, its ends."""
    if dimension.texts:
        return (dimension.listed or [])[:_TRIED]
    distribution: Any = dimension.distribution
    return [distribution.low, distribution.high]


def _touch(one: Override, other: Override) -> bool:
    """Whether one key lies at or below the other."""
    a, b = split_key(one.key_or_group), split_key(other.key_or_group)
    return a[: len(b)] == b[: len(a)]


def _is_settled_before(error: SlicewiseError) -> bool:
    """Whether Hydra says that a trial would change the sweep."""
    return "before the sweep starts" in str(error)


def _is_hydras(text: str) -> bool:
    return text.lstrip("+~").startswith(("hydra.", "hydra/"))


def _mistake(error: Exception) -> SlicewiseError:
    return SlicewiseError(message_of(error) or str(error))


def check_folders(composer: TrialComposer, space: SearchSpace) -> None:
    """Refuses a `hydra.sweep.subdir` that is the same for several trials.

    Raises:
        ArgumentError: It is, or it cannot be resolved.
    """
    several = [key for key, d in space.dimensions.items() if d.size() > 1]
    endless = [key for key, d in space.dimensions.items() if math.isinf(d.size())]

    def directory(number: int, changed: Sequence[str]) -> Path:
        config = composer.compose(
            {key: d.sample(int(key in changed)) for key, d in space.dimensions.items()}
        )
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        try:
            return output_directory(config)
        except OmegaConfBaseException as error:
            raise ArgumentError(
                _SUBDIR, _subdir(config), f"what can be resolved: {error}"
            ) from error

    try:
        first = directory(0, [])
        # By chance alone, two of an endless key's values are never the same.
        if directory(1, endless) != first:
            return
        shared = [key for key in several if directory(1, [key]) == first]
        config = composer.compose({key: d.sample(0) for key, d in space.dimensions.items()})
    except SlicewiseError as error:
        if isinstance(error, ArgumentError) and error.name == _SUBDIR:
            raise
        # A point that cannot be composed; its trial will say so.
        return
    if shared or space.custom is not None:
        allowed = "a folder of its own for each trial, such as ${hydra.job.num}"
        raise ArgumentError(_SUBDIR, _subdir(config), allowed)


def _subdir(config: DictConfig) -> Any:
    sweep = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    assert isinstance(sweep, dict)
    return sweep["subdir"]


def output_directory(config: DictConfig) -> Path:
    """Where `run_job` will put the job's output, found as it does."""
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    # Not by `set_config`, which copies all of it.
    hydra_config.cfg = config  # type: ignore[assignment]
    try:
        directory = str(OmegaConf.select(config, "hydra.sweep.dir"))
        return Path(directory, str(OmegaConf.select(config, "hydra.sweep.subdir"))).absolute()
    finally:
        hydra_config.cfg = before
