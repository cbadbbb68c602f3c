"""Every command of the README and of the documentation runs, and prints what its page says.

Blocks of a page run in order in a folder of their own, by a shell, at tiny sizes
(`tests.docs.interpreter`); how they are marked is in `tests.docs.pages`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

from tests.docs.interpreter import ONLY_COMPOSE, OVERRIDES, added, warm_python
from tests.docs.pages import ROOT, Block, blocks, pages
from tests.docs.shapes import difference
from tests.sweep.postgres import PASSWORD, find_binaries, running_server

SECONDS = 800


@pytest.fixture(scope="session")
def commands() -> Iterator[Path]:
    # A socket's path has to be short.
    with tempfile.TemporaryDirectory() as folder, warm_python(Path(folder)) as found:
        yield found


@pytest.fixture(scope="session")
def database() -> Iterator[dict[str, str]]:
    """What finds a server under any name that a page gives to it, for libpq."""
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's server is not installed")
    with running_server(binaries) as server:
        engine = sqlalchemy.create_engine(server.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            role = f"CREATE ROLE \"user\" LOGIN CREATEDB PASSWORD '{PASSWORD}'"
            connection.execute(sqlalchemy.text(role))
        engine.dispose()
        yield {
            "PGHOSTADDR": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGUSER": "user",
            "PGPASSWORD": PASSWORD,
            "PATH": f"{os.environ['PATH']}{os.pathsep}{binaries}",
        }


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_marked(page: Path) -> None:
    blocks(page.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_does_what_its_page_says(
    page: Path,
    commands: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    found = blocks(page.read_text())
    if any("postgresql" in block.text for block in found if block.kind == "run"):
        for name, value in request.getfixturevalue("database").items():
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("ROOT", str(ROOT))
    given: list[str] = []
    printed = ""
    for block in found:
        where = f"{page.relative_to(ROOT)}, line {block.line}"
        if block.kind == "file":
            path = tmp_path / block.told
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.kind in ("run", "composed"):
            given = block.told.split() if block.kind == "run" else []
            printed = as_typed(run(block, given, tmp_path, where), given)
        elif block.kind.startswith("prints"):
            promised = as_typed(block.text, given)
            other = difference(promised, printed, in_part=block.kind != "prints")
            assert not other, f"{where}:\n{other}\n{printed}"


def run(block: Block, overrides: list[str], folder: Path, where: str) -> str:
    """Runs a block as a shell, or Python, would.

    Returns:
        What it printed on its standard output; how long things take is said on the other.
    """
    environment = {**os.environ, OVERRIDES: json.dumps(overrides)}
    script = block.text
    if block.language == "python":
        source = folder / "block.py"
        source.write_text(script)
        script = f"python {source.name}"
    if block.kind == "composed":
        environment[ONLY_COMPOSE] = "yes"
        script = f'make() {{ command make -n -C "{ROOT}" "$@"; }}\n{script}'
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{where}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def as_typed(printed: str, overrides: list[str]) -> str:
    """What was printed of commands, without what the page does not have them say."""
    for words in added(overrides):
        printed = printed.replace(words, "")
    return printed
