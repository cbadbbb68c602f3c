"""Standard input, output and errors, whatever becomes of those who gave them.

A fit takes hours. Whoever reads what it prints may go away meanwhile (`| head`, a terminal that is
closed), and there may have been nobody from the beginning (`>&-`).
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

_NAMES = ("stdin", "stdout", "stderr")
# There is no reader any more; the terminal is gone.
_NOBODY_READS = (errno.EPIPE, errno.EIO)


def settle_streams() -> None:
    """Has this process, and what it starts, go on where nobody reads what is printed.

    To be called before any file is opened: one that is closed gives its number to the next file,
    a database's say, into which all would be printed.
    """
    for number, name in enumerate(_NAMES):
        _open_on_nothing(number)
        stream = getattr(sys, name)
        if stream is None:
            mode = "w" if number else "r"
            stream = open(number, mode, closefd=False)  # noqa: SIM115 - as long as the process.
        elif number and stream is getattr(sys, f"__{name}__"):
            stream = _outliving(number, stream)
        setattr(sys, name, stream)


def _open_on_nothing(number: int) -> None:
    """Opens a standard stream that this process was started without; those before it are open."""
    try:
        os.fstat(number)
    except OSError:
        # Takes the lowest number that is free.
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _outliving(number: int, stream: Any) -> io.TextIOWrapper:
    """One that prints as `stream` does, as long as anybody reads it."""
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Outliving(number, "w", closefd=False)),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


class _Outliving(io.FileIO):
    """A file that becomes /dev/null once nobody reads it."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _NOBODY_READS:
                raise
        nothing = os.open(os.devnull, os.O_WRONLY)
        # Of processes that are started from here on too, and of what C prints.
        os.dup2(nothing, self.fileno())
        os.close(nothing)
        return super().write(data)
