"""The page of a report: one HTML file that needs nothing else, not even a network.

It reads from question to answer to evidence: see `sections.py`. Jinja's templates have the words
and the tags, and escape whatever they are told but for what page.html.j2 says is safe.
"""

from __future__ import annotations

import base64
import functools
import gzip
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs

from sweep.report.material import Material
from sweep.report.picture import Picture
from sweep.report.sections import SECTIONS, Section
from sweep.view.words import counted

# Nothing may be fetched, from anywhere. plotly.js compiles its WebGL code.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "img-src data: blob:; worker-src blob:"
)


def page(material: Material, pictures: Sequence[Picture]) -> str:
    """The whole file."""
    sections = [
        {"name": s.name, "title": s.title, "content": _content(s, material, pictures)}
        for s in SECTIONS
    ]
    template = templates().get_template("page.html.j2")
    return template.render(
        name=material.name,
        written=material.written,
        state=_state(material),
        sections=sections,
        pictures=pictures,
        policy=_POLICY,
        style=_asset("page.css"),
        script=_asset("page.js"),
        plotly=_plotly(),
    )


@functools.cache
def templates() -> Environment:
    """The templates; a name that they are not told is an error."""
    environment = Environment(
        loader=PackageLoader("sweep.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # `tojson` writes what may stand in a script element, whatever a figure says.
    environment.policies["json.dumps_function"] = _figure_json
    environment.policies["json.dumps_kwargs"] = {}
    return environment


def _content(section: Section, material: Material, pictures: Sequence[Picture]) -> str:
    template = templates().get_template(f"sections/{section.template}.html.j2")
    own = [picture for picture in pictures if picture.section == section.name]
    return template.render(section.values(material), pictures=own)


def _state(material: Material) -> str:
    said = counted({state: len(material.of(state)) for state in TrialState})
    planned = f" {material.plan.n_trials} were asked for." if material.plan.n_trials else ""
    return f"Trials: {said or 'none'}.{planned}"


def _figure_json(figure: Any) -> str:
    text: str = figure.to_json()
    return text


@functools.cache
def _plotly() -> str:
    """plotly.js in two fifths of its size; the browser unpacks it."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _asset(name: str) -> str:
    return (files("sweep.report") / name).read_text()
