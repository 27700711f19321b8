"""The one thread that writes: everything that waits shares one transaction and one fsync."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from hearth.errors import HearthError, StoreError
from hearth.store.database import explain

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]
_Job = tuple[Operation, "asyncio.Future[Any]"]
_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]

_MOST_PER_COMMIT = 1000
"""So that the first of a long line is not kept waiting for the last."""


class Writer:
    """Runs operations in order of arrival, many to one durable transaction.

    An operation that fails is undone alone and fails only its own future. A COMMIT that fails
    (disk full) fails the futures of all that shared it.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, *, tidy: Operation | None = None
    ) -> None:
        """Start the thread.

        Args:
            connection: opened for writing; from now on used by the thread only, closed by it.
            path: the database file, for messages.
            tidy: runs at the end of every transaction (retention).
        """
        self._connection = connection
        self._path = path
        self._tidy = tidy
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Queue an operation; the future resolves once its effect is committed and fsynced.

        Raises (through the future):
            StoreError: the store is closed, the disk is full, or the database is damaged.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            future.set_exception(StoreError("The store is closed"))
        else:
            self._jobs.put((operation, future))
        return future

    async def close(self) -> None:
        """Write what is queued, then close the connection."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    # --- on the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        more = True
        while more:
            jobs, more = self._take()
            if jobs:
                outcomes = self._commit(jobs)
                try:
                    self._loop.call_soon_threadsafe(_resolve, outcomes)
                except RuntimeError:
                    break  # the loop is gone, and with it everyone who waits
        self._connection.close()

    def _take(self) -> tuple[list[_Job], bool]:
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None and len(jobs) < _MOST_PER_COMMIT:
            jobs.append(job)
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return jobs, True
        if job is None:
            return jobs, False
        jobs.append(job)
        return jobs, True

    def _commit(self, jobs: list[_Job]) -> list[_Outcome]:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            outcomes = [self._attempt(operation, future) for operation, future in jobs]
            if self._tidy:
                self._tidy(connection)
            connection.execute("COMMIT")
        except Exception as error:  # whoever waits must hear of any failure
            self._roll_back()
            mapped = self._map(error)
            return [(future, None, mapped) for _, future in jobs]
        return outcomes

    def _attempt(self, operation: Operation, future: asyncio.Future[Any]) -> _Outcome:
        connection = self._connection
        connection.execute("SAVEPOINT job")
        try:
            result = operation(connection)
        except Exception as error:  # belongs to whoever asked for this operation
            if not connection.in_transaction:
                raise  # SQLite gave up the whole transaction, as it may when the disk is full
            connection.execute("ROLLBACK TO job")
            connection.execute("RELEASE job")
            return future, None, self._map(error)
        connection.execute("RELEASE job")
        return future, result, None

    def _roll_back(self) -> None:
        # With the disk gone even this may fail; the thread has to go on and answer.
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def _map(self, error: Exception) -> Exception:
        if isinstance(error, HearthError) or not isinstance(error, sqlite3.Error):
            return error
        return explain(error, self._path)


def _resolve(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue  # whoever waited has given up
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
