"""`hydra/sweeper=optuna_workers`: the registration; the work is in `sweep.workers.sweeper`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import CompactHydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import MISSING, DictConfig, OmegaConf

from slicewise.errors import SlicewiseError
from slicewise.waiting import waiting_for


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

    _target_: str = "sweep.study.rungs.SuccessiveHalvingPruner"
    # The step of the first rung. auto: of the first report, not Optuna's hundredth of a trial.
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
class ParetoPrunerConfig(PrunerConfig):
    """Of several objectives: those that the Pareto front leaves no place for (docs/studies.md)."""

    _target_: str = "sweep.trial.pareto.ParetoPruner"
    n_startup_trials: int = 5
    n_warmup_steps: int = 0
    # As a share of the other trial's value.
    margin: float = 0.1


@dataclass
class StopConfig:
    _target_: str = MISSING


@dataclass
class NeverConfig(StopConfig):
    """The budget alone ends a study."""

    _target_: str = "sweep.study.stopping.Never"


@dataclass
class NoBetterConfig(StopConfig):
    """So many finished trials since the last that was better than all before."""

    _target_: str = "sweep.study.stopping.NoBetter"
    trials: Any = 20


@dataclass
class StepsConfig(StopConfig):
    """So many steps of all trials together; hydra.sweeper.n_trials must leave room for them."""

    _target_: str = "sweep.study.stopping.Steps"
    # Has to be given.
    steps: Any = None


@dataclass
class RegretBoundConfig(StopConfig):
    """What the best could still gain is below the error of a value: Optuna's terminator."""

    _target_: str = "sweep.study.stopping.RegretBound"
    # null: the deviation over objective.seeds, else a hundredth of the bound after 30 trials.
    error: Any = None
    min_trials: Any = 20


@dataclass
class AutoSamplerConfig:
    """https://hub.optuna.org/samplers/auto_sampler/"""

    _target_: str = "sweep.study.auto.auto_sampler"
    # The commit of OptunaHub's registry whose code is run.
    ref: str = "ee680199100edbd95e0000eb20696c3ec5505973"
    # The folder `package` of a copy of that registry; null: fetched once.
    registry: Any = None
    seed: Any = None


# Merged into what `hydra/sweeper/sampler=NAME` of the official plugin has, where this sweeper is
# chosen: Optuna's own defaults, where the plugin has others. The official sweeper keeps its.
_OPTUNAS_DEFAULTS = {
    "tpe": {
        # Keys that go together are drawn together; Optuna's default for one objective.
        "multivariate": "${tpe_multivariate:${hydra.sweeper.direction},"
        "${hydra.sweeper.custom_search_space}}",
        # Each group of keys that are asked together, where questions depend on answers.
        "group": "${tpe_group:${hydra.sweeper.sampler.multivariate},"
        "${hydra.sweeper.custom_search_space}}",
        # Workers do not all try what looks best at the moment.
        "constant_liar": True,
    },
}


@dataclass
class OptunaWorkersConf(OptunaSweeperConf):
    """The official sweeper's parameters, and those that workers add."""

    _target_: str = "hydra_plugins.slicewise_hydra.optuna_workers.OptunaWorkersSweeper"
    defaults: list[Any] = field(
        default_factory=lambda: [
            {"sampler": "tpe"},
            {"optional optunas_defaults@sampler": "${hydra/sweeper/sampler}"},
            {"pruner": "none"},
            {"stop": "none"},
        ]
    )

    # Which trials to stop early.
    pruner: PrunerConfig = MISSING

    # When to end before the budget is met.
    stop: StopConfig = MISSING

    # Finished trials (complete or pruned) of the whole study, however often it is resumed. A
    # finite search space that is no larger is run once per point.
    n_trials: int = 20

    # Number of workers. auto: one for each GPU, or group of trainer.devices GPUs; 1 on CPU.
    n_jobs: Any = 1

    # With n_jobs=auto, how many workers share a GPU; its memory must hold a fit of each.
    workers_per_gpu: int = 1

    # Trials that a worker runs side by side, at most, as far as memory goes. Each is the fit that
    # it is alone; they share batches, the teacher's answers, and a GPU that one leaves idle.
    # auto: 8 on a GPU that a worker has for itself; on a CPU 4 where the teacher is asked anew
    # (data.cache=off); else 1.
    side_by_side: Any = "auto"

    # Failed trials, as a share of n_trials, after which the sweep stops.
    max_failure_rate: float = 0.5

    # Seconds after which no new trial starts; null: none.
    timeout: float | None = None

    # How often a trial is taken up again whose worker died.
    max_retries: int = 3

    # Seconds between two signs of life of a worker. Of a worker, or a sweep, on another machine one
    # that has shown none for six of them is taken for dead.
    heartbeat: float = 5.0

    # Points that come before all that a sampler chooses: a list of maps, or a CSV file that has the
    # keys in its first row. While a sweep runs: python -m sweep.enqueue.
    enqueue: Any = None

    # Names of finished studies of the same space that the sampler learns from; they use no budget.
    warm_start: Any = None

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

        with waiting_for("Loading Optuna"):
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
    store.store("auto", AutoSamplerConfig, "hydra/sweeper/sampler", provider="slicewise")
    pruners = {
        "none": NopPrunerConfig,
        "median": MedianPrunerConfig,
        "successive_halving": SuccessiveHalvingPrunerConfig,
        "hyperband": HyperbandPrunerConfig,
        "wilcoxon": WilcoxonPrunerConfig,
        "pareto": ParetoPrunerConfig,
    }
    for name, node in pruners.items():
        store.store(name, node, "hydra/sweeper/pruner", provider="slicewise")
    stops = {
        "none": NeverConfig,
        "no_better": NoBetterConfig,
        "steps": StepsConfig,
        "regret_bound": RegretBoundConfig,
    }
    for name, rule in stops.items():
        store.store(name, rule, "hydra/sweeper/stop", provider="slicewise")
    for name, values in _OPTUNAS_DEFAULTS.items():
        store.store(name, values, "hydra/sweeper/optunas_defaults", provider="slicewise")
    OmegaConf.register_resolver("tpe_multivariate", _tpe_multivariate, replace=True)
    OmegaConf.register_resolver("tpe_group", _tpe_group, replace=True)


def _tpe_multivariate(direction: Any, custom: str | None) -> bool:
    several = isinstance(direction, Sequence) and not isinstance(direction, str)
    return custom is not None or not several or len(direction) == 1


def _tpe_group(multivariate: bool, custom: str | None) -> bool:
    return multivariate and custom is not None


_register()
