"""A SQLite database that one thread owns: jobs in, results out. A write is acknowledged when it is on the disk.

What waits for the thread is written in one transaction, so that many writers share one sync. What only reads, and may
take long, goes to a second thread with a connection of its own: no write waits behind it. Space that is not used any
more is given back in small steps, between the jobs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
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

Job = Callable[[sqlite3.Connection], T]
_Job = tuple[Job[Any], asyncio.Future[Any], asyncio.AbstractEventLoop]
_Queue = queue.SimpleQueue[_Job | None]


class Database:
    """A database, opened by its first job.

    Args:
        path: The database's file; its folder is made. None: in memory, gone with the database.
        schema: SQL statements that make what is missing; run each time it is opened.
        version: Of what is in the file. One that a newer sepkit has written is refused.
        elsewhere: What to do in order to have the file elsewhere, for people who read that it can't be used.
    """

    def __init__(
        self, path: Path | str | None, schema: str, *, version: int = 1, elsewhere: str = "name another folder"
    ) -> None:
        self.path = None if path is None else Path(path)
        self.prepared: set[object] = set()
        """What the parts that share it have made in it; emptied when it is opened."""
        self._schema = schema
        self._version = version
        self._elsewhere = elsewhere
        self._writer = _Worker("sepkit-store", self._work)
        self._reader = _Worker("sepkit-store-reads", self._read)
        self._closed = False

    async def aclose(self) -> None:
        """Write what waits, and close the file."""
        self._closed = True
        threads = [thread for thread in (self._reader.end(), self._writer.end()) if thread is not None]
        for thread in threads:
            await asyncio.get_running_loop().run_in_executor(None, thread.join)

    def rest(self) -> None:
        """Let go of the file and of the threads, until the next job. For one that is idle, and is not in memory."""
        self._reader.end()
        self._writer.end()

    @property
    def idle(self) -> bool:
        """Whether no caller waits for it, and nothing is kept in memory."""
        return self.path is not None and not self._writer.waiting and not self._reader.waiting

    async def do(self, job: Job[T]) -> T:
        """Have the thread do ``job``, in a transaction; what it returns, once that is on the disk.

        Raises:
            StoreError: The database could not be opened, read or written; or what the job raised, in its words.
        """
        return await self._ask(self._writer, job)

    async def read(self, job: Job[T]) -> T:
        """Have ``job``, which only reads, done beside what is written. It sees each write that has been acknowledged.

        Of a database in memory there is one connection only: it waits for its turn as in :meth:`do`.

        Raises:
            StoreError: As :meth:`do`.
        """
        return await self._ask(self._writer if self.path is None else self._reader, job)

    def release(self, job: Job[object]) -> None:
        """As :meth:`read`, for a caller that does not wait."""
        if not self._closed:
            loop = asyncio.get_running_loop()
            (self._writer if self.path is None else self._reader).put((job, loop.create_future(), loop))

    async def _ask(self, worker: _Worker, job: Job[T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        if (expect := getattr(loop, "expect_from_thread", None)) is not None:  # the clock of a test stands still
            expect(done)
        worker.waiting += 1
        try:
            worker.put((job, done, loop))
            return await done
        finally:
            worker.waiting -= 1

    # -- in the thread that writes -------------------------------------------------------------------------------------

    def _work(self, jobs_in: _Queue) -> None:
        database: sqlite3.Connection | None = None
        while True:
            while database is not None and jobs_in.empty() and self._give_back(database):
                pass
            if (first := jobs_in.get()) is None:
                break
            jobs = [first]
            over = False
            while len(jobs) < _MOST_AT_ONCE and not jobs_in.empty():
                following = jobs_in.get()
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
        self.prepared.clear()
        if self.path is not None:
            # Readable for its owner only: extensions keep tokens. A database that exists is not opened here, because
            # closing it again would release the locks that this process holds on it.
            _make_folder(self.path.parent)
            with contextlib.suppress(FileExistsError):
                self.path.touch(mode=0o600, exist_ok=False)
        # Autocommit: the transactions are ours. Another process may write to the same file; it is waited for.
        database = sqlite3.connect(self.path or ":memory:", isolation_level=None, timeout=_PATIENCE)
        try:
            is_incremental = database.execute("PRAGMA auto_vacuum").fetchone() == (_INCREMENTAL,)
            if not is_incremental:
                database.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
            (written,) = database.execute("PRAGMA user_version").fetchone()
            if written > self._version:  # asked before anything is written to it
                raise _Refused(
                    f"a newer sepkit has written it (version {written}, this one reads up to {self._version}): "
                    f"update sepkit, or {self._elsewhere}"
                )
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute(f"PRAGMA journal_size_limit = {_SLACK}")
            if not is_incremental and database.execute("SELECT 1 FROM sqlite_master").fetchone() is not None:
                # A file of an earlier version can give space back only after this.
                with contextlib.suppress(sqlite3.Error), _without_waiting(database):
                    database.execute("VACUUM")
            database.executescript(self._schema)
            if written < self._version:
                database.execute(f"PRAGMA user_version = {self._version}")
        except (sqlite3.Error, _Refused):
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
            _settle(loop, done, None, StoreError(f"the store {where} failed: {self._said(error)}"))

    def _said(self, error: Exception) -> str:
        """What went wrong, and what to do about it, in one sentence; the system's own words last."""
        if isinstance(error, OSError):
            known = _SENTENCES_OF_SYSTEM.get(error.errno or 0)
        else:
            name: str = getattr(error, "sqlite_errorname", None) or ""
            known = next((text for code, text in _SENTENCES.items() if name.startswith(code)), None)
        if known is None:
            return str(error) or type(error).__name__
        return f"{known.format(patience=_PATIENCE, elsewhere=self._elsewhere)} ({error})"

    # -- in the thread that reads --------------------------------------------------------------------------------------

    def _read(self, jobs: _Queue) -> None:
        database: sqlite3.Connection | None = None
        while (one := jobs.get()) is not None:
            job, done, loop = one
            try:
                if database is None:
                    database = sqlite3.connect(str(self.path), isolation_level=None, timeout=_PATIENCE)
                    database.execute("PRAGMA query_only = 1")
                result = job(database)
            except Exception as error:  # of any kind, as above
                self._fail([one], error)
            else:
                _settle(loop, done, result, None)
        if database is not None:
            database.close()


def _make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing; `Path.mkdir` would make these for all to read."""
    if not folder.is_dir():
        if folder.parent != folder:
            _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


class _Refused(Exception):
    """A file that is not for this version."""


class _Worker:
    """A thread that takes jobs from a queue. It begins with the first one."""

    def __init__(self, name: str, work: Callable[[_Queue], None]) -> None:
        self.waiting = 0
        """So many callers wait for a job."""
        self._name = name
        self._work = work
        self._running: tuple[threading.Thread, _Queue] | None = None

    def put(self, job: _Job) -> None:
        if self._running is None:
            jobs: _Queue = queue.SimpleQueue()
            self._running = (threading.Thread(target=self._work, args=(jobs,), name=self._name, daemon=True), jobs)
            self._running[0].start()
        self._running[1].put(job)

    def end(self) -> threading.Thread | None:
        """Have it end when it has done what waits; the next job begins another one."""
        if self._running is None:
            return None
        (thread, jobs), self._running = self._running, None
        jobs.put(None)
        return thread


@contextlib.contextmanager
def _without_waiting(database: sqlite3.Connection) -> Iterator[None]:
    """What can be done another time does not wait for another process that uses the file."""
    database.execute("PRAGMA busy_timeout = 0")
    try:
        yield
    finally:
        database.execute(f"PRAGMA busy_timeout = {round(_PATIENCE * 1000)}")


_READ_ONLY: Final = "it, or its folder, can't be written: give yourself the permission, or {elsewhere}"
_FULL: Final = "there is no room on the disk, and nothing of it was written: make room, and try again"
# By SQLite's names; of an extended one (``SQLITE_READONLY_DIRECTORY``) the beginning counts.
_SENTENCES: Final = {
    "SQLITE_FULL": _FULL,
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_PERM": _READ_ONLY,
    "SQLITE_CANTOPEN": "it can't be opened: look whether it is a file, and may be read and written",
    "SQLITE_BUSY": "another process keeps it locked for {patience:g} s already: end that process, or try again",
    "SQLITE_NOTADB": "it is damaged, or was never a store: move it away, and a new one is made",
    "SQLITE_CORRUPT": "it is damaged: move it away, and a new one is made",
    "SQLITE_IOERR_WRITE": "the disk took no more of it, and nothing of it was written: make room, and try again",
}
_SENTENCES_OF_SYSTEM: Final = {
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.EROFS: _READ_ONLY,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
}


def _settle(
    loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any], result: object, error: Exception | None
) -> None:
    def settle() -> None:
        if done.done():  # the caller has given up
            return
        if error is not None:
            done.set_exception(error)
            done.exception()  # perhaps no caller waits for it
        else:
            done.set_result(result)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop has been closed, and its tasks with it
        return
