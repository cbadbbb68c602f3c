"""Passwords in the URLs of storages: nowhere in clear, and of use all the same.

A password that was typed into a URL goes into the environment, where the database's own client
finds it, and so do all processes that this one starts; the URL goes on without. On other machines
it has to be in PGPASSWORD or ~/.pgpass already.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, unquote_plus

_IN_AUTHORITY = re.compile(r"(?P<before>[a-z0-9+]+://[^:/@?\s]*):(?P<password>[^@/?\s]*)@")
_IN_QUERY = re.compile(r"(?P<before>[?&])(?:password|passwd)=(?P<password>[^&\s\"']*)&?")


def without_password(text: str) -> str:
    """A URL, or a text with URLs in it, without their passwords."""
    text = _IN_AUTHORITY.sub(r"\g<before>@", text)
    return re.sub(r"[?&](?=\s|$|[\"'])", "", _IN_QUERY.sub(r"\g<before>", text))


def take_password(url: str) -> str:
    """The URL without its password, which the environment has from now on.

    Args:
        url: Of any storage; only PostgreSQL's have a password.
    """
    if not url.startswith("postgresql"):
        return url
    found = _IN_AUTHORITY.search(url)
    if found is not None:
        os.environ["PGPASSWORD"] = unquote(found["password"])
    found = _IN_QUERY.search(url)
    if found is not None:
        os.environ["PGPASSWORD"] = unquote_plus(found["password"])
    return without_password(url)


def take_passwords(arguments: list[str]) -> list[str]:
    """Overrides of a command line, those with a storage's URL without its password."""
    return [_taken(argument) for argument in arguments]


def _taken(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if key.lstrip("+") != "hydra.sweeper.storage":
        return argument
    quote = value[:1] if value[:1] in ("'", '"') else ""
    return f"{key}{equals}{quote}{take_password(value[1:] if quote else value)}"
