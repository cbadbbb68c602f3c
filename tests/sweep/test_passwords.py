"""Passwords in the URLs of storages."""

from __future__ import annotations

import os
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.passwords import take_password, take_passwords, without_password

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
