"""The article's recipe under Ray Tune, which searches a grid. Needs `ray[tune]`.

Ray runs as many trials at a time as there are cores, each on one of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import tune


def trial(config: dict[str, Any]) -> dict[str, float]:
    from article import trial

    return {"valid_l1": trial(config["qkv_layers"])}


if __name__ == "__main__":
    tuner = tune.Tuner(
        trial,
        param_space={"qkv_layers": tune.grid_search([1, 2, 4])},
        run_config=tune.RunConfig(storage_path=str(Path.cwd())),
    )
    results = tuner.fit()
    if results.errors:
        raise SystemExit(str(results.errors))
    print(results.get_best_result("valid_l1", "min").config)
