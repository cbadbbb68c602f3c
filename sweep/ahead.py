"""A sweep's first worker is started with the command, and loads what it needs while that is read.

Until a sweep has composed its configuration and opened its study, another process has imported
Optuna and torch; it is the one that the local launcher starts first (`sweep.child.start_ahead`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweep.child import start_ahead
from sweep.devices import started_by_torchrun
from sweep.loading import load_one_by_one

# What the local launcher's processes call.
_WORKER = "sweep.workers.local._run_in_process"
_MULTIRUN = ("-m", "--multirun")
# With one of these nothing is launched, or not as it is by default.
_OTHERWISE = (
    *("-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info", "--version"),
    *("hydra/launcher=", "hydra.launcher.n_jobs=", "hydra.sweeper.n_jobs="),
    *("hydra.sweeper.workers_per_gpu=", "trainer.devices="),
)


def start_worker_ahead(arguments: Sequence[str]) -> None:
    """Starts it, where these arguments will most likely want one worker of this machine.

    Where they do not after all, it ends without having done anything.

    Args:
        arguments: Of the command.
    """
    several = any(argument in _MULTIRUN for argument in arguments) and not started_by_torchrun()
    if several and not any(a.startswith(_OTHERWISE) and not a.endswith("=1") for a in arguments):
        start_ahead(_WORKER, load)


def load() -> Iterator[None]:
    """Loads what a worker needs; between any two of its values, something."""
    import sweep.workers.local
    import sweep.workers.worker  # noqa: F401 - it is loaded, that is all.

    yield
    for _ in load_one_by_one():
        yield
