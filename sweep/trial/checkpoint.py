"""The checkpoint of a fit that has not ended, in its trial's directory."""

from __future__ import annotations

import contextlib
import logging
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

# Beside those that callbacks of Lightning's keep.
CHECKPOINT = Path("checkpoints") / "resume.ckpt"
# As the first release called it; Lightning calls one of its own so.
_FORMER = CHECKPOINT.with_name("last.ckpt")
# What a fit cannot go on without.
_CONTENT = {"global_step", "state_dict", "optimizer_states", "loops", "callbacks"}


class Checkpoint(NamedTuple):
    """A checkpoint that is whole.

    Attributes:
        path: Where it lies.
        at_once: Steps in a batch of the fit that saved it, which has to go on in such batches;
            None where Lightning took them one by one.
    """

    path: Path
    at_once: int | None


def usable_checkpoint(directory: Path) -> Checkpoint | None:
    """The checkpoint of a trial that can be continued, None where there is none that is whole."""
    path = directory / CHECKPOINT
    former = directory / _FORMER
    if not path.exists() and former.exists() and not _is_lightnings(former):
        former.replace(path)
    if not path.exists():
        return None
    try:
        content = _verified(path)
        step, at_once = int(content["global_step"]), content.get("at_once")
    except Exception as error:  # Damaged bytes raise almost anything.
        log.warning("%s is damaged (%s): starting from zero", path, type(error).__name__)
        path.unlink()
        return None
    log.info("Going on from step %d", step)
    return Checkpoint(path, at_once)


def _verified(path: Path) -> dict[str, Any]:
    """Reads all of a checkpoint; raises where it is not what was written."""
    import torch

    with zipfile.ZipFile(path) as archive:
        # torch itself does not look at the checksums: a flipped bit would go on as a weight.
        if archive.testzip() is not None:
            raise zipfile.BadZipFile
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if not content.keys() >= _CONTENT:
        raise KeyError
    return content


def _is_lightnings(path: Path) -> bool:
    """Whether a callback of Lightning's keeps this file, beside ours or instead."""
    try:
        callbacks = _verified(path)["callbacks"]
    except Exception:  # Damaged bytes raise almost anything.
        return False
    return any(str(key).startswith("ModelCheckpoint") for key in callbacks)


def remove_checkpoint(directory: Path) -> None:
    """A finished trial keeps its student, not the state of its fit."""
    folder = (directory / CHECKPOINT).parent
    # With those that a killed process has not finished.
    for path in folder.glob(f"*{CHECKPOINT.stem}.*"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()
