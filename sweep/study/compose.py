"""The configuration of a trial, composed once and then varied.

Composing reads every file of the application and takes longer than all else between two trials.
Most swept keys are plain values, which Hydra sets after composing; so here a configuration is
composed once for each choice of config groups, and a copy gets the values by Hydra's own function.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from sweep.study.space import SearchSpace

# Configurations kept, for spaces with many choices of groups.
_KEPT = 64


class TrialComposer:
    """Composes the configuration of trials, as `ConfigLoader.load_sweep_config` would.

    Args:
        config: The sweep's configuration.
        hydra_context: How Hydra composes.
        space: Gives the overrides of a trial.
    """

    def __init__(self, config: DictConfig, hydra_context: HydraContext, space: SearchSpace) -> None:
        self._config = config
        self._loader = hydra_context.config_loader
        self._space = space
        self._parser = OverridesParser.create()
        self._composed: dict[tuple[str, ...], bytes] = {}

    def compose(self, params: Mapping[str, Any]) -> DictConfig:
        """The configuration of a trial with these values, Hydra's own part included.

        Raises:
            HydraException: The overrides do not fit the configuration.
            SlicewiseError: A key is both fixed and suggested.
        """
        overrides = self._space.overrides(params)
        swept = self._parser.parse_overrides(overrides[: len(params)])
        plain = [override for override in swept if self._is_plain(override)]
        texts = {override.input_line for override in plain}
        structural = tuple(text for text in overrides if text not in texts)
        if structural not in self._composed:
            if len(self._composed) >= _KEPT:
                self._composed.clear()
            composed = self._loader.load_sweep_config(self._config, list(structural))
            self._composed[structural] = pickle.dumps(composed)
        # OmegaConf is copied several times faster this way than by deepcopy.
        config: DictConfig = pickle.loads(self._composed[structural])
        # A timestamp stays what it was in the sweep's configuration.
        OmegaConf.copy_cache(from_config=self._config, to_config=config)
        ConfigLoaderImpl._apply_overrides_to_config(plain, config)
        with open_dict(config):
            config.hydra.overrides.task = [o for o in overrides if not o.startswith("hydra.")]
        return config

    def _is_plain(self, override: Override) -> bool:
        """Whether an override only sets a value, and no other override touches the same."""
        key = override.key_or_group
        if override.package is not None or key.startswith("hydra."):
            return False
        if self._loader.get_group_options(key):
            return False
        return not any(
            fixed.lstrip("+").startswith(f"{key}.") or key.startswith(f"{fixed.lstrip('+')}.")
            for fixed in self._space.fixed
        )


def output_directory(config: DictConfig) -> Path:
    """Where `run_job` will put the job's output, found as it does."""
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
    hydra_config.set_config(config)
    try:
        directory = str(OmegaConf.select(config, "hydra.sweep.dir"))
        return Path(directory, str(OmegaConf.select(config, "hydra.sweep.subdir"))).absolute()
    finally:
        hydra_config.cfg = before
