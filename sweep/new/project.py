"""A project of one's own: the files of `template/`, under another name.

The template is such a project itself, and is checked as one: `my_package` wherever the package is
named, `my-package` where the distribution is.
"""

from __future__ import annotations

import contextlib
import keyword
import os
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from slicewise.errors import ArgumentError, SlicewiseError

TEMPLATE = Path(__file__).parent / "template"
_PACKAGE, _DISTRIBUTION = "my_package", "my-package"
# What the template is made of; whatever else lies there was left by a run of it.
_KINDS = (".py", ".yaml", ".toml", ".md")
_HIDDEN = (Path(".gitignore"),)
_LEFT = ("multirun", "outputs")
# Both what a module and what a distribution may be called.
_ALLOWED = re.compile(r"[a-z](_?[a-z0-9])*")
_ALLOWED_IN_WORDS = "lower-case letters, digits and single _ between them, a letter first"
# Folders of a project that are no package.
_TAKEN = ("conf", "tests", "multirun", "outputs")


def create(folder: Path, package: str | None = None) -> tuple[str, list[Path]]:
    """Writes a project, or nothing.

    Args:
        folder: Where; new or empty.
        package: What its package is called; None: as the folder.

    Returns:
        The package's name, and the files, relative to the folder.

    Raises:
        ArgumentError: No package can be called that.
        SlicewiseError: The folder holds something already, or cannot be written to.
    """
    folder = folder.expanduser().absolute()
    name = _checked_name(folder, package)
    files = {_renamed(path, name): path for path in template_files()}
    try:
        _check_empty(folder)
        with _all_or_nothing(folder) as made:
            for file, path in files.items():
                _make_folder((folder / file).parent, made)
                made.append(folder / file)
                text = (TEMPLATE / path).read_text(encoding="utf-8")
                (folder / file).write_text(_renamed_text(text, name), encoding="utf-8")
    except OSError as error:
        raise SlicewiseError(f"{folder}: cannot be written to: {error.strerror}") from error
    return name, sorted(files)


def template_files() -> list[Path]:
    """The files of the template, relative to it."""
    files = sorted(path.relative_to(TEMPLATE) for path in TEMPLATE.rglob("*"))
    return [path for path in files if path in _HIDDEN or _belongs(path)]


def _belongs(path: Path) -> bool:
    first = path.parts[0]
    return path.suffix in _KINDS and not first.startswith(".") and first not in _LEFT


def _checked_name(folder: Path, given: str | None) -> str:
    """What the package is called."""
    key, value = ("DIR", folder.name) if given is None else ("--name", given)
    name = re.sub(r"[-. ]+", "_", folder.name).lower() if given is None else given
    hint = _command(folder, "--name", "my_package")
    if not _ALLOWED.fullmatch(name) or keyword.iskeyword(name):
        raise ArgumentError(key, value, f"{_ALLOWED_IN_WORDS}, and no word of Python's", hint)
    if name in _TAKEN or _is_importable(name, folder):
        raise ArgumentError(key, value, f"a name that is not taken: {name} is", hint)
    return name


def _is_importable(name: str, folder: Path) -> bool:
    """Whether Python finds something else by that name, which would be in the package's way."""
    if name in sys.stdlib_module_names:
        return True
    spec = PathFinder.find_spec(name)
    if spec is None:
        return False
    # A folder without an __init__.py is a package, and so would be the project's own.
    places = [Path(place) for place in spec.submodule_search_locations or []]
    return spec.origin is not None or places != [folder]


def _check_empty(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise SlicewiseError(f"{folder} is not empty\nA new one: {_command(_beside(folder))}")
    if folder.exists() and not folder.is_dir():
        raise SlicewiseError(f"{folder} is a file\nA new one: {_command(_beside(folder))}")


def _beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-2")


def _command(folder: Path, *options: str) -> str:
    """The command for a folder, to be pasted into a shell here."""
    place = os.path.relpath(folder)
    # A name that begins so would be an option.
    place = f"./{place}" if place.startswith("-") else place
    return shlex.join(["python", "-m", "sweep.new", place, *options])


@contextlib.contextmanager
def _all_or_nothing(folder: Path) -> Iterator[list[Path]]:
    """Yields a list for what is made; if something fails, all that is in it is removed."""
    made: list[Path] = []
    try:
        _make_folder(folder, made)
        yield made
    except BaseException:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        raise


def _make_folder(folder: Path, made: list[Path]) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir()
        made.append(path)


def _renamed(path: Path, name: str) -> Path:
    return Path(*(name if part == _PACKAGE else part for part in path.parts))


def _renamed_text(text: str, name: str) -> str:
    return text.replace(_PACKAGE, name).replace(_DISTRIBUTION, name.replace("_", "-"))
