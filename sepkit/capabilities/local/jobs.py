"""Jobs in the app's own database, for any number of processes that serve the app. The first job makes its tables."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar

from sepkit.capabilities.database import Database
from sepkit.contexts.backend import NOT_AGAIN, StoredJob
from sepkit.errors import JobRefused

T = TypeVar("T")

_MOST_JOBS: Final = 10_000
_MOST_BYTES: Final = 16 * 1024 * 1024  # of payloads
_MOST_STARTS: Final = 1_000  # times of a job that are remembered, the newest
_FAR: Final = 600_000  # ms; no lease ends so late, unless the clock has been put back since

_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS jobs ("
    "id TEXT PRIMARY KEY, name TEXT NOT NULL, schedule TEXT NOT NULL, due INTEGER, payload TEXT NOT NULL, user TEXT, "
    "since INTEGER NOT NULL, revision INTEGER NOT NULL, running INTEGER, repeats INTEGER NOT NULL DEFAULT 0, "
    "owner TEXT, until INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS job_starts ("
    "number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, time INTEGER NOT NULL, UNIQUE (id, time))",
    "CREATE INDEX IF NOT EXISTS job_starts_by_number ON job_starts (id, number)",
)
_COLUMNS: Final = "id, name, schedule, due, payload, user, since, revision, running, repeats"
_INSERT: Final = (
    "INSERT OR IGNORE INTO jobs (id, name, schedule, due, payload, user, since, revision, size) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?)"
)
_REPLACE: Final = (
    "UPDATE jobs SET name = ?, schedule = ?, due = ?, payload = ?, user = ?, since = ?, size = ?, "
    f"revision = revision + 1, repeats = {NOT_AGAIN} WHERE id = ?"
)


class LocalJobs:
    """The jobs of an app.

    Args:
        database: The app's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._has_tables = False

    async def _do(self, job: Callable[[sqlite3.Connection], T]) -> T:
        if self._has_tables:
            return await self._database.do(job)

        def first(database: sqlite3.Connection) -> T:
            for table in _TABLES:
                database.execute(table)
            return job(database)

        result = await self._database.do(first)
        self._has_tables = True
        return result

    async def add(self, job: StoredJob) -> None:
        """Keep a job, unless there is one with its id."""
        await self._do(lambda database: _execute(database, _INSERT, _values(job)))

    async def put(self, job: StoredJob) -> None:
        """Keep a job; one with its id is replaced."""

        def put(database: sqlite3.Connection) -> str | None:
            id_, *values = _values(job)
            count, size = database.execute(
                "SELECT count(*), coalesce(sum(size), 0) FROM jobs WHERE id <> ?", (id_,)
            ).fetchone()
            if count >= _MOST_JOBS or size + values[-1] > _MOST_BYTES:
                return f"there are {count} jobs with {size} bytes of payload, and no room for another one"
            if not database.execute(_REPLACE, (*values, id_)).rowcount:
                database.execute(_INSERT, _values(job))
            return None

        if refused := await self._do(put):
            raise JobRefused(f"job {job.id!r}: {refused}; at most {_MOST_JOBS} and {_MOST_BYTES} bytes are kept")

    async def cancel(self, id: str) -> bool:  # noqa: A002
        """Have a job not run any more; whether it would have."""

        def cancel(database: sqlite3.Connection) -> bool:
            row = database.execute("SELECT due FROM jobs WHERE id = ?", (id,)).fetchone()
            database.execute("DELETE FROM jobs WHERE id = ? AND running IS NULL", (id,))
            database.execute(
                "UPDATE jobs SET due = NULL, revision = revision + 1, repeats = ? WHERE id = ?", (NOT_AGAIN, id)
            )
            return row is not None and row[0] is not None

        return await self._do(cancel)

    async def all(self) -> list[StoredJob]:
        """All jobs, by their next time."""

        def read(database: sqlite3.Connection) -> list[StoredJob]:
            rows = database.execute(f"SELECT {_COLUMNS} FROM jobs ORDER BY due, id")
            return [StoredJob(*row) for row in rows]

        return await self._do(read)

    async def claim(
        self, owner: str, names: Collection[str], now: int, until: int, most: int, *, take_over: bool
    ) -> tuple[list[StoredJob], int | None]:
        """Claim what is due ``now``, or was cut; and when to look again."""
        given = {"owner": owner, "names": json.dumps(list(names)), "now": now, "until": until, "most": most}
        given |= {"far": now + _FAR, "take_over": take_over}
        mine = "name IN (SELECT value FROM json_each(:names)) AND owner IS NOT :owner"
        free = "(owner IS NULL OR :take_over AND (until <= :now OR until > :far))"

        def claim(database: sqlite3.Connection) -> tuple[list[StoredJob], int | None]:
            rows = database.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE {mine} AND {free} AND (running IS NOT NULL OR due <= :now) "
                "ORDER BY coalesce(running, due), id LIMIT :most",
                given,
            ).fetchall()
            database.executemany(
                "UPDATE jobs SET owner = ?, until = ? WHERE id = ?", [(owner, until, row[0]) for row in rows]
            )
            (wake,) = database.execute(
                "SELECT min(CASE WHEN owner IS NULL THEN coalesce(running, due) ELSE max(until, :now) END) "
                f"FROM jobs WHERE {mine}",
                given,
            ).fetchone()
            return [StoredJob(*row) for row in rows], wake

        return await self._do(claim)

    async def start(self, job: StoredJob, owner: str, scheduled: int, due: int | None) -> bool:
        """Note that the run for a time begins, and that ``due`` is next; whether it may begin."""

        def start(database: sqlite3.Connection) -> bool:
            is_repeated = job.running is not None
            held = (job.id, owner, job.revision)
            where = "WHERE id = ? AND owner = ? AND revision = ?"
            if database.execute(f"SELECT 1 FROM jobs {where}", held).fetchone() is None:
                _let_go(database, job.id, owner)
                return False
            if not is_repeated and job.schedule and not _is_first(database, job.id, scheduled):
                database.execute(f"UPDATE jobs SET due = ? {where}", (due, *held))
                _let_go(database, job.id, owner)
                return False
            repeats = job.repeats + 1 if is_repeated else 0
            values = (scheduled, due, repeats)
            database.execute(f"UPDATE jobs SET running = ?, due = ?, repeats = ? {where}", (*values, *held))
            return True

        return await self._do(start)

    async def finish(self, job: StoredJob, owner: str, due: int | None) -> int | None:
        """Note that the run is over, or is passed over, and let go of the job; when it is due next."""

        def finish(database: sqlite3.Connection) -> int | None:
            held = (job.id, owner, job.revision)
            database.execute("UPDATE jobs SET due = ? WHERE id = ? AND owner = ? AND revision = ?", (due, *held))
            database.execute("UPDATE jobs SET running = NULL, repeats = 0 WHERE id = ? AND owner = ?", (job.id, owner))
            _let_go(database, job.id, owner)
            database.execute(
                "DELETE FROM jobs WHERE id = ? AND due IS NULL AND running IS NULL AND owner IS NULL", (job.id,)
            )

            row = database.execute("SELECT due FROM jobs WHERE id = ? AND owner IS NULL", (job.id,)).fetchone()
            return None if row is None else row[0]

        return await self._do(finish)

    async def release(self, job: StoredJob, owner: str) -> None:
        """Let go of a job as it is."""
        await self._do(lambda database: _let_go(database, job.id, owner))

    async def renew(self, owner: str, until: int) -> None:
        """Extend all leases of an owner."""
        await self._do(lambda database: _execute(database, "UPDATE jobs SET until = ? WHERE owner = ?", (until, owner)))

    def listen(self, wake: Callable[[], None]) -> None:
        """Nothing wakes us: SQLite has no clock."""


def _values(job: StoredJob) -> tuple[Any, ...]:
    size = len(job.payload.encode())
    return job.id, job.name, job.schedule, job.due, job.payload, job.user, job.since, size


def _execute(database: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> None:
    database.execute(statement, values)


def _let_go(database: sqlite3.Connection, id_: str, owner: str) -> None:
    database.execute("UPDATE jobs SET owner = NULL, until = 0 WHERE id = ? AND owner = ?", (id_, owner))


def _is_first(database: sqlite3.Connection, id_: str, time: int) -> bool:
    """Whether this time of a repeating job is started for the first time, which is noted."""
    noted = database.execute("INSERT OR IGNORE INTO job_starts (id, time) VALUES (?, ?)", (id_, time)).rowcount
    database.execute(
        "DELETE FROM job_starts WHERE id = ? AND number <= "
        "(SELECT number FROM job_starts WHERE id = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (id_, id_, _MOST_STARTS),
    )
    return noted > 0
