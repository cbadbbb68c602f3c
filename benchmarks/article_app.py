"""The article's recipe as a Hydra application, for the official sweeper to drive."""

from __future__ import annotations

import hydra
from article import trial
from omegaconf import DictConfig


@hydra.main(config_path=None)
def main(config: DictConfig) -> float:
    return trial(config.qkv_layers)


if __name__ == "__main__":
    main()
