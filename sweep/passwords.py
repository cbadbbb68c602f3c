"""Passwords in the URLs of storages: nowhere in clear, and of use all the same.

A password that was typed into a URL goes into the environment, where the database's own client
finds it, and so do all processes that this one starts; the URL goes on without. On other machines
it has to be in PGPASSWORD or ~/.pgpass already.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from slicewise.errors import ArgumentError
from sweep.overrides import override_text

_STORAGE = "hydra.sweeper.storage"
# A password ends at the last @ before the query, whatever else stands in it uncoded.
_IN_AUTHORITY = re.compile(
    r"(?P<before>[a-z][a-z0-9+.-]*://[^:/?\s]*):"
    r"(?P<password>(?:(?!\?\w+=)\S)*|[^@\s]*)@",
    re.I,
)
_IN_QUERY = re.compile(
    r"(?P<before>[?&])(?P<name>password|passwd|sslpassword)=(?P<password>[^&\s\"']*)&?", re.I
)


def without_password(text: str) -> str:
    """A URL, or a text with URLs in it, without their passwords."""
    text = _IN_AUTHORITY.sub(r"\g<before>@", text)
    return re.sub(r"[?&](?=\s|$|[\"'])", "", _IN_QUERY.sub(r"\g<before>", text))


def take_password(url: str) -> str:
    """The URL without its password, which the environment has from now on.

    Args:
        url: Of any storage.

    Raises:
        ArgumentError: It has one that no environment hands on: PostgreSQL's clients alone look
            there, for one.
    """
    # In a text a space ends a URL; in a URL that stands alone it is part of it.
    url = re.sub(r"\s", lambda found: quote(found[0]), url)
    clean = without_password(url)
    if clean == url:
        return url
    in_query = list(_IN_QUERY.finditer(url))
    if not url.startswith("postgresql") or any(f["name"] == "sslpassword" for f in in_query):
        raise ArgumentError(
            _STORAGE,
            clean,
            "a URL without a password, which would be saved with every trial",
            "In a file that its client reads: ?service=NAME, of ~/.pg_service.conf, for "
            "PostgreSQL; ?read_default_file=PATH for MySQL",
        )
    in_authority = _IN_AUTHORITY.search(url)
    if in_authority is not None:
        os.environ["PGPASSWORD"] = unquote(in_authority["password"])
    for found in in_query:
        os.environ["PGPASSWORD"] = unquote_plus(found["password"])
    return clean


def take_passwords(arguments: list[str]) -> list[str]:
    """Overrides of a command line, those with a storage's URL without its password.

    Raises:
        ArgumentError: Another key has a URL with a password in it, or the storage's has one that
            cannot be handed on.
    """
    return [_taken(argument) for argument in arguments]


def take_password_of(config: DictConfig) -> None:
    """Takes the password of a sweep's storage, out of all that its jobs save of Hydra's part.

    Args:
        config: Hydra's own part included, whose storage is null, or a text.

    Raises:
        ArgumentError: It is one that cannot be handed on.
    """
    storage = OmegaConf.select(config, _STORAGE)
    url = storage if storage is None else take_password(storage)
    if url == storage:
        return
    given: Any = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
    # Where the URL is from a file, or the environment, jobs would find it there again.
    last = f"{_STORAGE}={override_text(url)}"
    with read_write(config.hydra), open_dict(config.hydra):
        config.hydra.sweeper.storage = url
        config.hydra.overrides.hydra = [*take_passwords(given), last]


def leave_out_password(hydra: DictConfig) -> None:
    """Has a single job save Hydra's part without the password of a storage that it does not open.

    Args:
        hydra: That part. What it takes from the environment is saved as that, and stays.
    """
    sweeper: Any = OmegaConf.to_container(hydra.sweeper, resolve=False)
    storage = sweeper.get("storage")
    if isinstance(storage, str) and without_password(storage) != storage:
        with read_write(hydra):
            hydra.sweeper.storage = without_password(storage)


def _taken(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if key.lstrip("+") != _STORAGE:
        shown = _IN_AUTHORITY.sub(r"\g<before>@", value)
        if shown != value:
            raise ArgumentError(
                key,
                shown,
                "a URL without a password, which would be saved with every trial",
                f"From the environment: {key}='${{oc.env:NAME}}'",
            )
        return argument
    mark = value[:1] if value[:1] in ("'", '"') else ""
    return f"{key}{equals}{mark}{take_password(value[len(mark) :].removesuffix(mark))}{mark}"
