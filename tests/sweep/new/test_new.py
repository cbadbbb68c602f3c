"""A project of one's own: written whole or not at all. That it works: tests/test_packaging.py."""

from __future__ import annotations

import ast
import keyword
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement

import slicewise
from slicewise.errors import SlicewiseError
from sweep.console import MISTAKE
from sweep.new import project
from sweep.new.__main__ import main
from sweep.new.project import TEMPLATE, create, template_files
from tests.sweep.conftest import Sweep


def _written(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_it_is_the_template_under_another_name(folder: Path) -> None:
    assert main(["My-Own.students"]) == 0
    project = folder / "My-Own.students"
    files = _written(project)
    assert files == {
        Path(*("my_own_students" if part == "my_package" else part for part in path.parts))
        for path in template_files()
    }
    texts = {path: (project / path).read_text() for path in files}
    assert not [path for path, text in texts.items() if "my_package" in text or "my-pack" in text]
    for path, text in texts.items():
        if path.suffix == ".py":
            ast.parse(text)
    assert "python -m pytest\nSLICEWISE_TRUSTED='my_own_students.*'" in texts[Path("README.md")]
    described = tomllib.loads(texts[Path("pyproject.toml")])
    assert described["project"]["name"] == "my-own-students"
    [needed] = map(Requirement, described["project"]["dependencies"])
    assert needed.name == "slicewise"
    assert needed.specifier.contains(slicewise.__version__)


def test_its_experiment_is_fitted(
    sweep: Sweep, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["their_own"]) == 0
    monkeypatch.syspath_prepend(folder / "their_own")
    monkeypatch.setenv("SLICEWISE_TRUSTED", "their_own.*")
    small = ("teacher=random_bert", "teacher.hidden_size=24", "teacher.num_hidden_layers=2")
    small += ("teacher.num_attention_heads=2", "teacher.intermediate_size=32")
    small += ("data.batch_size=2", "data.seq_length=8", "debug=fast", "student.width=2,4")
    conf = ("--config-dir", "their_own/conf")
    assert sweep("-m", *conf, "study=s", "experiment=mine", *small) == 0
    kept = folder / "multirun/s/1/student"
    assert type(slicewise.load_student(kept)).__module__ == "their_own.student"


@pytest.mark.parametrize("existing", ["nothing", "an empty folder", "the working directory"])
def test_the_folder_may_be_new_or_empty(
    existing: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = folder / "a" / "project_x"
    given = str(place)
    if existing != "nothing":
        place.mkdir(parents=True)
    if existing == "the working directory":
        monkeypatch.chdir(place)
        given = "."
    assert main([given]) == 0
    assert (place / "project_x" / "student.py").is_file()
    said = capsys.readouterr().out
    assert ("  cd " in said) == (given != ".")
    assert "SLICEWISE_TRUSTED='project_x.*' python -m sweep --config-dir conf" in said


@pytest.mark.parametrize(
    "place", ["full", "full/file", "3d", "a/b c/class", "it's mine", "über", "-x", ".", "$x"]
)
def test_the_command_that_a_mistake_names_works(
    place: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = folder / "class"
    (here / "full").mkdir(parents=True)
    (here / "full" / "file").touch()
    monkeypatch.chdir(here)
    assert main(["--", place]) == MISTAKE
    _, command = capsys.readouterr().err.splitlines()
    python, *typed = shlex.split(command[command.index("python -m sweep.new") :])
    assert (python, typed[:2]) == ("python", ["-m", "sweep.new"])
    if place == ".":
        shutil.rmtree(here / "full")
    assert main(typed[2:]) == 0
    made, beside = here / place, place.startswith("full")
    assert made.with_name(f"{made.name}-2").is_dir() if beside else (made / "conf").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["3d"], "DIR=3d: allowed: lower-case letters, digits and single _ between them"),
        (["été"], "DIR=été: allowed: lower-case"),
        (["class"], "DIR=class: allowed: lower-case letters"),
        (["torch"], "DIR=torch: allowed: a name that is not taken: torch is"),
        (["conf"], "DIR=conf: allowed: a name that is not taken"),
        (["json"], "DIR=json: allowed: a name that is not taken"),
        (["x", "--name", "my-package"], "--name=my-package: allowed: lower-case letters"),
        (["x", "--name", "slicewise"], "--name=slicewise: allowed: a name that is not taken"),
        (["full"], "full is not empty"),
        (["full/file"], "full/file is a file"),
        (["full/file/below"], "below: cannot be written to: Not a directory"),
    ],
)
def test_mistakes_are_one_message_and_nothing_is_written(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    before = sorted(folder.rglob("*"))
    assert main(arguments) == MISTAKE
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(folder.rglob("*")) == before


def test_what_cannot_be_written_whole_leaves_nothing(folder: Path) -> None:
    """A path so long that there is room for some of the files alone."""
    longest = 4095 - len("/conf/data/mine.yaml")
    place = folder
    while len(str(place)) < longest - 200:
        place = place / ("d" * 150)
    place = place / ("e" * (longest - len(str(place)) - 1))
    with pytest.raises(SlicewiseError, match="cannot be written to: File name too long"):
        create(place, "fine")
    assert not list(folder.iterdir())


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20)
)
def test_any_folder_has_a_package_or_an_error(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    try:
        package, files = create(folder / name)
    except SlicewiseError:
        assert not _written(folder)
        return
    assert package.isidentifier()
    assert not keyword.iskeyword(package)
    assert _written(folder / name) == set(files)


def test_help_loads_nothing_heavy(folder: Path) -> None:
    program = (
        "import sys\n"
        "from sweep.new.__main__ import main\n"
        "try:\n    main(['--help'])\n"
        "finally:\n    assert not {'torch', 'optuna', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "python -m sweep.new [-h] [--name PACKAGE] DIR" in done.stdout


def test_what_a_run_leaves_in_the_template_is_no_part_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(TEMPLATE, folder / "template")
    monkeypatch.setattr(project, "TEMPLATE", folder / "template")
    before = template_files()
    assert Path(".gitignore") in before
    for left in (
        ".pytest_cache/README.md",
        ".mypy_cache/.gitignore",
        "multirun/s/0/.hydra/config.yaml",
        "my_package/__pycache__/data.cpython-311.pyc",
    ):
        (folder / "template" / left).parent.mkdir(parents=True, exist_ok=True)
        (folder / "template" / left).touch()
    assert template_files() == before
