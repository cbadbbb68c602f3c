"""The page's templates: one for each section, and no text gets out of its place."""

from __future__ import annotations

import functools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from sweep.report.figures import draw
from sweep.report.material import read_material
from sweep.report.page import Section, templates
from sweep.report.picture import Picture
from sweep.report.sections import SECTIONS, study_page
from sweep.study.attributes import IDENTITY, REASON
from sweep.study.plan import Plan, write_plan
from sweep.study.presence import own_heartbeat, write_heartbeat
from sweep.study.shared import quiet_optuna
from tests.sweep.studies import make_study

PLACES = ("name", "key", "choice", "reason", "objective", "setting", "version", "caption")
# What ends a tag, an attribute, a comment or a script, and what a template would be moved by.
PIECES = [
    "<",
    ">",
    "&",
    '"',
    "'",
    "</script>",
    "<script>",
    "<!--",
    "-->",
    "]]>",
    "&lt;",
    "{{",
    "%}",
]
hostile = st.lists(st.sampled_from([*PIECES, "x", " ", "é", "\\"]), min_size=1, max_size=8)
texts = st.fixed_dictionaries({place: hostile.map("".join) for place in PLACES})


class Reader(HTMLParser):
    """Reads a page: its tags, what is in their attributes, and between them.

    Attributes:
        tags: With the names of their attributes.
        said: Texts, and values of attributes.
        scripts: What is in script elements.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.said: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(" ".join([tag, *(name for name, _ in attrs)]))
        self.said += [str(value) for _, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        (self.scripts if self.cdata_elem == "script" else self.said).append(data)

    def handle_comment(self, data: str) -> None:
        self.tags.append("a comment")


def page_of(told: dict[str, str]) -> str:
    """The page of a study in which people chose these texts."""
    quiet_optuna()
    study = optuna.create_study(study_name=told["name"])
    study.set_metric_names([told["objective"]])
    config = {"teacher": {"_target_": told["setting"], "weights": told["setting"]}}
    space = {told["key"]: {"attributes": {"choices": [told["choice"]]}}}
    study.set_user_attr(IDENTITY, {"space": space, "config": config})
    write_plan(study, Plan(3, None, f"python -m sweep {told['setting']}", told["setting"], None))
    write_heartbeat(study, "worker", "abc/0-f", own_heartbeat("abc"))
    for state in (TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL):
        trial = create_trial(
            state=state,
            params={told["key"]: told["choice"]},
            distributions={told["key"]: CategoricalDistribution([told["choice"]])},
            value=1.0 if state is TrialState.COMPLETE else None,
            user_attrs={REASON: told["reason"]} if state is TrialState.FAIL else {},
        )
        study.add_trial(trial)
    material = read_material(study, Path("multirun/mine").absolute(), None)
    for trial_material in material.trials:
        trial_material.record = {
            "versions": {told["version"]: told["version"]},
            "baselines": {told["choice"]: 1.0},
            "best_baseline": told["choice"],
            "teacher": told["setting"],
        }
    figure = go.Figure(layout={"title": {"text": told["caption"]}})
    return study_page(material, [Picture("p", "A picture", told["caption"], figure, "curves")])


@functools.cache
def harmless_tags() -> list[str]:
    return Reader(page_of({place: f"plain {place}" for place in PLACES})).tags


@settings(max_examples=60, deadline=None)
@given(told=texts)
def test_no_text_becomes_a_tag_and_none_is_lost(told: dict[str, str]) -> None:
    found = Reader(page_of(told))
    assert found.tags == harmless_tags()
    said = "".join(found.said)
    for place in ("name", "objective", "choice", "reason", "version", "caption"):
        assert told[place].strip() in said, place
    figure = found.scripts[0]
    assert "<" not in figure
    assert json.loads(figure)["layout"]["title"]["text"] == told["caption"]


def test_a_name_that_a_template_is_not_told_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        templates("sweep.report").from_string("{{ nothing }}").render()
    with pytest.raises(UndefinedError):
        templates("sweep.report").from_string("{% if told.nothing %}{% endif %}").render(told={})


def test_the_page_has_the_sections_in_their_order_and_no_template_is_left(folder: Path) -> None:
    material = read_material(make_study(folder, 12), folder / "multirun/mine", None)
    pictures = draw(material)
    text = study_page(material, pictures)
    titles = [(section.name, section.title) for section in SECTIONS]
    assert re.findall(r'<section id="(.+?)"[^>]*>\s*<h2>(.+?)</h2>', text) == titles
    assert re.findall(r'<a href="#(.+?)">(.+?)</a>', text) == titles
    assert {picture.section for picture in pictures} <= {section.name for section in SECTIONS}
    used = {f"sections/{section.template}.html.j2" for section in SECTIONS}
    assert {name for name in templates("sweep.report").list_templates() if "/" in name} == used


def test_a_section_is_a_row_and_a_template(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jinja2 import ChoiceLoader, DictLoader

    from sweep.report import sections

    def values(material: Any) -> dict[str, Any]:
        return {"n": len(material.trials)}

    new: Section[Any] = Section("weather", "The weather", "weather", values)
    monkeypatch.setattr(sections, "SECTIONS", (*SECTIONS, new))
    ours = templates("sweep.report").loader
    assert ours is not None
    template = DictLoader({"sections/weather.html.j2": "<p>{{ n }} & no clouds</p>"})
    monkeypatch.setattr(templates("sweep.report"), "loader", ChoiceLoader([ours, template]))
    text = study_page(read_material(make_study(folder, 3), folder / "multirun/mine", None), [])
    assert '<a href="#weather">The weather</a>' in text
    assert "<p>3 & no clouds</p>" in text
