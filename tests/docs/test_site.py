"""The documentation site: built as `make docs` does, and opened in a browser."""

from __future__ import annotations

import functools
import os
import pkgutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from sphinx.util.inventory import InventoryFile

import slicewise
from tests.sweep.browser import Page, browser

ROOT = Path(__file__).parents[2]
# WCAG's least for text, level AA.
LEGIBLE = 4.5
# The contrast of each element that holds text itself, against the nearest background behind it.
CONTRASTS = Path(__file__).with_name("contrasts.js").read_text()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once however many processes run tests; what Sphinx warns of is an error."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    site = folder / "docs"
    with FileLock(folder / "docs.lock"):
        if not site.exists():
            command = [sys.executable, "-m", "sphinx", "--builder", "html", "--fresh-env"]
            command += ["--fail-on-warning", "--keep-going", "--quiet", "--conf-dir", "docs/site"]
            command += ["--doctree-dir", str(folder / "doctrees"), ".", str(site)]
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False
            )
            assert (done.returncode, done.stderr) == (0, "")
    return site


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=site)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as instance:
        yield instance


def test_every_module_of_the_library_is_described_once(site: Path) -> None:
    described = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="").data
    packages = pkgutil.walk_packages(slicewise.__path__, "slicewise.")
    wanted = {module.name for module in packages if not module.ispkg}
    assert wanted == {name for name in described["py:module"] if name.startswith("slicewise.")}
    members = [*described["py:class"], *described["py:exception"], *described["py:function"]]
    assert {*slicewise.__all__} - {name.rpartition(".")[2] for name in members} == {"__version__"}


def test_what_is_no_name_in_a_docstring_is_code(site: Path) -> None:
    """`baseline/<name>` would be a link to `name` in reStructuredText."""
    page = (site / "docs/reference/api/fit.html").read_text()
    assert "<code" in page
    assert "baseline/&lt;name&gt;</span>" in page
    assert 'title="slicewise.losses"' in page


def test_search_finds_a_page(chrome: Any, site: Path, address: str) -> None:
    page = Page(chrome, f"{address}/index.html")
    page.page.get_by_placeholder("Search").first.fill("pgbouncer")
    page.page.keyboard.press("Enter")
    page.page.locator("#search-results a").first.wait_for()
    page.page.locator("#search-results a").first.click()
    page.page.wait_for_load_state()
    assert page.page.locator("h1").inner_text().startswith("Scaling a sweep")
    assert page.complaints == []


def test_no_page_is_wider_than_a_phone(chrome: Any, site: Path, address: str) -> None:
    """And none fetches anything from elsewhere, or complains."""
    page = Page(chrome, address, width=360)
    pages = [*site.glob("docs/**/*.html"), *site.glob("benchmarks/results/w*.html")]
    assert len(pages) > 15
    for path in pages:
        page.page.goto(f"{address}/{path.relative_to(site)}")
        assert page.is_as_wide_as_its_window(), path
        assert page.complaints == [], path
    assert all(url.startswith((address, "data:")) for url in page.requests)


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_legible(chrome: Any, address: str, dark: bool) -> None:
    for name in (
        "README",
        "docs/scaling",
        "docs/reference/configuration",
        "docs/reference/api/fit",
    ):
        page = Page(chrome, f"{address}/{name}.html", dark=dark)
        contrasts = page.page.evaluate(CONTRASTS)
        assert len(contrasts) > 100
        faint = [found for found in contrasts if found["ratio"] < LEGIBLE]
        assert faint == [], name
        page.page.close()


def test_it_is_dark_where_its_reader_is_and_where_told_to(chrome: Any, address: str) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    pages = [Page(chrome, f"{address}/index.html", dark=dark) for dark in (False, True)]
    light, dark = (page.page.evaluate(background) for page in pages)
    assert light != dark
    seen = []
    for _ in range(3):
        pages[0].page.locator(".theme-toggle:visible").click()
        seen.append(pages[0].page.evaluate(background))
    assert set(seen) == {light, dark}
