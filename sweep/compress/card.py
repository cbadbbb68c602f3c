"""The model card of a result: what it is, what was measured, on what, and what made it."""

from __future__ import annotations

import functools

from jinja2 import Environment, PackageLoader, StrictUndefined

import slicewise
from sweep.compress.result import Result


def model_card(result: Result) -> str:
    """The text of `README.md`, with the header that the Hugging Face hub reads."""
    template = _templates().get_template("card.md.j2")
    return template.render(result=result, version=slicewise.__version__)


@functools.cache
def _templates() -> Environment:
    # Markdown: nothing to escape but what is told as code.
    return Environment(
        loader=PackageLoader("sweep.compress"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
