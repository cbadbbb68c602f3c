"""The documentation's example of two directions: Binh and Korn's functions."""

from __future__ import annotations

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

ConfigStore.instance().store(
    "multi",
    {
        "x": 1.0,
        "y": 1.0,
        "hydra": {"sweeper": {"params": {"x": "range(0,5,step=0.5)", "y": "range(0,3,step=0.5)"}}},
    },
)


@hydra.main(config_path=None, config_name="multi")
def main(config: DictConfig) -> tuple[float, float]:
    x, y = float(config.x), float(config.y)
    return 4 * x**2 + 4 * y**2, (x - 5) ** 2 + (y - 5) ** 2


if __name__ == "__main__":
    main()
