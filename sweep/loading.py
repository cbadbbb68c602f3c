"""Loading the large libraries: torch, transformers, Lightning."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

_FIRST = ("torch", "transformers")
# It loads torchmetrics, which loads what draws, where that is installed; which looks through all
# fonts of the machine the first time. No trial draws anything.
_LAST = "pytorch_lightning"
_UNUSED = "matplotlib"


def wants_gpu(trainer: Mapping[str, Any]) -> bool:
    """Whether a Trainer of these settings takes the first GPU, if there is one."""
    accelerator, devices = trainer.get("accelerator", "auto"), trainer.get("devices", 1)
    return accelerator in ("auto", "gpu", "cuda") and devices in (1, "1", "auto")


def load_libraries(on_gpu: bool = False) -> None:
    """Loads them, once, and what a trial does without them not at all.

    Python does not look for garbage meanwhile, which takes a sixth of that time and finds none;
    what has been loaded is not looked through later either.

    Args:
        on_gpu: Whether a GPU will be needed, if there is one: it starts while the rest is loaded.
    """
    if _LAST in sys.modules:
        return
    collected = gc.isenabled()
    gc.disable()
    try:
        for name in _FIRST:
            importlib.import_module(name)
            if on_gpu and name == "torch":
                # Driver and kernels take seconds to load, and no processor.
                threading.Thread(target=_start_gpu, name="gpu", daemon=True).start()
        with _hidden(_UNUSED):
            importlib.import_module(_LAST)
    finally:
        gc.freeze()
        if collected:
            gc.enable()


@contextlib.contextmanager
def _hidden(package: str) -> Iterator[None]:
    """A package passes for not installed, unless it is loaded already; afterwards all is as it was.

    What is loaded meanwhile looks for it in two ways: as a module, and by its version.
    """
    if package in sys.modules:
        yield
        return
    requirements: Any = importlib.import_module("lightning_utilities.core.imports")
    version_of = requirements._version

    def version(name: str) -> str:
        if name == package:
            raise requirements.PackageNotFoundError(name)
        return str(version_of(name))

    requirements._version = version
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        requirements._version = version_of
        del sys.modules[package]


def _start_gpu() -> None:
    """Makes the first product of matrices; whoever needs the GPU next finds it ready."""
    import torch

    if torch.cuda.is_available():
        ones = torch.ones(8, 8, device="cuda")
        torch.mm(ones, ones)
