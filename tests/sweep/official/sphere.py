"""The documentation's first example: a function of two parameters, searched from hydra.sweeper."""

from __future__ import annotations

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

ConfigStore.instance().store(
    "sphere",
    {
        "defaults": ["_self_"],
        "x": 1,
        "y": 1,
        "z": 100,
        "error": False,
        "hydra": {"sweeper": {"params": {"x": "range(-5.5,5.5,step=0.5)", "y": "choice(-5,0,5)"}}},
    },
)


@hydra.main(config_path=None, config_name="sphere")
def main(config: DictConfig) -> float:
    if config.error:
        raise RuntimeError("cfg.error is True")
    x, y, w = float(config.x), float(config.y), float(config.get("w", 0.0))
    return x**2 + y**2 + w**2


if __name__ == "__main__":
    main()
