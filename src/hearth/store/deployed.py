"""Functions, their versions, and API keys as rows."""

from __future__ import annotations

import json
import sqlite3

import msgspec

from hearth.errors import Conflict
from hearth.model import Function, Key, Version

_SAVE_FUNCTION = """
INSERT INTO function (id, name, aliases, created_at, updated_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET aliases = excluded.aliases, updated_at = excluded.updated_at
"""
_SAVE_KEY = (
    "INSERT INTO api_key (id, name, scopes, secret_sha256, created_at) VALUES (?, ?, ?, ?, ?)"
)

_version = msgspec.json.Decoder(Version)


def load_functions(db: sqlite3.Connection) -> list[tuple[Function, list[Version]]]:
    """Return every function with its versions, in order."""
    versions: dict[str, list[Version]] = {}
    for function_id, data in db.execute(
        "SELECT function_id, data FROM version ORDER BY function_id, number"
    ):
        versions.setdefault(function_id, []).append(_version.decode(data))
    return [
        (
            Function(id=id_, name=name, created_at=made, updated_at=changed, aliases=json.loads(a)),
            versions.get(id_, []),
        )
        for id_, name, a, made, changed in db.execute(
            "SELECT id, name, aliases, created_at, updated_at FROM function ORDER BY name"
        )
    ]


def save_version(db: sqlite3.Connection, *, function: Function, version: Version) -> None:
    """Store a version and its function's aliases.

    Raises:
        Conflict: the version exists, or another function has the name.
    """
    aliases = json.dumps(function.aliases)
    try:
        db.execute(
            _SAVE_FUNCTION,
            (function.id, function.name, aliases, function.created_at, function.updated_at),
        )
        db.execute(
            "INSERT INTO version (function_id, number, artifact, data) VALUES (?, ?, ?, ?)",
            (function.id, version.number, version.artifact, msgspec.json.encode(version)),
        )
    except sqlite3.IntegrityError as error:
        raise Conflict(
            f"{function.name} version {version.number} cannot be stored: {error}"
        ) from error


def load_keys(db: sqlite3.Connection) -> list[Key]:
    """Return all keys, oldest first."""
    rows = db.execute(
        "SELECT id, name, scopes, secret_sha256, created_at FROM api_key ORDER BY created_at, id"
    )
    return [
        msgspec.convert(
            {
                "id": id_,
                "name": name,
                "scopes": scopes.split(),
                "secret_sha256": secret,
                "created_at": made,
            },
            Key,
        )
        for id_, name, scopes, secret, made in rows
    ]


def save_key(db: sqlite3.Connection, key: Key) -> None:
    """Store a key.

    Raises:
        Conflict: there is a key with this id.
    """
    values = (key.id, key.name, " ".join(key.scopes), key.secret_sha256, key.created_at)
    try:
        db.execute(_SAVE_KEY, values)
    except sqlite3.IntegrityError as error:
        raise Conflict(f"There is a key {key.id} already") from error
