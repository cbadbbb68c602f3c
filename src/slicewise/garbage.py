"""Python's search for garbage, put off where many objects are made and none is thrown away."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Python looks for no garbage meanwhile; afterwards as before.

    It looks each time that some hundred objects more are there than were, through more and more of
    them: imports and syntax trees make hundreds of thousands that are all in use.

    Example:
        >>> import gc
        >>> with without_collecting():
        ...     gc.isenabled()
        False
        >>> gc.isenabled()
        True
    """
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def keep_what_is_there() -> None:
    """Python never again looks through what is there now, to which most searches would go.

    What of it is garbage goes before; what becomes garbage later, in cycles, stays for good. So it
    is for a moment at which nothing that will end has begun.

    Example:
        >>> import gc
        >>> keep_what_is_there()
        >>> gc.get_freeze_count() > 1000
        True
    """
    gc.collect()
    gc.freeze()
