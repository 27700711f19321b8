"""Opening the database: pragmas, migrations, the lock of a data directory, foreign errors."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from importlib import resources
from pathlib import Path

from hearth.errors import ConfigError, StoreError

_WRITER_PRAGMAS = (
    "PRAGMA auto_vacuum = INCREMENTAL",  # only effective before the first table exists
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # a COMMIT that returned survives a power cut
    "PRAGMA foreign_keys = ON",
    "PRAGMA secure_delete = FAST",  # zeroing every deleted page would double what is written
    "PRAGMA journal_size_limit = 4194304",
    "PRAGMA trusted_schema = OFF",
)
_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE"})


def explain(error: sqlite3.Error, path: Path) -> StoreError:
    """Return what a database error means to the one who runs the node."""
    code = getattr(error, "sqlite_errorname", "")
    if code in _FULL:
        return StoreError(f"The disk below {path.parent} is full: make room; nothing was stored")
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return StoreError(
            f"{path} is damaged ({error}): restore it, or move it away to start empty"
        )
    return StoreError(f"{path}: {error}")


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open for writing, creating a file that only its owner may read: it holds environments.

    Raises:
        StoreError: the file is damaged or cannot be written.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror}") from error
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        for pragma in _WRITER_PRAGMAS:
            connection.execute(pragma).fetchall()
    except sqlite3.Error as error:
        connection.close()
        raise explain(error, path) from error
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open for reading only."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        timeout=5,
        isolation_level=None,
        check_same_thread=False,
    )


# --- migrations --------------------------------------------------------------------------------


def migrations() -> list[tuple[int, str]]:
    """Return the packaged migrations as (number, SQL), in order."""
    files = (resources.files(__package__) / "sql").iterdir()
    return sorted((int(f.name[:4]), f.read_text("utf-8")) for f in files if f.name.endswith(".sql"))


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema forward, all or nothing.

    Raises:
        ConfigError: the database was written by a newer Hearth.
        StoreError: the file is damaged, or the disk is full.
    """
    known = migrations()
    try:
        connection.execute("BEGIN EXCLUSIVE")
        try:
            _apply(connection, known, path)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _apply(connection: sqlite3.Connection, known: list[tuple[int, str]], path: Path) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (number INTEGER NOT NULL)")
    row = connection.execute("SELECT number FROM schema_version").fetchone()
    current = row[0] if row else 0
    if current > known[-1][0]:
        raise ConfigError(
            f"{path} has schema {current}, this Hearth knows {known[-1][0]}: run the newer version"
        )
    for number, script in known:
        if number > current:
            for statement in _statements(script):
                connection.execute(statement)
    connection.execute("DELETE FROM schema_version")
    connection.execute("INSERT INTO schema_version VALUES (?)", (known[-1][0],))


def _statements(script: str) -> list[str]:
    # `executescript` commits the transaction it is called in, so the script is split here.
    found, statement = [], ""
    for piece in script.split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            found.append(statement)
            statement = ""
    return found


# --- one node per data directory ---------------------------------------------------------------


class DirectoryLock:
    """Keeps a second node out of a data directory; given up with the process, however it ends."""

    def __init__(self, directory: Path) -> None:
        """Lock `directory/lock`.

        Raises:
            ConfigError: another node has it.
        """
        self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise ConfigError(
                f"{directory} is in use by another node (process {holder or 'unknown'}):"
                " stop it, or give this one its own --data-dir"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let another node in."""
        os.close(self._fd)
