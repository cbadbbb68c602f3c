"""What the documentation points to is there; the site's build checks anchors besides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("benchmarks", "conf", "docs", "src", "sweep")
FILES = [*ROOT.glob("*.*"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.*"))]
PAGES = [path for path in FILES if path.suffix == ".md"]
SOURCES = [path for path in FILES if path.suffix in (".py", ".yaml", ".md", ".rst", ".j2", ".toml")]


def links(page: str) -> list[str]:
    """The relative links and pictures of a page, without their anchors."""
    text = re.sub(r"^```.*?^```$|`[^`\n]+`", "", page, flags=re.M | re.S)
    found = re.findall(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)", text)
    relative = [one for one in found if not re.match(r"[a-z]+:|#", one)]
    return [one.partition("#")[0] for one in relative]


def test_links_are_told_from_code() -> None:
    page = "[a](b.md#c), ![p](d.svg) [e](https://f.org) [g](#h)\n```\n[i](j.md)\n```\n`[k](l.md)`"
    assert links(page) == ["b.md", "d.svg"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    missing = [link for link in links(page.read_text()) if not (page.parent / link).exists()]
    assert not missing


def test_pages_that_are_named_exist() -> None:
    """In comments, messages and configuration files, by their paths from the repository's root."""
    named = {
        (page, path.relative_to(ROOT))
        for path in SOURCES
        for page in re.findall(r"(?<![\w/])docs/[\w/-]+\.md", path.read_text())
    }
    assert len(named) > 20
    assert not [(page, path) for page, path in named if not (ROOT / page).is_file()]
