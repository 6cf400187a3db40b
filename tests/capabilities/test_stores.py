"""What every store of keys and values does: the one on disk, and the one of ``TestHost``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sepkit.capabilities.kv import Store
from sepkit.capabilities.store import KvStore
from sepkit.testing.seen import KvInMemory, Seen


def on_disk(tmp_path: Path) -> Store:
    return KvStore(tmp_path / "kv.sqlite3")


def in_sqlite_memory(tmp_path: Path) -> Store:
    return KvStore()


def in_a_dict(tmp_path: Path) -> Store:
    return KvInMemory(Seen({}))


Test = Callable[[Store], Coroutine[Any, Any, None]]
Drive = Callable[[Test], None]


@pytest.fixture(params=[on_disk, in_sqlite_memory, in_a_dict])
def drive(request: pytest.FixtureRequest, tmp_path: Path) -> Drive:
    """Runs a test with a new store of each kind."""

    def drive(test: Test) -> None:
        async def run() -> None:
            store = request.param(tmp_path)
            try:
                await asyncio.wait_for(test(store), 20)
            finally:
                if isinstance(store, KvStore):
                    await store.aclose()

        asyncio.run(run())

    return drive


def test_a_value_comes_back_until_it_is_replaced_or_deleted(drive: Drive) -> None:
    """Any JSON is kept, also values that are false; a null reads as no value. Source: docs/protocol.md, section 4."""

    async def test(store: Store) -> None:
        assert await store.get("ext", "k") is None
        values: list[Any] = [{"n": [1, 2.5, "ä"]}, [], 0, False, "", None, "last"]
        for value in values:
            await store.set("ext", "k", value)
            assert await store.get("ext", "k") == value
        await store.delete("ext", "k")
        assert await store.get("ext", "k") is None
        await store.delete("ext", "k")

    drive(test)


def test_keys_are_listed_in_order_by_their_prefix(drive: Drive) -> None:
    """Keys come in the order of their characters, also one that equals the prefix.

    Source: docs/protocol.md, section 4.
    """
    keys = ["b", "a/2", "a/10", "a", "A", "", "ä", "😀", "a\x00b", "a%", "a_"]

    async def test(store: Store) -> None:
        for key in keys:
            await store.set("ext", key, key)
        assert await store.keys("ext") == sorted(keys)
        for prefix in ("", "a", "a/", "a%", "ä", "z"):
            assert await store.keys("ext", prefix) == sorted(key for key in keys if key.startswith(prefix))

    drive(test)
