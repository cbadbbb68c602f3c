"""`multirun/STUDY/report.html` of a compression: what is on it, and whether it is so."""

from __future__ import annotations

import csv
import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slicewise.encoder.candidates import Proposal, propose
from slicewise.encoder.sliced import SlicedEncoder, original_encoder, partition
from slicewise.students.linear import Linear
from slicewise.students.low_rank import LowRank
from slicewise.teacher import random_bert
from sweep.compress.codes import read_code
from sweep.compress.material import read_compression
from sweep.compress.plans import PLANS_NAME, ChosenPlan, Plans
from sweep.compress.report import SECTIONS, write_report
from sweep.compress.result import RESULT_NAME, Result
from sweep.report.__main__ import _WRITERS
from sweep.report.__main__ import main as report
from tests.sweep.browser import Page, browser, file_url
from tests.sweep.compress.conftest import compress_in
from tests.sweep.report.test_page import Reader, hostile

ARGUMENTS = (
    "teacher=random_bert",
    "teacher.hidden_size=24",
    "teacher.num_hidden_layers=3",
    "teacher.num_attention_heads=2",
    "teacher.intermediate_size=48",
    "data.batch_size=16",
    "data.seq_length=16",
    "library.texts=128",
    "library.damage_texts=32",
    "heal.steps=10",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "study=t",
    "budget.parameters=0.5",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a compression has run."""
    return compress_in(tmp_path_factory.mktemp("home"), *ARGUMENTS)


@pytest.fixture
def study(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its folder, to be changed."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(home / "multirun/t", tmp_path / "multirun/t")


@pytest.fixture(scope="module")
def text(home: Path) -> str:
    return (home / "multirun/t/report.html").read_text()


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as instance:
        yield instance


def section(text: str, name: str) -> str:
    """One part of the page."""
    return unescape(re.split(r"</section>", re.split(rf'<section id="{name}"[^>]*>', text)[-1])[0])


def told(text: str, name: str) -> set[str]:
    """The numbers in full of one part of the page."""
    return set(re.findall(r'data-v="([^"]+)"', section(text, name)))


def figures(text: str) -> dict[str, Any]:
    """What the pictures are drawn from, by name."""
    found = re.findall(r'<script type="application/json" id="data-(.+?)">(.+?)</script>', text)
    return {name: json.loads(figure) for name, figure in found}


def trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    """One of a figure's, by the name that it has in the legend."""
    (found,) = (one for one in figure["data"] if one.get("name") == name)
    return found


def test_the_last_stage_writes_it_and_it_has_every_section(home: Path, text: str) -> None:
    titles = [(one.name, one.title) for one in SECTIONS]
    assert re.findall(r'<section id="(.+?)"[^>]*>\s*<h2>(.+?)</h2>', text) == titles
    used = {f"{one.template}.html.j2" for one in SECTIONS}
    own = Path(sys.modules["sweep.compress.report"].__file__ or "").parent / "templates/sections"
    assert {path.name for path in own.iterdir()} == used - {"versions.html.j2"}
    assert {"damage-over-budget", "additivity", "healing"} <= set(figures(text))
    assert (home / "multirun/t/report.html").stat().st_size < 8e6


def test_its_answer_is_that_of_result_json(home: Path, text: str) -> None:
    result = Result.read(home / "multirun/t")
    numbers = told(text, "answer")
    for value in (result.cosine, result.speed, result.overlap, result.docstring_cosine):
        assert repr(value) in numbers
    for figures_ in (result.original, result.result):
        assert {repr(v) for v in asdict(figures_).values() if v is not None} <= numbers
    assert repr(result.result.parameters / result.original.parameters) in numbers
    answer = section(text, "answer")
    assert f"promise {result.original.flops / result.result.flops:.2f}" in answer
    assert "SentenceTransformer('multirun/t/model')" in answer
    assert ("import slicewise\n" in answer) == (not result.is_plain)
    assert result.command in answer
    assert 'href="model/README.md"' in answer


def test_what_was_cut_is_what_the_codes_say(home: Path, text: str) -> None:
    result, layers = Result.read(home / "multirun/t"), section(text, "layers")
    rows = re.findall(r"<li.*?</li>", layers, re.DOTALL)
    assert len(rows) == len(result.candidates) == 3
    for number, (row, code) in enumerate(zip(rows, result.candidates, strict=True)):
        assert f"layer {number}<" in row
        widths = [float(width) for width in re.findall(r"<i style=\"width:([\d.]+)%", row)]
        kept = re.fullmatch(rf"L{number}/(\d+)h/(\d+)n", code)
        if kept is None:
            assert code == f"drop{number}"
            assert ">dropped<" in row
            assert "0 of 48 neurons" in row
            assert widths == [0, 0]
        else:
            heads, neurons = map(int, kept.groups())
            assert f"{heads} of 2 heads" in row
            assert f"{neurons} of 48 neurons" in row
            assert widths == pytest.approx([100 * heads / 2, 100 * neurons / 48], abs=0.01)


def test_its_curves_are_those_of_plans_json(home: Path, text: str) -> None:
    plans, drawn = Plans.read(home / "multirun/t"), figures(text)
    curve = trace(drawn["damage-over-budget"], "best plans, predicted")
    assert curve["y"] == [plan.predicted for plan in plans.curve]
    assert curve["x"] == [plan.costs["parameters"] for plan in plans.curve]
    chosen = trace(drawn["damage-over-budget"], "chosen, put together")
    assert chosen["y"] == [plan.measured for plan in plans.chosen]
    (line,) = drawn["damage-over-budget"]["layout"]["shapes"]
    assert line["x0"] == plans.budget["parameters"]
    assert f"{plans.rank_correlation:.3f}" in section(text, "additive")
    points = [
        pair
        for name in ("of the curve", "chosen")
        for one in [trace(drawn["additivity"], name)]
        for pair in zip(one["x"], one["y"], strict=True)
    ]
    measured = {p.text: p for p in (*plans.curve, *plans.chosen) if p.measured is not None}
    assert sorted(points) == sorted((p.predicted, p.measured) for p in measured.values())


def test_layers_that_stay_whole_or_go_have_a_curve(home: Path, text: str) -> None:
    plans = Plans.read(home / "multirun/t")
    assert plans.layer_reduction
    for plan in plans.layer_reduction:
        assert all(re.fullmatch(r"L\d/2h/48n|drop\d", code) for code in plan.candidates)
    line = trace(figures(text)["damage-over-budget"], "layers dropped whole")
    assert line["y"] == [plan.predicted for plan in plans.layer_reduction]
    # They are among what the other curve is chosen from.
    for plan in plans.layer_reduction:
        within = [
            p.predicted for p in plans.curve if p.costs["parameters"] <= plan.costs["parameters"]
        ]
        assert min(within, default=plan.predicted) <= plan.predicted + 1e-6


def test_a_choice_without_that_curve_is_still_read(study: Path) -> None:
    plans = json.loads((study / PLANS_NAME).read_text())
    del plans["layer_reduction"]
    (study / PLANS_NAME).write_text(json.dumps(plans))
    assert Plans.read(study).layer_reduction == []
    text = write_report(study).read_text()
    assert "layers dropped whole" not in text


def test_the_healing_is_that_of_metrics_csv(home: Path, text: str) -> None:
    result, plans = Result.read(home / "multirun/t"), Plans.read(home / "multirun/t")
    with (home / "multirun/t" / result.healed / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["valid_damage"]]
    line = trace(figures(text)["healing"], "plan 0")
    assert line["x"] == [0, *(int(row["step"]) + 1 for row in rows)]
    assert line["y"] == [plans.chosen[0].measured, *(float(row["valid_damage"]) for row in rows)]
    record = json.loads((home / "multirun/t" / result.healed / "trial.json").read_text())
    assert {repr(record["damage"]), repr(record["text_cosine"])} <= told(text, "quality")
    assert f'href="{result.healed}/"' in section(text, "quality")


def test_the_library_has_every_candidate(home: Path, text: str) -> None:
    body = section(text, "library").partition("<tbody>")[2]
    rows = {
        int(n): row for row in body.split("<tr")[1:] for n in re.findall(r'library/(\d+)/"', row)
    }
    records = [
        json.loads(p.read_text()) for p in (home / "multirun/t/library").glob("*/trial.json")
    ]
    assert len(rows) == len(records) > 30
    chosen = Result.read(home / "multirun/t").candidates
    for record in records:
        row = rows[record["number"]]
        values = re.findall(r'data-v="([^"]+)"', row)
        for name in ("student_parameters", "student_flops", "text_l1", "damage"):
            assert repr(record[name]) in values, name
        assert ('class="front"' in row) == (record["params"]["candidate"] in chosen)
    for place in ("library", "heal-"):
        assert re.search(rf'href="{place}[^"]*/report.html"', section(text, "library"))
    assert records[0]["versions"]["torch"] in section(text, "versions")


def test_the_command_writes_it_too_and_still_knows_studies(
    study: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "report.html").unlink()
    for name in ("t", "multirun/t"):
        assert report([name]) == 0
        assert capsys.readouterr().out == "multirun/t/report.html\n"
        assert "A compression by slicewise" in (study / "report.html").read_text()
    assert report(["t", "--output", "elsewhere"]) == 0
    assert capsys.readouterr().out == "elsewhere/report.html\n"
    assert 'href="../multirun/t/library/' in Path("elsewhere/report.html").read_text()
    monkeypatch.chdir(home)
    assert report(["t/library"]) == 0
    assert capsys.readouterr().out == "multirun/t/library/report.html\n"
    assert "A slicewise study" in (home / "multirun/t/library/report.html").read_text()


def test_the_command_knows_a_compression_by_its_file_and_loads_no_torch(study: Path) -> None:
    assert _WRITERS[PLANS_NAME] == "sweep.compress.report"
    program = """
import sys
from sweep.report.__main__ import main
assert main(["t"]) == 0
assert not {"torch", "pytorch_lightning", "transformers"} & set(sys.modules)
"""
    root = Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=study.parent.parent,
        env={"PYTHONPATH": f"{root}:{root / 'src'}", "PATH": "/usr/bin:/bin"},
        timeout=100,
    )


def test_a_report_that_cannot_be_written_is_a_warning(
    study: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from sweep.compress.deliver import _write_report

    (study / PLANS_NAME).write_text("{")
    _write_report(study)
    assert "Could not write the report" in caplog.text


def test_before_it_is_finished_it_shows_what_there_is(study: Path) -> None:
    (study / RESULT_NAME).unlink()
    shutil.rmtree(study / "model")
    (healing,) = study.glob("heal-*/0")
    (healing / "trial.json").unlink()
    text = write_report(study).read_text()
    assert "It is not finished" in text
    assert "Nothing has been exported yet" in section(text, "answer")
    assert "not finished" in section(text, "quality")
    assert trace(figures(text)["healing"], "plan 0, not finished")["x"][0] == 0
    shutil.rmtree(healing.parent)
    shutil.rmtree(study / "library")
    text = write_report(study).read_text()
    assert "Nothing has been logged of a healing" in section(text, "healing")
    assert "not healed" in section(text, "quality")
    assert "healing" not in figures(text)


def test_a_result_of_an_earlier_choice_is_not_shown_as_this_one(study: Path) -> None:
    plans = Plans.read(study)
    other = plans.curve[0]
    replace(plans, chosen=[other]).write(study)
    text = write_report(study).read_text()
    assert "Nothing has been exported yet" in section(text, "answer")
    assert "plan of an earlier choice (heal-" in figures(text)["healing"]["data"][0]["name"]


def test_slices_of_several_layers_and_other_families(study: Path) -> None:
    plans = Plans.read(study)
    spans, names = [[0, 1], [2, 2]], ["low_rank, rank 4", "layer 2, 1 heads, 8 neurons"]
    costs = plans.chosen[0].costs
    chosen = ChosenPlan(["low_rank0-1/rank=4", "L2/1h/8n"], names, costs, 0.1, 0.2)
    replace(plans, spans=spans, chosen=[chosen], curve=[], homogeneous=None).write(study)
    text = write_report(study).read_text()
    layers = section(text, "layers")
    rows = re.findall(r"<li.*?</li>", layers, re.DOTALL)
    assert "low_rank, rank 4, for layers 0 to 1" in rows[0]
    assert "replaced with layer 0" in rows[1]
    assert "1 of 2 heads" in rows[2]
    assert "keeps 1 of 3 layers, 1 of 6 heads, 8 of 144 neurons" in layers


@pytest.mark.parametrize("rank_correlation", [None, float("nan"), 0.2, 0.95])
def test_what_a_correlation_says(study: Path, rank_correlation: float | None) -> None:
    replace(Plans.read(study), rank_correlation=rank_correlation).write(study)
    said = section(write_report(study).read_text(), "additive")
    assert ("poor guide" in said) == (rank_correlation == 0.2)
    assert ("can be believed" in said) == (rank_correlation == 0.95)
    assert ("too few, or too much alike" in said) == (rank_correlation not in (0.2, 0.95))


@functools.cache
def original() -> SlicedEncoder:
    sizes = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32}
    return original_encoder(random_bert(num_hidden_layers=12, **sizes))


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    neurons=st.lists(st.integers(1, 32), min_size=1, max_size=3),
    heads=st.lists(st.integers(1, 4), min_size=1, max_size=2),
)
def test_every_code_is_read_as_it_was_written(
    data: st.DataObject, neurons: list[int], heads: list[int]
) -> None:
    sizes: list[int] = []
    while sum(sizes) < 12:
        sizes.append(data.draw(st.integers(1, min(4, 12 - sum(sizes)))))
    spans = partition(12, sizes)
    others: list[tuple[Any, dict[str, Any]]] = [(LowRank, {"rank": 4}), (Linear, {})]
    told = [[span.first_layer, span.end - 1] for span in spans]
    for span in spans:
        for proposal in propose(original(), span, neurons, heads, others):
            assert_read(proposal, told)


def assert_read(proposal: Proposal, spans: list[list[int]]) -> None:
    kept = read_code(proposal.code, spans)
    assert kept.name == proposal.name
    assert [kept.first, kept.last + 1] == [proposal.span.first_layer, proposal.span.end]
    assert kept.layers == proposal.layers


def test_what_is_no_code_is_an_error() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        read_code("L7/2h/4n", [(0, 1)])


@settings(max_examples=25, deadline=None)
@given(told=hostile.map("".join))
def test_no_text_becomes_a_tag(home: Path, told: str) -> None:
    assert page_with(home, told).tags == page_with(home, "plain").tags
    said = "".join(page_with(home, told).said)
    assert told.strip() in said


def page_with(home: Path, told: str) -> Reader:
    """The page where whatever people, files and machines have named is named so."""
    from sweep.compress.figures import draw
    from sweep.report.page import Head, page

    found = read_compression(home / "multirun/t")
    assert found.result is not None
    changed = {
        "teacher": told,
        "command": told,
        "hardware": told,
        "why_not_plain": told,
        "held_out": (3, told),
        "is_plain": False,
        "study": told,
    }
    plans = replace(
        found.plans,
        chosen=[replace(plan, names=[told] * 3) for plan in found.plans.chosen],
    )
    candidates = [
        replace(
            one,
            kept=replace(one.kept, layers=(), family=told, sizes=((told, told),)),
            record=replace(one.record, versions={told: told}, hardware=told),
        )
        for one in found.candidates[:3]
    ]
    failed = [replace(found.candidates[0].record, reason=told)]
    compression = replace(
        found,
        plans=plans,
        result=replace(found.result, **changed),
        candidates=candidates,
        failed=failed,
    )
    head = Head(told, "A compression", found.written, told)
    return Reader(page(head, SECTIONS, compression, draw(compression), "sweep.compress"))


@pytest.mark.parametrize(("width", "dark"), [(1100, False), (360, True)])
def test_it_holds_in_a_browser(chrome: Any, home: Path, width: int, dark: bool) -> None:
    page = Page(chrome, file_url(home / "multirun/t/report.html"), width=width, dark=dark)
    page.draw_everything()
    assert page.complaints == []
    assert page.is_as_wide_as_its_window()
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)
    assert page.page.locator(".plot").count() >= 6
    assert page.page.locator(".plot:not(:has(.main-svg))").count() == 0
    # What is kept and what was dropped are seen apart: bars have their widths.
    bars = page.page.locator(".layers .bar")
    assert bars.count() == 6
    assert all(box and box["width"] > 40 for box in (bars.nth(n).bounding_box() for n in range(6)))
    damages = [float(value) for value in page.column("damage", "#library table")]
    assert len(damages) > 30
    page.page.locator("#library th button").get_by_text("damage", exact=True).click()
    assert [float(v) for v in page.column("damage", "#library table")] == sorted(damages)
