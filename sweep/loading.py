"""Loading the large libraries: torch, transformers, Lightning."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

# Before Lightning, which loads torchmetrics, which loads them: see `_hidden`.
_FIRST = ("torch", "transformers")
_LAST = "pytorch_lightning"
# What torchmetrics loads where it is installed, for plots and filters that no trial makes; and
# pyplot looks through all fonts of the machine the first time.
_UNUSED = ("matplotlib", "scipy")


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
        with _hidden(*_UNUSED):
            importlib.import_module(_LAST)
    finally:
        gc.freeze()
        if collected:
            gc.enable()


@contextlib.contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Packages pass for not installed, unless they are loaded already; afterwards all is as it was.

    What is loaded meanwhile looks for them in two ways: as modules, and by their version.
    """
    requirements: Any = importlib.import_module("lightning_utilities.core.imports")
    missing = {name for name in packages if name not in sys.modules}
    version_of = requirements._version

    def version(name: str) -> str:
        if name in missing:
            raise requirements.PackageNotFoundError(name)
        return str(version_of(name))

    requirements._version = version
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]
    try:
        yield
    finally:
        requirements._version = version_of
        for name in missing:
            del sys.modules[name]


def _start_gpu() -> None:
    """Makes the first product of matrices; whoever needs the GPU next finds it ready."""
    import torch

    if torch.cuda.is_available():
        ones = torch.ones(8, 8, device="cuda")
        torch.mm(ones, ones)
