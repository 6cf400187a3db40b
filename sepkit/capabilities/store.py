"""What extensions keep under keys: SQLite, one namespace an extension. A write is acknowledged when it is on the disk.

One thread owns the database. What waits for it is written in one transaction, so that many writers share one sync. A
list of keys is read in pages, each a job of its own, so that nothing waits behind a long one. Space that is not used
any more is given back in small steps, between the jobs.

Source: docs/protocol.md, section 4, ``kv/*``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson

from sepkit.capabilities.kv import StoreError

T = TypeVar("T")

_MOST_AT_ONCE: Final = 512
_PAGE: Final = 1000  # keys that are read together
_PAGE_SIZE: Final = 1024 * 1024  # characters of them
_MOST_LISTED: Final = 16 * 1024 * 1024  # characters of all keys in a list: it has to fit into one line of the wire

_SLACK: Final = 1024 * 1024  # bytes of the file, and of its log, that may be unused
_PAGES_A_STEP: Final = 256  # of the file that are given back at once: at 4 KiB a page, 1 MiB
_PATIENCE: Final = 5.0  # seconds for another host that writes to the same file
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kv (
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID
"""


_INCREMENTAL: Final = 2  # SQLite's number for a file that gives space back step by step

_Job = tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


class KvStore:
    """The keys and values of all extensions.

    Args:
        path: The database's file; its folder is made. None: in memory, gone with the store.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def get(self, namespace: str, key: str) -> Any:
        """The value; None where there is none."""

        def job(database: sqlite3.Connection) -> Any:
            row = database.execute("SELECT value FROM kv WHERE namespace = ? AND key = ?", (namespace, key)).fetchone()
            return None if row is None else orjson.loads(row[0])

        return await self._do(job)

    async def set(self, namespace: str, key: str, value: object) -> None:
        """Store a value. When this returns, it survives the death of this process.

        Raises:
            StoreError: It could not be written.
            TypeError: It is no plain JSON data.
        """
        data = orjson.dumps(value)

        def job(database: sqlite3.Connection) -> None:
            database.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?)", (namespace, key, data))

        await self._do(job)

    async def delete(self, namespace: str, key: str) -> None:
        """Forget a key, known or not."""

        def job(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM kv WHERE namespace = ? AND key = ?", (namespace, key))

        await self._do(job)

    async def keys(self, namespace: str, prefix: str = "") -> list[str]:
        """The keys that begin with ``prefix``, in order. What is written meanwhile may be among them or not.

        Raises:
            StoreError: They could not be read, or are too many for one list.
        """
        found: list[str] = []
        size = 0
        after: str | None = None
        while True:
            page: list[str] = await self._do(functools.partial(_page, namespace, prefix, after))
            keys = [key for key in page if key.startswith(prefix)]
            found += keys
            size += sum(map(len, keys))
            if size > _MOST_LISTED:
                told = repr(prefix[:100])
                raise StoreError(f"the keys that begin with {told} are too many for one list: use a longer prefix")
            if not page or len(keys) < len(page):
                return found
            after = page[-1]

    async def aclose(self) -> None:
        """Write what waits, and close the file."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    async def _do(self, job: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put((job, done, loop))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sepkit-kv", daemon=True)
            self._thread.start()
        return await done

    # -- in the thread -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        database: sqlite3.Connection | None = None
        while True:
            while database is not None and self._jobs.empty() and self._give_back(database):
                pass
            if (first := self._jobs.get()) is None:
                break
            jobs = [first]
            over = False
            while len(jobs) < _MOST_AT_ONCE and not self._jobs.empty():
                following = self._jobs.get()
                if following is None:
                    over = True
                    break
                jobs.append(following)
            try:
                database = database or self._open()
            except Exception as error:  # of any kind: if this thread ends, every later call waits for ever
                self._fail(jobs, error)
            else:
                self._write(database, jobs)
                self._give_back(database)  # a store that is never idle gives space back, too
            if over:
                break
        if database is not None:
            database.close()

    def _open(self) -> sqlite3.Connection:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Readable for its owner only: extensions keep tokens. A database that exists is not opened here, because
            # closing it again would release the locks that this process holds on it.
            with contextlib.suppress(FileExistsError):
                self.path.touch(mode=0o600, exist_ok=False)
        # Autocommit: the transactions are ours. Another host may write to the same file; it is waited for.
        database = sqlite3.connect(self.path or ":memory:", isolation_level=None, timeout=_PATIENCE)
        try:
            is_incremental = database.execute("PRAGMA auto_vacuum").fetchone() == (_INCREMENTAL,)
            if not is_incremental:
                database.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f"PRAGMA journal_size_limit = {_SLACK}")
            if not is_incremental and database.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
                # A file of an earlier version can give space back only after this.
                with contextlib.suppress(sqlite3.Error), _without_waiting(database):
                    database.execute("VACUUM")
            database.execute(_SCHEMA)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _write(self, database: sqlite3.Connection, jobs: list[_Job]) -> None:
        """All of it in one transaction; what any of it gave is told once it is on the disk."""
        results: list[Any] = []
        try:
            database.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:  # not the jobs' fault; to try each alone would wait for the file again each time
            self._fail(jobs, error)
            return
        try:
            for job, _, _ in jobs:
                results.append(job(database))
            database.execute("COMMIT")
        except Exception as error:
            if database.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
            if len(jobs) == 1:
                self._fail(jobs, error)
            else:  # one of them fails alone
                for one in jobs:
                    self._write(database, [one])
            return
        for (_, done, loop), result in zip(jobs, results, strict=True):
            _settle(loop, done, result, None)

    def _give_back(self, database: sqlite3.Connection) -> bool:
        """Give a little of what is not used any more back to the system; whether there is more."""
        try:
            (unused,) = database.execute("PRAGMA freelist_count").fetchone()
            (page,) = database.execute("PRAGMA page_size").fetchone()
            more: bool = unused * page > _SLACK
            if more:
                # `execute` would take the first of its steps only, which gives one page back.
                database.executescript(f"PRAGMA incremental_vacuum({_PAGES_A_STEP})")
                (left,) = database.execute("PRAGMA freelist_count").fetchone()
                more = left < unused
            if not more and self._excess(database, page) > _SLACK:
                with _without_waiting(database):  # the file itself gets shorter with this, too
                    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:  # busy, or no room on the disk: with the next job it is tried again
            return False
        return more

    def _excess(self, database: sqlite3.Connection, page: int) -> int:
        """The bytes of the log, and of the file where that is longer than the database by now."""
        if self.path is None:
            return 0
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        log = Path(f"{self.path}-wal")
        try:
            beyond = self.path.stat().st_size - int(pages) * page
            return max(0, beyond) + (log.stat().st_size if log.exists() else 0)
        except OSError:
            return 0

    def _fail(self, jobs: list[_Job], error: Exception) -> None:
        where = "in memory" if self.path is None else str(self.path)
        for _, done, loop in jobs:
            _settle(loop, done, None, StoreError(f"the store {where} failed: {error}"))


@contextlib.contextmanager
def _without_waiting(database: sqlite3.Connection) -> Iterator[None]:
    """What can be done another time does not wait for another host that uses the file."""
    database.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        database.execute(f"PRAGMA busy_timeout = {round(_PATIENCE * 1000)}")


def _page(namespace: str, prefix: str, after: str | None, database: sqlite3.Connection) -> list[str]:
    # SQLite's own functions of text end at a NUL; its order does not, and is the order of Python's texts.
    bound, start = (">=", prefix) if after is None else (">", after)
    rows = database.execute(
        f"SELECT key FROM kv WHERE namespace = ? AND key {bound} ? ORDER BY key LIMIT {_PAGE}", (namespace, start)
    )
    keys: list[str] = []
    size = 0
    for (key,) in rows:
        keys.append(key)
        size += len(key)
        if size > _PAGE_SIZE:
            break
    return keys


def _settle(
    loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any], result: object, error: Exception | None
) -> None:
    def settle() -> None:
        if done.done():  # the caller has given up
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop has been closed, and its tasks with it
        return
