"""The blocks of a page, and what is to be done with each.

A mark is an HTML comment before a fenced block, which no reader of the page sees:

    <!-- run -->              its commands run, in the page's folder, each after the other
    <!-- run: KEY=VALUE -->   the same, with overrides besides those of `tests.docs.interpreter`
    <!-- prints -->           what the last block printed, but for its numbers (`tests.docs.shapes`)
    <!-- prints, in part -->  the same, of some lines in a row
    <!-- file: PATH -->       a file, written into the page's folder
    <!-- composed: WHY -->    its commands are parsed, and their configuration composed, no more
    <!-- not run: WHY -->     nothing

Every block has one. A mark without a block is what a reader has already:

    <!-- given: COMMAND -->   runs too
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FOUND = re.compile(
    r"^<!--\s*given:(?P<given>.*?)-->$"
    r"|^(?:<!--\s*(?P<mark>.*?)\s*-->\n\n?)?^(?P<fence>```+)(?P<language>.*)\n"
    r"(?P<text>(?:.*\n)*?)(?P=fence)$",
    re.M,
)
_WITH_REASON = ("composed", "not run")
_PRINTED = ("prints", "prints, in part")
_KINDS = ("run", "file", *_PRINTED, *_WITH_REASON)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        kind: The first word of its mark.
        told: What the mark says after the colon.
        language: As the fence has it.
        text: What stands in it.
        line: Of the fence, in its page.
    """

    kind: str
    told: str
    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """All that a reader may copy commands from."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: str) -> list[Block]:
    """The blocks of a page, from its first to its last.

    Args:
        page: Its text.

    Raises:
        ValueError: A block has no mark, or one that cannot be; says which, by its line.
    """
    found = []
    for match in _FOUND.finditer(page):
        if match["given"]:
            line = page.count("\n", 0, match.start()) + 1
            found.append(Block("run", "", "", match["given"].strip(), line))
            continue
        line = page.count("\n", 0, match.start("fence")) + 1
        kind, _, told = (part.strip() for part in (match["mark"] or "").partition(":"))
        if kind not in _KINDS:
            raise ValueError(f"line {line}: a block without a mark: {match['text'][:60]!r}")
        if kind in _WITH_REASON and len(told.split()) < 2:
            raise ValueError(f"line {line}: {kind}, and no reason")
        if kind in _PRINTED and (not found or found[-1].kind not in ("run", *_PRINTED)):
            raise ValueError(f"line {line}: what printed this?")
        block = Block(kind, told, match["language"].strip(), match["text"], line)
        found.append(block)
    fences = len(re.findall(r"^\s*```+", page, re.M))
    fenced = [match for match in _FOUND.finditer(page) if match["fence"]]
    if fences != 2 * len(fenced):
        raise ValueError(f"{fences} fences are not {len(fenced)} blocks: is one indented?")
    return found
