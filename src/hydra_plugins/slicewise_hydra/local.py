"""`hydra/launcher=local`: the registration; the work is in `sweep.workers.local`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class LocalLauncherConf:
    """Several processes on this machine."""

    _target_: str = "hydra_plugins.slicewise_hydra.local.LocalLauncher"

    # Processes at a time. null: one for each job, but no more than there are CPU cores.
    n_jobs: int | None = None

    # How often a job is started again whose process died: killed, or gone without a result.
    max_restarts: int = 10

    # Seconds that jobs get to end after Ctrl-C, before they are killed.
    grace: float = 30.0

    # GPUs that each process sees. null: an equal share of those that are visible here.
    gpus_per_job: int | None = None


class LocalLauncher(Launcher):
    """Runs every job in a process of its own on this machine, several at a time.

    Args:
        n_jobs: Processes at a time; None: one for each job, at most one for each CPU core. A
            sweeper whose jobs wait for each other sets it before it launches them.
        max_restarts: How often a job is started again whose process died.
        grace: Seconds that jobs get to end after Ctrl-C, before they are killed.
        gpus_per_job: GPUs that each process sees; None: an equal share.
    """

    def __init__(
        self,
        n_jobs: int | None = None,
        max_restarts: int = 10,
        grace: float = 30.0,
        gpus_per_job: int | None = None,
    ) -> None:
        self.n_jobs = n_jobs
        self.max_restarts = max_restarts
        self.grace = grace
        self.gpus_per_job = gpus_per_job

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        from sweep.workers.local import launch

        return launch(self, job_overrides, initial_job_idx)


ConfigStore.instance().store("local", LocalLauncherConf, "hydra/launcher", provider="slicewise")
