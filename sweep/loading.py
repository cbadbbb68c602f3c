"""Loading the large libraries: torch, transformers, Lightning."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from slicewise.garbage import without_collecting
from slicewise.waiting import waiting_for

_FIRST = ("torch", "transformers")
# It loads torchmetrics, which loads whatever any of its measures may need, where it is installed:
# what draws, and looks through all fonts of the machine the first time; what knows of sound and
# pictures; language models, whose classes load a dozen packages. No trial needs any of that.
_LAST = "pytorch_lightning"
_UNUSED = ("matplotlib", "scipy", "torchaudio", "torchvision", "transformers")
# What knows the families of models; up to 5.17 it loads scikit-learn where that is installed, for a
# way of generating text, and pandas and scipy with it: a second.
_FAMILIES = "transformers.models.auto.modeling_auto"
_UNUSED_BY_FAMILIES = "sklearn"


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
    for name in load_one_by_one():
        if on_gpu and name == "torch":
            _start_gpu_beside()


def load_one_by_one() -> Iterator[str]:
    """As `load_libraries`; the name of each that is there, before the next is loaded."""
    for name in _FIRST:
        if name not in sys.modules:
            with _kept_for_good(), waiting_for(f"Loading {name}"):
                importlib.import_module(name)
        yield name
    if _LAST not in sys.modules:
        with _kept_for_good(), _hidden(*_UNUSED), waiting_for("Loading Lightning"):
            importlib.import_module(_LAST)
    yield _LAST
    if _FAMILIES not in sys.modules:
        with _kept_for_good(), waiting_for("Loading transformers' families of models"):
            _load_families()
    yield _FAMILIES


def _load_families() -> None:
    with _hidden(_UNUSED_BY_FAMILIES):
        importlib.import_module(_FAMILIES)
    # Transformers keeps what it has once found; whoever asks later finds what is there.
    known: Any = importlib.import_module("transformers.utils.import_utils")
    for asked in (known._is_package_available, known.is_sklearn_available):
        if hasattr(asked, "cache_clear"):
            asked.cache_clear()


@contextlib.contextmanager
def _kept_for_good() -> Iterator[None]:
    with without_collecting():
        yield
        gc.freeze()


@contextlib.contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Packages pass for not installed; afterwards all is as it was.

    What is loaded meanwhile looks for them in two ways: by their version, and as modules. Those
    that are loaded already are hidden from the first alone.
    """
    absent = [package for package in packages if package not in sys.modules]
    requirements: Any = importlib.import_module("lightning_utilities.core.imports")
    version_of = requirements._version

    def version(name: str) -> str:
        if name in packages:
            raise requirements.PackageNotFoundError(name)
        return str(version_of(name))

    requirements._version = version
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        requirements._version = version_of
        for package in absent:
            del sys.modules[package]


@functools.cache
def _start_gpu_beside() -> None:
    """Once: driver and kernels take seconds to load, and no processor."""
    threading.Thread(target=_start_gpu, name="gpu", daemon=True).start()


def _start_gpu() -> None:
    """Makes the first product of matrices; whoever needs the GPU next finds it ready."""
    import torch

    if torch.cuda.is_available():
        ones = torch.ones(8, 8, device="cuda")
        torch.mm(ones, ones)
