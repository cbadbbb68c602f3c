"""What a result depends on besides its configuration: versions of packages and of the code."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from types import ModuleType

_RECORDED_PACKAGES = (
    "slicewise",
    "torch",
    "transformers",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "optuna",
)


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a loss."""
    return dict(_versions())


def imported_versions() -> dict[str, str]:
    """Versions of Python and of all that this process has imported and that says its own."""
    found = {"python": platform.python_version()}
    for name, module in sorted(sys.modules.items()):
        if "." not in name and name not in sys.stdlib_module_names:
            version = vars(module).get("__version__") if isinstance(module, ModuleType) else None
            if isinstance(version, str):
                found[name] = version
    return found


@functools.cache
def code_commit() -> str | None:
    """The commit of the running code, None where it is not in a git checkout of its own."""
    package = Path(__file__).parents[1]
    return commit_of(package) if (package.parent / ".git").exists() else None


@functools.cache
def commit_of(folder: Path) -> str | None:
    """The commit of a folder's code, with "-dirty" where it was changed; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
