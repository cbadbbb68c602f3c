"""The documentation site: `make docs` writes it to build/docs, and warnings are errors.

The source folder is the whole repository, so that relative links are the same here as on a forge:
the front page is README.md, with the navigation that a README cannot hold. Sphinx is run there.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

import slicewise
from docs.site import commands, configuration

ROOT = Path(__file__).parents[2]

project = "slicewise"
release = slicewise.__version__
html_title = f"slicewise {release}"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]

root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/**",
    "benchmarks/results/**",
]
# All else is not looked through: it may be an environment, or the trials of a thousand studies.
_LOOKED_AT = {"docs", "benchmarks", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"}
exclude_patterns = [path.name for path in ROOT.iterdir() if path.name not in _LOOKED_AT]
exclude_patterns += ["docs/site", "**/__pycache__"]

# Anchors of headings, which links may name, as a forge makes them.
myst_heading_anchors = 4
smartquotes = False
# Blocks without a language are commands, trees of files and what is printed.
highlight_language = "text"
# `name` in a docstring; see below.
default_role = "code_or_link"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
# Lightning's and PyTorch's own words are theirs.
autodoc_inherit_docstrings = False
napoleon_use_ivar = True
toc_object_entries_show_parents = "hide"
add_module_names = False

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_favicon = "static/favicon.svg"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
# The report's colours.
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0060a8",
        "color-brand-content": "#0060a8",
        "color-code-background": "#f6f8fa",
    },
    "dark_css_variables": {"color-brand-primary": "#6cb6ff", "color-brand-content": "#6cb6ff"},
}


def _complete(app: Sphinx, docname: str, source: list[str]) -> None:
    """Adds to pages what is not written in them: the navigation, keys of `conf/`, options."""
    if docname == app.config.root_doc:
        source[0] += (Path(__file__).parent / "navigation.txt").read_text()
    if docname == "docs/reference/configuration":
        for path in configuration.sources(ROOT / "conf"):
            app.env.note_dependency(str(path))
        source[0] += configuration.reference(ROOT / "conf")
    if docname == "docs/reference/commands":
        source[0] += commands.reference()


def _code_or_link(name: str, raw: str, text: str, line: int, inliner: Any, *rest: Any) -> Any:
    """A docstring's `text`: a link where it is a name that is described here, else code."""
    if not re.fullmatch(r"[\w.]+", text):
        return [nodes.literal(raw, text)], []
    reference = inliner.document.settings.env.domains.python_domain.role("obj")
    return reference("py:obj", raw, text, line, inliner, *rest)


def _be_found(app: Sphinx, exception: Exception | None) -> None:
    """The front page under the name that servers look for."""
    if exception is None and app.builder.name == "html":
        shutil.copyfile(Path(app.outdir) / "README.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> None:
    app.add_role("code_or_link", _code_or_link)
    app.connect("source-read", _complete)
    app.connect("build-finished", _be_found)
