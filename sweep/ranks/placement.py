"""How many ranks fit a student, and on what; read once, by whoever starts or counts them.

Imports nothing heavy: the process that starts ranks need not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from slicewise.errors import ArgumentError
from sweep.devices import visible_gpus


@dataclass(frozen=True)
class Placement:
    """Where a fit runs.

    Attributes:
        accelerator: Lightning's word for the devices of the ranks.
        devices: Ranks on each node: what `trainer.devices` comes to on this machine.
        num_nodes: Machines.
        timeout: Seconds that a rank may wait for the others: `gang.timeout`.
    """

    accelerator: str
    devices: int
    num_nodes: int
    timeout: float

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.devices * self.num_nodes

    @classmethod
    def of(cls, config: DictConfig) -> Placement:
        """Reads the application's configuration; one rank where it says nothing of a trainer.

        Raises:
            ArgumentError: A value is not allowed.
        """
        trainer = OmegaConf.select(config, "trainer") or {}
        gang = OmegaConf.select(config, "gang") or {}
        accelerator = str(trainer.get("accelerator", "auto"))
        return cls(
            accelerator,
            _devices(trainer.get("devices", 1), accelerator),
            int(trainer.get("num_nodes") or 1),
            _timeout(gang.get("timeout", 120)),
        )

    def check_num_nodes(self) -> None:
        """Refuses several nodes where this process is to start the ranks."""
        if self.num_nodes != 1:
            raise ArgumentError(
                "trainer.num_nodes",
                self.num_nodes,
                "1, unless torchrun starts the ranks",
                f"torchrun --nnodes={self.num_nodes} --nproc-per-node={self.devices} ... "
                "-m sweep trainer=ddp",
            )


def _devices(devices: Any, accelerator: str) -> int:
    """As Lightning reads it."""
    if OmegaConf.is_list(devices):
        return len(devices)
    if isinstance(devices, str) and "," in devices:
        return len([name for name in devices.split(",") if name.strip()])
    if devices in ("auto", "-1", -1, None):
        return 1 if accelerator == "cpu" else max(1, len(visible_gpus()))
    try:
        number = int(devices)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ArgumentError("trainer.devices", devices, "a number of devices, a list, or auto")
    return number


def _timeout(seconds: Any) -> float:
    if not isinstance(seconds, (int, float)) or not seconds > 0:
        raise ArgumentError("gang.timeout", seconds, "a number of seconds above 0")
    return float(seconds)
