"""What extensions keep under keys: SQLite, one namespace an extension.

A list of keys is read in pages, each a job of its own, so that nothing waits behind a long one.

Source: docs/protocol.md, section 4, ``kv/*``.
"""

from __future__ import annotations

import functools
import sqlite3
from pathlib import Path
from typing import Any, Final

import orjson

from sepkit.capabilities.database import Database
from sepkit.errors import StoreError

_PAGE: Final = 1000  # keys that are read together
_PAGE_SIZE: Final = 1024 * 1024  # characters of them
_MOST_LISTED: Final = 16 * 1024 * 1024  # characters of all keys in a list: it has to fit into one line of the wire

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kv (
    namespace TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (namespace, key)
) WITHOUT ROWID
"""


class KvStore:
    """The keys and values of all extensions.

    Args:
        path: The database's file; its folder is made. None: in memory, gone with the store.
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self._database = Database(path, _SCHEMA)

    @property
    def path(self) -> Path | None:
        """The database's file."""
        return self._database.path

    async def get(self, namespace: str, key: str) -> Any:
        """The value; None where there is none."""

        def job(database: sqlite3.Connection) -> Any:
            row = database.execute("SELECT value FROM kv WHERE namespace = ? AND key = ?", (namespace, key)).fetchone()
            return None if row is None else orjson.loads(row[0])

        return await self._database.do(job)

    async def set(self, namespace: str, key: str, value: object) -> None:
        """Store a value. When this returns, it survives the death of this process.

        Raises:
            StoreError: It could not be written.
            TypeError: It is no plain JSON data.
        """
        data = orjson.dumps(value)

        def job(database: sqlite3.Connection) -> None:
            database.execute("INSERT OR REPLACE INTO kv VALUES (?, ?, ?)", (namespace, key, data))

        await self._database.do(job)

    async def delete(self, namespace: str, key: str) -> None:
        """Forget a key, known or not."""

        def job(database: sqlite3.Connection) -> None:
            database.execute("DELETE FROM kv WHERE namespace = ? AND key = ?", (namespace, key))

        await self._database.do(job)

    async def keys(self, namespace: str, prefix: str = "") -> list[str]:
        """The keys that begin with ``prefix``, in order. What is written meanwhile may be among them or not.

        Raises:
            StoreError: They could not be read, or are too many for one list.
        """
        found: list[str] = []
        size = 0
        after: str | None = None
        while True:
            page: list[str] = await self._database.do(functools.partial(_page, namespace, prefix, after))
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
        await self._database.aclose()


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
