"""Documents in SQLite: a table for each collection, JSON in it, and an index over an expression for each indexed field.

Conditions become comparisons of what ``json_extract`` finds, written exactly as in the index, so that SQLite uses it.
What matches is read in pages beside the writes; it is one snapshot all the same.

Source: docs/documents.md, "Queries".
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from sepkit.capabilities.database import Database
from sepkit.contexts.backend import Document, Find, Place, Query
from sepkit.errors import StoreError

_MIB: Final = 1024 * 1024
MOST_STORED: Final = 64 * _MIB  # bytes of JSON that are put together, or found together
_PAGE: Final = 1000  # documents that are read together
_PAGE_SIZE: Final = _MIB  # characters of them

_COMPARING: Final = {"$eq": "=", "$ne": "<>", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_RANGES: Final = {"$gt", "$gte", "$lt", "$lte"}


class LocalDocuments:
    """The documents of an app and of its users.

    Args:
        database: Gives the database of a user, or the app's for None.
    """

    def __init__(self, database: Callable[[str | None], Database]) -> None:
        self._database = database

    async def put(self, place: Place, items: Sequence[tuple[str, Document]]) -> None:
        """Store documents, all or none."""
        table = _table(place)
        # What is there keeps its row, and so its place in the order.
        sql = f"INSERT INTO {table} (id, data) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET data = excluded.data"

        def job(database: sqlite3.Connection) -> None:
            size = 0

            def rows() -> Any:
                nonlocal size
                for id, document in items:  # noqa: A001
                    data = orjson.dumps(document)
                    size += len(data)
                    if size > MOST_STORED:
                        raise StoreError(
                            f"over {MOST_STORED // _MIB} MiB of JSON in one put to collection {place.collection!r}: "
                            "put them in smaller parts"
                        )
                    yield id, _escaped(data).decode()

            database.executemany(sql, rows())

        await (await self._ready(place)).do(job)

    async def get(self, place: Place, id: str) -> Document | None:  # noqa: A002
        """The document; None where there is none."""
        sql = f"SELECT data FROM {_table(place)} WHERE id = ?"

        def job(database: sqlite3.Connection) -> Document | None:
            row = database.execute(sql, (id,)).fetchone()
            return None if row is None else _loaded(row[0])

        return await (await self._ready(place)).read(job)

    async def delete(self, place: Place, id: str) -> bool:  # noqa: A002
        """Forget a document; whether there was one."""
        sql = f"DELETE FROM {_table(place)} WHERE id = ?"

        def job(database: sqlite3.Connection) -> bool:
            return database.execute(sql, (id,)).rowcount > 0

        return await (await self._ready(place)).do(job)

    async def find(self, place: Place, find: Find) -> list[tuple[str, Document]]:
        """The documents that match, in their order."""
        sql, values = statement(place, find)
        database = await self._ready(place)
        # In memory it is read at once: there, a cursor would see what is written between two pages.
        reading = _Reading(sql, values, paged=database.path is not None)
        found: list[tuple[str, Document]] = []
        try:
            while not reading.over:
                found += await database.read(reading.page)
                if reading.size > MOST_STORED:
                    raise StoreError(
                        f"over {MOST_STORED // _MIB} MiB of JSON in collection {place.collection!r} match: "
                        "set limit= and offset="
                    )
        finally:
            if not reading.over:
                database.release(reading.close)
        return found

    async def count(self, place: Place, query: Query) -> int:
        """How many documents match."""
        where, values = _where(query)
        sql = f"SELECT count(*) FROM {_table(place)} WHERE {where}"

        def job(database: sqlite3.Connection) -> int:
            (number,) = database.execute(sql, values).fetchone()
            return int(number)

        return await (await self._ready(place)).read(job)

    async def delete_many(self, place: Place, query: Query) -> int:
        """Forget what matches; how many there were."""
        where, values = _where(query)
        sql = f"DELETE FROM {_table(place)} WHERE {where}"

        def job(database: sqlite3.Connection) -> int:
            return database.execute(sql, values).rowcount

        return await (await self._ready(place)).do(job)

    async def drop(self, place: Place) -> None:
        """Forget all documents. The table stays: another process may be about to use it."""
        sql = f"DELETE FROM {_table(place)}"

        def job(database: sqlite3.Connection) -> None:
            database.execute(sql)

        await (await self._ready(place)).do(job)

    async def _ready(self, place: Place) -> Database:
        """The database, with the collection's table and exactly its indexes."""
        database = self._database(place.user)
        made = (place.collection, place.indexes)
        if made not in database.prepared:

            def job(connection: sqlite3.Connection) -> None:
                _prepare(connection, place)

            await database.do(job)
            database.prepared.add(made)
        return database


def statement(place: Place, find: Find) -> tuple[str, list[Any]]:
    """The SQL of a find, and its values."""
    where, values = _where(find.query)
    order = [f"{_field(path)} {'DESC' if down else 'ASC'}" for path, down in find.sort]
    # SQLite would read the whole table in its order rather than sort what it finds by a range of an index. The plus
    # hides from it that the table is in this order.
    is_range = any(path in place.indexes and _RANGES & wanted.keys() for path, wanted in find.query.items())
    order.append("+place" if is_range and not order else "place")
    sql = f"SELECT id, data FROM {_table(place)} WHERE {where} ORDER BY {', '.join(order)}"
    if find.limit is not None:
        sql += " LIMIT ? OFFSET ?"
        values += [find.limit, find.offset]
    return sql, values


class _Reading:
    """What a query finds, taken page by page in the thread of a database. A cursor that is open is one snapshot."""

    def __init__(self, sql: str, values: list[Any], *, paged: bool) -> None:
        self.over = False
        self.size = 0
        """Characters of JSON so far."""
        self._sql = sql
        self._values = values
        self._most = _PAGE_SIZE if paged else MOST_STORED
        self._longest = _PAGE if paged else None
        self._cursor: sqlite3.Cursor | None = None

    def page(self, database: sqlite3.Connection) -> list[tuple[str, Document]]:
        if self._cursor is None:
            self._cursor = database.execute(self._sql, self._values)
        found: list[tuple[str, Document]] = []
        size, most, loads = 0, self._most, orjson.loads
        for id, data in self._cursor:  # noqa: A001
            found.append((id, _loaded(data) if "\\u0001" in data else loads(data)))
            size += len(data)
            if size > most or len(found) == self._longest:
                break
        else:
            self.over = True
        self.size += size
        return found

    def close(self, _: sqlite3.Connection) -> None:
        if self._cursor is not None:
            self._cursor.close()


def _prepare(database: sqlite3.Connection, place: Place) -> None:
    table = _table(place)
    # `place` is the row's number: the order in which documents were first put, which no VACUUM changes.
    database.execute(
        f"CREATE TABLE IF NOT EXISTS {table} (place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, data TEXT NOT NULL)"
    )
    wanted = {_name(place, path): path for path in place.indexes}
    rows = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", (_name(place),)
    )
    there = {name for (name,) in rows.fetchall()}
    for name in sorted(there - wanted.keys()):
        database.execute(f'DROP INDEX "{name}"')
    for name in sorted(wanted.keys() - there):
        database.execute(f'CREATE INDEX "{name}" ON {table} ({_field(wanted[name])})')


def _name(place: Place, path: str = "") -> str:
    """The name of a table, or of an index. To SQLite A and a are the same in a name, so that A is written ``^a``."""
    name = f"documents:{place.collection}" + (f":{path}" if path else "")
    return re.sub(r"[A-Z]", lambda letter: f"^{letter[0].lower()}", name)


def _table(place: Place) -> str:
    return f'"{_name(place)}"'


def _field(path: str) -> str:
    """What a dotted path finds: a number or a text; a list or an object as its JSON; NULL for null, and for nothing.

    Paths are checked to have no quotes in them (``contexts/documents``). As parameters they would meet no index.
    """
    steps = "".join(f'."{step}"' for step in path.split("."))
    return f"json_extract(data, '${steps}')"


def _where(query: Query) -> tuple[str, list[Any]]:
    parts = []
    values: list[Any] = []
    for path, conditions in query.items():
        field = _field(path)
        for operator, operand in conditions.items():
            if operator == "$in":
                parts.append(f"{field} IN (SELECT value FROM json_each(?))")
                values.append(_escaped(orjson.dumps(operand)).decode())
            elif operator == "$contains":
                # Of ASCII letters `lower` makes small ones, and leaves the others.
                parts.append(f"typeof({field}) = 'text' AND instr(lower({field}), lower(?)) > 0")
                values.append(_operand(operand))
            else:
                # SQLite's own reading of a fraction, which may be another one than Python's in the last bit.
                value = "json_extract(?, '$')" if isinstance(operand, float) else "?"
                parts.append(f"{field} {_COMPARING[operator]} {value}")
                values.append(_operand(operand))
    return " AND ".join(parts) or "TRUE", values


def _operand(operand: Any) -> Any:
    if isinstance(operand, float):
        return orjson.dumps(operand).decode()
    if isinstance(operand, str) and not operand.isprintable():
        text: str = orjson.loads(_escaped(orjson.dumps(operand)))
        return text
    return operand


# To SQLite's functions of JSON a text ends at a NUL. So U+0000 and U+0001 are kept as two characters each, which
# changes neither what is equal nor what is less.
_ESCAPED: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u000([01])")
_UNESCAPED: Final = re.compile(r"(?<!\\)((?:\\\\)*)\\u0001([\ufdd0\ufdd1])")


def _escaped(data: bytes) -> bytes:
    if b"\\u000" not in data:
        return data
    return _ESCAPED.sub(
        lambda found: found[1] + rb"\u0001" + ("\ufdd0" if found[2] == b"0" else "\ufdd1").encode(), data
    )


def _loaded(data: str) -> Document:
    if "\\u0001" in data:  # hardly ever
        data = _UNESCAPED.sub(lambda found: found[1] + rf"\u000{0 if found[2] == chr(0xFDD0) else 1}", data)
    document: Document = orjson.loads(data)
    return document
