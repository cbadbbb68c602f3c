"""Passwords in the URLs of storages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slicewise.errors import ArgumentError
from sweep import rerun
from sweep.passwords import take_password, take_passwords, without_password
from tests.sweep.conftest import Sweep

HOST = "postgresql+psycopg://u{}@h:5432/db"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "before")


@pytest.mark.parametrize(
    ("url", "clean"),
    [
        ("postgresql+psycopg://u@h/db?password=s3cret", "postgresql+psycopg://u@h/db"),
        (
            "postgresql+psycopg://u@h/db?password=s3cret&sslmode=require",
            "postgresql+psycopg://u@h/db?sslmode=require",
        ),
        (
            "postgresql+psycopg://u@h/db?sslmode=require&password=s3cret",
            "postgresql+psycopg://u@h/db?sslmode=require",
        ),
        ("postgresql://u:s3cret@h/db", "postgresql://u@h/db"),
        ("postgresql://u@server:s3cret@h/db", "postgresql://u@server@h/db"),
        ("postgresql://u:s3cret@h/db?user=x@y", "postgresql://u@h/db?user=x@y"),
    ],
)
def test_a_password_goes_from_the_url_into_the_environment(url: str, clean: str) -> None:
    assert take_password(url) == clean
    assert os.environ["PGPASSWORD"] == "s3cret"
    assert without_password(f"python -m sweep 'hydra.sweeper.storage={url}'") == (
        f"python -m sweep 'hydra.sweeper.storage={clean}'"
    )


@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_any_password_is_taken_whole(password: str) -> None:
    for url in (
        HOST.format(f":{quote(password, safe='')}"),
        f"{HOST.format('')}?password={quote_plus(password)}",
    ):
        assert take_password(url) == HOST.format("")
        assert os.environ["PGPASSWORD"] == password


@given(st.text(min_size=1).filter(lambda text: text.isprintable() and "=" not in text))
@example("@/")
@example("/?@?")
@example(" ")
def test_nor_is_any_of_it_shown_where_it_was_not_encoded(password: str) -> None:
    password = f"s3{password}cret"
    clean = take_password(HOST.format(f":{password}"))
    assert clean == HOST.format("")
    if not re.search(r"\s", password):
        shown = without_password(f"--storage '{HOST.format(':' + password)}' and more")
        assert shown == f"--storage '{clean}' and more"


@pytest.mark.parametrize(
    "url",
    [
        "POSTGRESQL://u:s3cret@h/db",
        "mysql+pymysql://u:s3cret@h/db",
        "mysql+pymysql://u@h/db?password=s3cret",
        "grpc://u:s3cret@h:13000",
        "postgresql://u@h/db?sslpassword=s3cret",
        "postgresql://u:other@h/db?sslmode=require&sslpassword=s3cret",
    ],
)
def test_a_password_that_could_not_be_handed_on_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ArgumentError) as refused:
        take_password(url)
    assert "s3cret" not in str(refused.value)
    assert os.environ["PGPASSWORD"] == "before"


@pytest.mark.parametrize(
    "argument",
    [
        "logger.mlflow.tracking_uri=https://u:s3cret@h",
        "hydra.sweeper={storage: 'postgresql://u:s3cret@h/db'}",
        "+data.sources=[https://u:s3cret@h/a.txt]",
    ],
)
def test_so_is_one_in_any_other_key(argument: str) -> None:
    with pytest.raises(ArgumentError, match=r"oc\.env") as refused:
        take_passwords(["-m", argument])
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["sqlite:///multirun/studies.db", "grpc://h:13000", "postgresql://u@h/db?sslmode=require"],
)
def test_what_has_no_password_stays(url: str) -> None:
    assert take_password(url) == url
    assert os.environ["PGPASSWORD"] == "before"


def test_of_a_command_line_only_the_storage_is_changed() -> None:
    url = "postgresql://u:s3cret@h/db"
    arguments = ["-m", "study=a?password=b", f"hydra.sweeper.storage='{url}'"]
    assert take_passwords(arguments) == [
        *arguments[:2],
        "hydra.sweeper.storage='postgresql://u@h/db'",
    ]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@127.0.0.1:1/db",
        "postgresql://u:s3cret@${oc.env:NO_SUCH_HOST}/db",
        "mysql://u@h/db?password=s3cret",
    ],
)
def test_a_single_fit_and_its_repetition_do_not_save_one_of_a_file(
    sweep: Sweep, folder: Path, with_storage: Callable[[str], tuple[str, ...]], url: str
) -> None:
    """No storage is opened, but all of Hydra's configuration is saved."""
    assert sweep("study=a", *with_storage(url)) == 0
    assert rerun.main(["multirun/a/0"]) == 0
    assert (folder / "multirun/a/0/rerun-1/.hydra/hydra.yaml").is_file()
    assert not holding(folder / "multirun", "s3cret")


@pytest.mark.parametrize("sweeper", ["optuna_workers", "optuna"])
def test_nor_does_a_sweep_by_either_sweeper(
    sweep: Sweep, folder: Path, with_storage: Callable[[str], tuple[str, ...]], sweeper: str
) -> None:
    mine = with_storage("postgresql://u:s3cret@127.0.0.1:1/db")
    assert sweep("-m", "study=a", f"hydra/sweeper={sweeper}", "seed=1,2", *mine) == 1
    assert os.environ["PGPASSWORD"] == "s3cret"
    assert not holding(folder / "multirun", "s3cret")


def holding(folder: Path, secret: str) -> list[Path]:
    """The files below a folder that have a text in them."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if secret.encode() in path.read_bytes()]
