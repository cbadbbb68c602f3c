"""The page of a report: one HTML file that needs nothing else, not even a network.

It reads from question to answer to evidence, whatever it is of: see `Section`. Jinja's templates
have the words and the tags, and escape whatever they are told but for what page.html.j2 says is
safe.
"""

from __future__ import annotations

import base64
import functools
import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any, Generic, TypeVar

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from sweep.report.picture import Picture

# Nothing may be fetched, from anywhere. plotly.js compiles its WebGL code.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "img-src data: blob:; worker-src blob:"
)
_OWN = "sweep.report"

# So few of them are drawn larger.
_FEW_PICTURES = 3

# What a template is told, by name.
Values = dict[str, Any]
# What a report is made of.
M = TypeVar("M")


@dataclass(frozen=True)
class Section(Generic[M]):
    """A part of the page.

    Attributes:
        name: For links to it.
        title: Above it, and in the list of sections.
        template: In `templates/sections/`, without its ending.
        values: What its template is told, besides `pictures`: those that name the section.
        row: Two in a row that name the same stand beside each other on a wide screen.
    """

    name: str
    title: str
    template: str
    values: Callable[[M], Values] = lambda material: {}
    row: str | None = None


@dataclass(frozen=True)
class Head:
    """What stands above all sections.

    Attributes:
        name: Of what is reported.
        kind: What that is.
        written: When it was read.
        state: How far it has come.
    """

    name: str
    kind: str
    written: datetime
    state: str


def page(
    head: Head,
    sections: Sequence[Section[M]],
    material: M,
    pictures: Sequence[Picture],
    package: str = _OWN,
) -> str:
    """The whole file.

    Args:
        head: What stands on top.
        sections: From first to last.
        material: What they are made of.
        pictures: Those of all sections.
        package: Has the sections' templates; what it has not is this one's.
    """
    environment = templates(package)
    told: list[Values] = []
    rows = [section.row for section in sections]
    for section in sections:
        template = environment.get_template(f"sections/{section.template}.html.j2")
        own = [picture for picture in pictures if picture.section == section.name]
        content = template.render(section.values(material), pictures=own)
        told.append(
            {
                "name": section.name,
                "title": section.title,
                "content": content,
                "is_half": section.row is not None and rows.count(section.row) == 2,
                "is_large": bool(own) and len(pictures) <= _FEW_PICTURES,
            }
        )
    return environment.get_template("page.html.j2").render(
        head=head,
        sections=told,
        pictures=pictures,
        policy=_POLICY,
        style=_asset("page.css"),
        script=_asset("page.js"),
        plotly=_plotly(),
    )


@functools.cache
def templates(package: str) -> Environment:
    """The templates; a name that they are not told is an error.

    Args:
        package: Whose. What it has not is this one's.
    """
    names = dict.fromkeys((package, _OWN))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in names]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # `tojson` writes what may stand in a script element, whatever a figure says.
    environment.policies["json.dumps_function"] = _figure_json
    environment.policies["json.dumps_kwargs"] = {}
    return environment


def _figure_json(figure: Any) -> str:
    text: str = figure.to_json()
    return text


@functools.cache
def _plotly() -> str:
    """plotly.js in two fifths of its size; the browser unpacks it."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _asset(name: str) -> str:
    return (files(_OWN) / name).read_text()
