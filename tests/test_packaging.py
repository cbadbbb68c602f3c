"""The wheel, used from a folder that is not the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sweep.new.project import template_files

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content, as pip would lay it out."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    subprocess.run([*command, str(ROOT)], check=True, timeout=200)
    [wheel] = folder.glob("slicewise-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def test_it_holds_the_configuration_and_the_license(site: Path) -> None:
    checkout = {str(p.relative_to(ROOT / "conf")) for p in (ROOT / "conf").rglob("*.yaml")}
    wheel = {str(p.relative_to(site / "sweep/conf")) for p in (site / "sweep/conf").rglob("*.yaml")}
    assert wheel == checkout
    assert list(site.glob("*.dist-info/licenses/LICENSE"))


def test_it_holds_what_the_report_is_made_of(site: Path) -> None:
    report = Path("sweep/report")
    kinds = {path.suffix for path in (ROOT / report).rglob("*")} - {"", ".pyc"}
    assert kinds == {".py", ".j2", ".css", ".js"}
    for kind in kinds:
        checkout = {str(p.relative_to(ROOT)) for p in (ROOT / report).rglob(f"*{kind}")}
        assert {str(p.relative_to(site)) for p in (site / report).rglob(f"*{kind}")} == checkout


def test_it_holds_what_a_project_of_ones_own_is_made_of(site: Path) -> None:
    template = Path("sweep/new/template")
    there = {p.relative_to(site / template) for p in (site / template).rglob("*") if p.is_file()}
    assert there == set(template_files())


def test_it_sweeps_from_any_folder_and_writes_there(site: Path, tmp_path: Path) -> None:
    program = (
        "import sys, sweep, slicewise, runpy\n"
        f"assert sweep.__file__.startswith({str(site)!r}), sweep.__file__\n"
        "runpy.run_module('sweep', run_name='__main__', alter_sys=True)\n"
    )
    arguments = ["-m", "study=a", "experiment=tiny", "student.qkv_layers=0,1"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, "hydra/launcher=basic"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "multirun/a/1/student/model.safetensors").is_file()
    assert "<h2>The answer</h2>" in (tmp_path / "multirun/a/report.html").read_text()


@pytest.mark.slow
def test_a_project_of_ones_own_works_from_it(site: Path, tmp_path: Path) -> None:
    """Its tests pass at once; two workers find its package, and a trial of theirs is repeated."""

    def run(*command: str, cwd: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(site), "SLICEWISE_TRUSTED": "their_own.*"},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("sweep.new", "their-own", cwd=tmp_path)
    project = tmp_path / "their-own"
    assert " passed" in run("pytest", "-q", "-p", "no:cacheprovider", cwd=project)
    small = ("experiment=tiny", "student=mine", "data=mine", "data.train_batches=2")
    sweep = ("sweep", "--config-dir", "conf", "-m", "study=s", "hydra.sweeper.n_jobs=2")
    run(*sweep, *small, "student.width=2,3,4", cwd=project)
    assert "Identical to the bit." in run("sweep.rerun", "multirun/s/2", cwd=project)
