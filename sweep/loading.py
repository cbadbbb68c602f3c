"""Loading the large libraries: torch, Lightning, transformers."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

# What runs a trial, and imports all of them.
_TRIAL = "sweep.trial.fit"


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For loading the large libraries: collecting takes a sixth of that time, and finds nothing.

    What has been loaded is not looked through later either.
    """
    if not gc.isenabled() or _TRIAL in sys.modules:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
