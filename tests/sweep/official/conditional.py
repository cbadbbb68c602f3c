"""The documentation's example of a custom search space: parameters that depend on others."""

from __future__ import annotations

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from optuna.trial import Trial

ConfigStore.instance().store(
    "conditional",
    {
        "x": 1.0,
        "y": 1.0,
        "z": 1.0,
        "max_z_difference_from_x": 0.5,
        "hydra": {
            "sweeper": {
                "params": {"x": "interval(-5.5,5.5)", "y": "choice(-5,0,5)"},
                "custom_search_space": "tests.sweep.official.conditional.configure",
            }
        },
    },
)


def configure(config: DictConfig, trial: Trial) -> None:
    x = trial.params["x"]
    difference = config.max_z_difference_from_x
    trial.suggest_float("z", x - difference, x + difference)
    trial.suggest_float("+w", 0.0, 1.0)


@hydra.main(config_path=None, config_name="conditional")
def main(config: DictConfig) -> float:
    assert abs(config.z - config.x) <= config.max_z_difference_from_x
    return float(config.x**2 + config.y**2 + config.z**2 + config.w)


if __name__ == "__main__":
    main()
