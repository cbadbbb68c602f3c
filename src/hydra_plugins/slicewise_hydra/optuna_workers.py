"""`hydra/sweeper=optuna_workers`: the registration; the work is in `sweep.workers.sweeper`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import MISSING, DictConfig

from slicewise.errors import SlicewiseError


@dataclass
class PrunerConfig:
    _target_: str = MISSING


@dataclass
class NopPrunerConfig(PrunerConfig):
    """Prunes nothing."""

    _target_: str = "optuna.pruners.NopPruner"


@dataclass
class MedianPrunerConfig(PrunerConfig):
    """https://optuna.readthedocs.io/en/stable/reference/generated/optuna.pruners.MedianPruner.html"""

    _target_: str = "optuna.pruners.MedianPruner"
    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    interval_steps: int = 1
    n_min_trials: int = 1


@dataclass
class SuccessiveHalvingPrunerConfig(PrunerConfig):
    """https://optuna.readthedocs.io/en/stable/reference/generated/optuna.pruners.SuccessiveHalvingPruner.html"""

    _target_: str = "optuna.pruners.SuccessiveHalvingPruner"
    min_resource: Any = "auto"
    reduction_factor: int = 4
    min_early_stopping_rate: int = 0
    bootstrap_count: int = 0


@dataclass
class HyperbandPrunerConfig(PrunerConfig):
    """https://optuna.readthedocs.io/en/stable/reference/generated/optuna.pruners.HyperbandPruner.html"""

    _target_: str = "optuna.pruners.HyperbandPruner"
    min_resource: int = 1
    max_resource: Any = "auto"
    reduction_factor: int = 3
    bootstrap_count: int = 0


@dataclass
class WilcoxonPrunerConfig(PrunerConfig):
    """https://optuna.readthedocs.io/en/stable/reference/generated/optuna.pruners.WilcoxonPruner.html"""

    _target_: str = "optuna.pruners.WilcoxonPruner"
    p_threshold: float = 0.1
    n_startup_steps: int = 2


@dataclass
class OptunaWorkersConf(OptunaSweeperConf):
    """The official sweeper's parameters, and those that workers add."""

    _target_: str = "hydra_plugins.slicewise_hydra.optuna_workers.OptunaWorkersSweeper"
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "none"}])

    # Which trials to stop early.
    pruner: PrunerConfig = MISSING

    # Finished trials (complete or pruned) of the whole study, however often it is resumed. A
    # finite search space that is no larger is run once per point.
    n_trials: int = 20

    # Number of workers. auto: one for each GPU, or group of trainer.devices GPUs; 1 on CPU.
    n_jobs: Any = 1

    # With n_jobs=auto, how many workers share a GPU; its memory must hold a fit of each.
    workers_per_gpu: int = 1

    # Failed trials, as a share of n_trials, after which the sweep stops.
    max_failure_rate: float = 0.5

    # Seconds after which no new trial starts; null: none.
    timeout: float | None = None

    # How often a trial is taken up again whose worker died.
    max_retries: int = 3

    # Seconds between two signs of life of a worker. Of a worker, or a sweep, on another machine one
    # that has shown none for six of them is taken for dead.
    heartbeat: float = 5.0

    # Whether the sweep ends with a table of its trials.
    summary: bool = True

    # What the values are called that a trial returns, a name for each direction. null: value.
    metric_names: Any = None


class OptunaWorkersSweeper(Sweeper):
    """Runs `n_jobs` long-lived workers that ask one study for trials until its budget is met."""

    def __init__(self, **parameters: Any) -> None:
        self.parameters = parameters

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config: DictConfig | None = config

    def sweep(self, arguments: list[str]) -> Any:
        from sweep.any_application import AnyApplication
        from sweep.console import exit_code_of, message_of
        from sweep.workers.sweeper import sweep

        assert self.config is not None
        assert self.hydra_context is not None
        application = AnyApplication.of(self.task_function)
        try:
            return sweep(
                config=self.config,
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                application=application,
                arguments=arguments,
                **self.parameters,
            )
        except KeyboardInterrupt as error:
            if application is None:
                raise
            # Of which Hydra would print the traceback.
            sys.exit(exit_code_of(error))
        except SlicewiseError as error:
            # Which Hydra prints in any application without a traceback.
            raise CompactHydraException(str(error)) from error
        except CompactHydraException as error:
            # Of Hydra's own mistakes this package's programs print more themselves.
            message = None if application is None else message_of(error)
            if message is None:
                raise
            raise CompactHydraException(message) from SlicewiseError(str(error))


def _register() -> None:
    store = ConfigStore.instance()
    store.store("optuna_workers", OptunaWorkersConf, "hydra/sweeper", provider="slicewise")
    pruners = {
        "none": NopPrunerConfig,
        "median": MedianPrunerConfig,
        "successive_halving": SuccessiveHalvingPrunerConfig,
        "hyperband": HyperbandPrunerConfig,
        "wilcoxon": WilcoxonPrunerConfig,
    }
    for name, node in pruners.items():
        store.store(name, node, "hydra/sweeper/pruner", provider="slicewise")


_register()
