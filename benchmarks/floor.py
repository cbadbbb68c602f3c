"""The least that a trial can cost between Hydra and Optuna: python benchmarks/floor.py URL TRIALS

Optuna's ask, suggest and tell, and Hydra's `run_job` on a configuration that is composed once and
copied: no claims, no workers, no retries, nothing composed again. benchmarks/overhead.py runs it
beside the sweepers.
"""

from __future__ import annotations

import pickle
import sys

import optuna
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import run_job
from hydra.types import HydraContext, RunMode
from noop import task
from omegaconf import OmegaConf, open_dict


def main(url: str, name: str, trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    hydra = Hydra.create_main_hydra2("noop", create_config_search_path(None))
    overrides = ["+x=0.5", "hydra.sweep.dir=multirun"]
    sweep = hydra.compose_config(None, overrides, RunMode.MULTIRUN)
    composed = pickle.dumps(hydra.config_loader.load_sweep_config(sweep, ["+x=0.5"]))
    context = HydraContext(hydra.config_loader, Callbacks())
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(study_name=name, storage=url, sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        config = pickle.loads(composed)
        with open_dict(config):
            config.x = x
            config.hydra.job.id = str(trial.number)
            config.hydra.job.num = trial.number
            config.hydra.overrides.task = OmegaConf.create([f"+x={x}"])
        job = run_job(
            hydra_context=context,
            task_function=task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        study.tell(trial, job.return_value)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
