"""The report and the dashboard as a person sees them: in a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweep.report import write_report
from sweep.study.shared import quiet_optuna
from tests.sweep.browser import Page, browser, file_url
from tests.sweep.studies import make_study
from tests.sweep.test_dashboard import free_port, serving


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browser() as instance:
        yield instance


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of thirty trials, and its report."""
    folder = tmp_path_factory.mktemp("home")
    write_report(make_study(folder, 30), folder / "multirun/mine")
    return folder


@pytest.fixture(scope="module")
def study(home: Path) -> optuna.Study:
    url = f"sqlite:///{home}/multirun/studies.db"
    return optuna.load_study(study_name="mine", storage=url)


def test_the_report_is_whole_and_needs_no_network(chrome: Any, home: Path) -> None:
    page = Page(chrome, file_url(home / "multirun/mine/report.html"))
    page.draw_everything()
    assert page.complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)
    empty = page.page.locator(".plot:not(:has(.main-svg))")
    assert empty.count() == 0


@pytest.mark.parametrize("dark", [False, True])
def test_it_holds_on_a_phone(chrome: Any, home: Path, dark: bool) -> None:
    page = Page(chrome, file_url(home / "multirun/mine/report.html"), width=360, dark=dark)
    page.draw_everything()
    assert page.complaints == []
    assert page.is_as_wide_as_its_window()
    background = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")


def test_its_numbers_are_those_of_the_storage(chrome: Any, home: Path, study: optuna.Study) -> None:
    page = Page(chrome, file_url(home / "multirun/mine/report.html"))
    shown = dict(zip(page.column("trial"), page.column("valid_l1"), strict=True))
    assert len(shown) == 30
    for trial in study.trials:
        value = shown[str(trial.number)]
        complete = trial.state is TrialState.COMPLETE
        assert (float(value) == trial.value) if complete else value == ""
    best = page.page.locator("#answer dd").nth(0).inner_text()
    assert int(best) == study.best_trial.number


def test_a_heading_sorts_by_it_both_ways(chrome: Any, home: Path, study: optuna.Study) -> None:
    page = Page(chrome, file_url(home / "multirun/mine/report.html"))
    complete = [t for t in study.trials if t.state is TrialState.COMPLETE]
    page.press("valid_l1")
    rising = [float(value) for value in page.column("valid_l1") if value]
    assert rising == sorted(t.value for t in complete)
    page.press("valid_l1")
    assert [float(value) for value in page.column("valid_l1") if value] == rising[::-1]
    # What has no value stays last.
    assert page.column("valid_l1")[len(rising) :] == [""] * (30 - len(rising))
    page.press("parameters")
    sizes = [int(value) for value in page.column("parameters") if value]
    assert sizes == sorted(sizes)
    page.press("trial")
    assert page.column("trial") == [str(number) for number in range(30)]


def test_a_number_leads_to_the_trials_directory(chrome: Any, home: Path) -> None:
    page = Page(chrome, file_url(home / "multirun/mine/report.html"))
    place = page.page.locator("#leaderboard tbody a").first
    number = place.inner_text()
    place.click()
    assert page.page.url == f"{file_url(home / 'multirun/mine')}/{number}/"
    assert "trial.json" in page.page.content()


def test_names_that_look_like_code_are_shown_and_not_run(chrome: Any, tmp_path: Path) -> None:
    hostile = """<!--<script>window.ran=1</script> "'&amp; <img src=x onerror=window.ran=1>"""
    quiet_optuna()
    study = optuna.create_study(study_name=hostile)
    study.set_metric_names([hostile])
    space = {hostile: optuna.distributions.CategoricalDistribution([hostile, "x"])}
    for value, choice in enumerate(2 * [hostile, "x"]):
        study.add_trial(
            optuna.create_trial(value=value, params={hostile: choice}, distributions=space)
        )
    page = Page(chrome, file_url(write_report(study, tmp_path, None)))
    page.draw_everything()
    assert page.page.locator("h1").inner_text() == hostile
    assert page.page.locator(".plot").count() == 3
    assert page.page.evaluate("window.ran") is None
    assert page.complaints == []
    assert [url for url in page.requests if url.startswith("file:")] == [page.page.url]


def test_the_dashboard_is_the_home_of_a_study(chrome: Any, home: Path, study: optuna.Study) -> None:
    best = study.best_trial
    with serving(home, port=(port := free_port())) as ask:
        page = Page(chrome, f"http://127.0.0.1:{port}/dashboard")
        page.page.get_by_text("mine").first.wait_for(timeout=30_000)
        assert page.complaints == []
        page.page.get_by_text("mine").first.click()
        page.page.get_by_text(f"number={best.number}").first.wait_for(timeout=30_000)
        picture = page.page.locator(".gtitle", has_text="Loss against parameters")
        picture.wait_for(timeout=30_000)
        assert page.complaints == []
        deadline = time.monotonic() + 30
        while not ask("/api/studies/1")["trials"][best.number]["note"]["body"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        page.page.goto(f"http://127.0.0.1:{port}/dashboard/studies/1/note")
        page.page.get_by_text("Question:").wait_for(timeout=30_000)
        assert "python -m sweep -m student.qkv_layers=1,2,4" in page.page.inner_text("main pre")
        table = page.page.locator("table", has_text="x baseline")
        assert table.locator("a").first.inner_text() == str(best.number)
        # What nobody is to read.
        assert "sweep.dashboard " not in page.page.inner_text("main").replace("-m sweep.dash", "")
        table.locator("a").first.click()
        page.page.get_by_text(str(home / "multirun/mine" / str(best.number))).first.wait_for()
        said = page.page.inner_text("main")
        assert f"Trial {best.number} " in said
        assert "smaller is better" in said
        assert f"python -m sweep.rerun multirun/mine/{best.number}" in said
        assert page.complaints == []
