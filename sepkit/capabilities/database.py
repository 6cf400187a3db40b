"""A SQLite database that one thread owns: jobs in, results out. A write is acknowledged when it is on the disk.

What waits for the thread is written in one transaction, so that many writers share one sync. A long reading is cut into
jobs by whoever asks, so that nothing waits behind it. Space that is not used any more is given back in small steps,
between the jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from sepkit.errors import StoreError

T = TypeVar("T")

_MOST_AT_ONCE: Final = 512
_SLACK: Final = 1024 * 1024  # bytes of the file, and of its log, that may be unused
_PAGES_A_STEP: Final = 256  # of the file that are given back at once: at 4 KiB a page, 1 MiB
_PATIENCE: Final = 5.0  # seconds for another process that writes to the same file
_INCREMENTAL: Final = 2  # SQLite's number for a file that gives space back step by step

_Job = tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


class Database:
    """A database, opened by its first job.

    Args:
        path: The database's file; its folder is made. None: in memory, gone with the database.
        schema: SQL statements that make what is missing; run each time it is opened.
        version: Of what is in the file. One that a newer sepkit has written is refused.
    """

    def __init__(self, path: Path | str | None, schema: str, *, version: int = 1) -> None:
        self.path = None if path is None else Path(path)
        self._schema = schema
        self._version = version
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def aclose(self) -> None:
        """Write what waits, and close the file."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    async def do(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """Have the thread do ``job``, in a transaction; what it returns, once that is on the disk.

        Raises:
            StoreError: The database could not be opened, read or written; or what the job raised, in its words.
        """
        if self._closed:
            raise StoreError("the store is closed")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        # A loop whose clock is not the wall's (sepkit.testing) must not run ahead of the thread.
        if (expect := getattr(loop, "expect_from_thread", None)) is not None:
            expect(done)
        self._jobs.put((job, done, loop))
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="sepkit-store", daemon=True)
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
        # Autocommit: the transactions are ours. Another process may write to the same file; it is waited for.
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
            (written,) = database.execute("PRAGMA user_version").fetchone()
            if written > self._version:
                raise StoreError(f"a newer sepkit has written it (version {written}, this one reads {self._version})")
            database.executescript(self._schema)
            if written < self._version:
                database.execute(f"PRAGMA user_version = {self._version}")
        except (sqlite3.Error, StoreError):
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
    """What can be done another time does not wait for another process that uses the file."""
    database.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        database.execute(f"PRAGMA busy_timeout = {round(_PATIENCE * 1000)}")


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
