"""A Hydra application whose trials cost nothing: what is left is the sweeper's own time."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


def task(config: DictConfig) -> float:
    return float(config.x) ** 2


if __name__ == "__main__":
    hydra.main(config_path=None)(task)()
