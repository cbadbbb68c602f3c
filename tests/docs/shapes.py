"""What two runs of a command print alike: words, headings, columns, rows; not their figures."""

from __future__ import annotations

import difflib
import re

_DOTS = "..."
_NUMBER = r"(?<![A-Za-z_\d])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?:%|(?![\w.]))"
_STEPS = (
    # Colours.
    (r"\x1b\[[0-9;]*m", ""),
    # Where the page's folder lies.
    (r"(?<![\w:/.])/[^\s'\",;:)]*?/(?=multirun|\.cache)", ""),
    # Names by time of day or by content.
    (r"\d{4}-\d\d-\d\d[ _]\d\d[-:]\d\d(?:[-:]\d\d)?(?:-\d+)?", "#"),
    (r"(?<![\w.])(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b", "#"),
    (r"\d+(?::\d\d)+", "#"),
    (_NUMBER, "#"),
    (r"# [kMG]?B\b", "# B"),
    # Of fits of few steps.
    (r"(?:# times|no) better than the best baseline", "# better than the best baseline"),
    # Lines of tables, and their widths.
    (r"[─━╸╺]{2,}", "─"),
    (r"[ \t]+", " "),
)


def shape(printed: str) -> str:
    """What was printed, with `#` for each figure, single spaces, and tables' rows in one order."""
    for pattern, instead in _STEPS:
        printed = re.sub(pattern, instead, printed)
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    ordered: list[str] = []
    rows: list[str] = []
    for line in [*lines, ""]:
        if line.startswith("# "):
            rows.append(line)
            continue
        ordered += [*sorted(rows), line]
        rows = []
    return "\n".join(ordered[:-1])


def difference(promised: str, printed: str, in_part: bool = False) -> str:
    """Where what was printed has another shape than what a page promises; empty where it has not.

    Args:
        promised: Of the page. A line of three dots stands for any lines, or none; three dots in a
            line for any part of it.
        printed: By the command.
        in_part: Whether it may print more before and after.
    """
    expected, found = shape(promised).splitlines(), shape(printed).splitlines()
    dots = [_DOTS] if in_part else []
    pattern = "".join(_pattern_of(line) for line in [*dots, *expected, *dots])
    if re.fullmatch(pattern, "".join(f"{line}\n" for line in found)):
        return ""
    names = ("the page", "the command")
    return "\n".join(difflib.unified_diff(expected, found, *names, n=20, lineterm=""))


def _pattern_of(line: str) -> str:
    if line == _DOTS:
        return r"(?:.*\n)*?"
    return ".*?".join(re.escape(part) for part in line.split(_DOTS)) + r"\n"
