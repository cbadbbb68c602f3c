"""The report and the dashboard as a person sees them: in a browser."""

from __future__ import annotations

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
from tests.waiting import eventually


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


def column_ends(page: Page, table: str = "#leaderboard table") -> dict[str, float]:
    """Where the columns of a table end in the window, by heading."""
    script = """(table) => Object.fromEntries([...document.querySelector(table).tHead.rows[0].cells]
      .map((cell) => [cell.textContent, cell.getBoundingClientRect().right]))"""
    ends: dict[str, float] = page.page.evaluate(script, table)
    return ends


def are_beside_each_other(page: Page, one: str, other: str) -> bool:
    boxes = [page.page.locator(f"#{name}").bounding_box() for name in (one, other)]
    left, right = boxes
    assert left is not None
    assert right is not None
    beside = bool(left["x"] + left["width"] <= right["x"])
    # Or below, and never over each other.
    assert left["y"] == right["y"] if beside else left["y"] + left["height"] <= right["y"]
    return beside


@pytest.mark.parametrize(
    ("n_trials", "objectives", "n_parameters"),
    [
        (1, ("valid_l1",), 4),
        (3, ("valid_l1",), 3),
        (30, ("valid_l1",), 8),
        (300, ("valid_l1", "student_parameters"), 3),
    ],
)
def test_it_fits_every_screen(
    chrome: Any, tmp_path: Path, n_trials: int, objectives: tuple[str, ...], n_parameters: int
) -> None:
    study = make_study(tmp_path, n_trials, objectives, in_memory=True, n_parameters=n_parameters)
    path = write_report(study, tmp_path / "multirun/mine", None)
    page = Page(chrome, file_url(path), width=360, dark=n_trials == 3)
    page.draw_everything()
    assert page.complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in page.requests)
    background = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 24, 29)" if n_trials == 3 else "rgb(255, 255, 255)")
    assert page.page.locator(".plot:not(:has(.main-svg))").count() == 0
    pictures = page.page.locator(".plot").count()
    assert pictures <= {1: 1, 3: 2}.get(n_trials, 20)
    for width in (360, 1280, 1920):
        page.page.set_viewport_size({"width": width, "height": 900})
        assert page.is_as_wide_as_its_window()
        assert are_beside_each_other(page, "question", "answer") == (width > 1000)
        if n_trials > 1:
            assert are_beside_each_other(page, "curves", "size") == (width > 1000)
        # What was sought is seen at once, on a phone too.
        assert column_ends(page)[objectives[0]] < width
        if width == 1280:
            ends = column_ends(page)
            results = {*objectives, "x baseline", "of slice", "seconds"}
            assert all(ends[heading] < width for heading in results if heading in ends)
            assert {*objectives, "x baseline"} <= ends.keys()
            # Of a page that is scrolled by nobody.
            parameters = [end for name, end in ends.items() if name in ("lr", "others")]
            assert min(parameters) > max(ends[h] for h in results if h in ends)
    assert ("others" in column_ends(page)) == (n_parameters == 8)
    if n_trials == 3:
        # As they are few, they are large.
        assert page.page.locator(".plot").first.bounding_box()["height"] > 500


def test_its_numbers_are_those_of_the_storage_and_are_sorted(
    chrome: Any, home: Path, study: optuna.Study
) -> None:
    page = Page(chrome, file_url(home / "multirun/mine/report.html"))
    shown = dict(zip(page.column("trial"), page.column("valid_l1"), strict=True))
    assert len(shown) == 30
    for trial in study.trials:
        value = shown[str(trial.number)]
        complete = trial.state is TrialState.COMPLETE
        assert (float(value) == trial.value) if complete else value == ""
    best = page.page.locator("#answer dd").nth(0).inner_text()
    assert int(best) == study.best_trial.number
    # A heading sorts by it both ways.
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
    # A number leads to its trial's directory.
    place = page.page.locator("#leaderboard tbody a").first
    number = place.inner_text()
    place.click()
    assert page.page.url == f"{file_url(home / 'multirun/mine')}/{number}/"
    assert "trial.json" in page.page.content()


@pytest.mark.parametrize("clipboard", ["", "refused", "absent"])
def test_a_button_copies_its_command(chrome: Any, home: Path, clipboard: str) -> None:
    page = Page(chrome, "about:blank")
    # As browsers treat a file that they do not trust.
    if clipboard == "absent":
        script = "Object.defineProperty(navigator, 'clipboard', {value: undefined})"
        page.page.add_init_script(script)
    elif clipboard == "refused":
        page.page.add_init_script(
            "navigator.clipboard.writeText = () => Promise.reject(new Error())"
        )
    else:
        page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.page.goto(file_url(home / "multirun/mine/report.html"))
    commands = page.page.locator("#commands .command")
    assert commands.count() == 4
    for number in (0, 1):
        command = commands.nth(number)
        button = command.get_by_role("button")
        assert button.get_attribute("hidden") is None
        button.focus()
        page.page.keyboard.press("Enter")
        command.get_by_text("Copied.").wait_for(state="attached")
        assert page.page.evaluate("document.activeElement.className") == "copy"
        # By what a reader would do with it.
        page.page.evaluate("document.body.append(document.createElement('textarea'))")
        page.page.locator("textarea").last.focus()
        page.page.keyboard.press("Control+V")
        pasted = page.page.locator("textarea").last.input_value()
        assert pasted == command.locator("code").inner_text()
        assert pasted.startswith(("python -m sweep -m", "python -m sweep.rerun")[number])
    assert page.complaints == []


def test_nothing_is_cut_off_on_paper(chrome: Any, tmp_path: Path) -> None:
    study = make_study(tmp_path, 30, in_memory=True, n_parameters=8)
    path = write_report(study, tmp_path / "multirun/mine", None)
    page = Page(chrome, file_url(path), width=1280, dark=True)
    page.draw_everything()
    assert page.page.pdf()[:5] == b"%PDF-"
    # What page.pdf() does, with the sheet to be looked at: A4 without its margins.
    page.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.page.emulate_media(media="print")
    page.page.set_viewport_size({"width": 702, "height": 1000})
    page.page.wait_for_timeout(200)
    wide = """() => [...document.querySelectorAll('table, .plot svg, .tiles, pre')]
      .filter((place) => place.getBoundingClientRect().right > window.innerWidth)
      .map((place) => place.outerHTML)"""
    assert page.page.evaluate(wide) == []
    cut = """() => [...document.querySelectorAll('.scroll')]
      .filter((place) => place.scrollHeight > place.clientHeight + 1).length"""
    assert page.page.evaluate(cut) == 0
    assert page.is_as_wide_as_its_window()
    # On white, and back again.
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.page.evaluate(background) == "rgb(255, 255, 255)"
    page.page.emulate_media(media="screen")
    page.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.page.evaluate(background) == "rgb(20, 24, 29)"
    assert page.page.evaluate("document.querySelector('table').style.zoom") == ""
    assert page.complaints == []


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
    assert page.page.locator(".plot").count() == 1
    assert page.page.evaluate("window.ran") is None
    assert page.complaints == []
    assert [url for url in page.requests if url.startswith("file:")] == [page.page.url]


def test_the_dashboard_is_the_home_of_a_study(chrome: Any, home: Path, study: optuna.Study) -> None:
    best = study.best_trial
    with serving(home, port=(port := free_port())) as ask:
        page = Page(chrome, f"http://127.0.0.1:{port}/dashboard")
        page.page.get_by_text("mine").first.wait_for()
        assert page.complaints == []
        page.page.get_by_text("mine").first.click()
        page.page.get_by_text(f"number={best.number}").first.wait_for()
        picture = page.page.locator(".gtitle", has_text="Loss against parameters")
        picture.wait_for()
        assert page.complaints == []
        eventually(lambda: ask("/api/studies/1")["trials"][best.number]["note"]["body"], "its note")
        page.page.goto(f"http://127.0.0.1:{port}/dashboard/studies/1/note")
        page.page.get_by_text("Question:").wait_for()
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
