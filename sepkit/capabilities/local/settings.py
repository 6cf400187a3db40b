"""Settings that have been set: a table of the app's database, or in memory."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import orjson

from sepkit.capabilities.database import Database

SCHEMA: Final = "CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"


class LocalSettings:
    """The stored settings of an app.

    Args:
        database: The app's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> dict[str, Any]:
        """Each value that has been set."""

        def read(database: sqlite3.Connection) -> dict[str, Any]:
            return {name: orjson.loads(text) for name, text in database.execute("SELECT name, value FROM settings")}

        return await self._database.do(read)

    async def set(self, name: str, value: Any) -> None:
        """Keep a value."""
        text = orjson.dumps(value).decode()

        def write(database: sqlite3.Connection) -> None:
            database.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, text))

        await self._database.do(write)


class SettingsInMemory:
    """The same, gone with the process."""

    def __init__(self) -> None:
        self._texts: dict[str, bytes] = {}

    async def all(self) -> dict[str, Any]:
        """Each value that has been set."""
        return {name: orjson.loads(text) for name, text in self._texts.items()}

    async def set(self, name: str, value: Any) -> None:
        """Keep a value."""
        self._texts[name] = orjson.dumps(value)
