"""What a fit ran on, in words."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import pytorch_lightning as lightning
import torch


def hardware_of(trainer: lightning.Trainer) -> str:
    """The devices of a fit, in words."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = processor()
    return f"{trainer.world_size} x {device.type}: {name}"


@functools.cache
def processor() -> str:
    """The name of this machine's CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
