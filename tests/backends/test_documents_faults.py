"""What goes wrong with the file of a store: one sentence that says which file, and what to do; nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from sepkit import App, ToolContext
from sepkit.capabilities import database as database_module
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import Find, Place
from sepkit.contexts.documents import Documents
from sepkit.contexts.link import Link
from sepkit.errors import StoreError
from sepkit.testing import TestHost
from tests.backends.test_documents_model import OnlyBackend

NOTES = Place(None, "notes", ("tag",))

app = App("faults")
notes = app.collection("notes", dict[str, Any])


@app.tool
async def write(ctx: ToolContext) -> str:
    """Put a document."""
    await ctx.store(notes).put("a", {})
    return "written"


async def patiently(work: Awaitable[Any]) -> Any:
    """What is not answered at all fails the test, and does not hang it."""
    return await asyncio.wait_for(work, 20)


async def said(work: Awaitable[object]) -> str:
    """The sentence."""
    with pytest.raises(StoreError) as caught:
        await patiently(work)
    told = str(caught.value)
    assert "\n" not in told
    assert "Traceback" not in told
    return told


@contextlib.contextmanager
def nobody_special() -> Iterator[None]:
    """To root all folders are writable."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_read_only_folder_is_said_with_what_to_do() -> None:
    """Each call says it; once it may be written to, the next one is served."""

    async def main(place: Path) -> None:
        backend = LocalBackend("app", place)
        with nobody_special():
            for _ in range(2):
                told = await said(backend.documents.put(NOTES, [("a", {})]))
                assert told.startswith(f"the store {place}/app.sqlite3 failed: it, or its folder, can't be written: ")
                assert "set SEPKIT_DATA_DIR to another folder" in told
            assert "can't be written" in await said(backend.documents.get(Place("ada", "notes"), "a"))
        os.chmod(place, 0o777)
        with nobody_special():
            await patiently(backend.documents.put(NOTES, [("a", {})]))
            assert await backend.documents.count(NOTES, {}) == 1
            await backend.aclose()

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        asyncio.run(main(Path(folder)))


def test_a_read_only_file_is_said_with_what_to_do() -> None:
    """The documents in it stay."""

    async def fill(place: Path) -> None:
        backend = LocalBackend("app", place)
        await backend.documents.put(NOTES, [("a", {"n": 1})])
        await backend.aclose()

    async def main(place: Path) -> None:
        backend = LocalBackend("app", place)
        with nobody_special():
            told = await said(backend.documents.put(NOTES, [("a", {"n": 2})]))
            assert "can't be written" in told or "can't be opened" in told
            await backend.aclose()

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        asyncio.run(fill(place))
        (place / "app.sqlite3").chmod(0o444)
        place.chmod(0o555)
        asyncio.run(main(place))
        place.chmod(0o755)
        with contextlib.closing(sqlite3.connect(place / "app.sqlite3")) as database:
            assert database.execute('SELECT data FROM "documents:notes"').fetchall() == [('{"n":1}',)]


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """Nothing of it is changed, not even its journal."""
    path = tmp_path / "app.sqlite3"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE of_tomorrow (x)")
        database.execute("PRAGMA user_version = 7")
    before = path.read_bytes()

    async def main() -> None:
        backend = LocalBackend("app", tmp_path)
        for work in (backend.documents.put(NOTES, [("a", {})]), backend.documents.count(NOTES, {})):
            told = await said(work)
            assert told == (
                f"the store {path} failed: a newer sepkit has written it (version 7, this one reads up to 1): "
                "update sepkit, or set SEPKIT_DATA_DIR to another folder"
            )
        await backend.aclose()

    asyncio.run(main())
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["app.sqlite3"]


def test_a_store_that_another_process_keeps_locked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads is answered meanwhile; once the lock is gone, what writes is, too."""
    monkeypatch.setattr(database_module, "_PATIENCE", 0.2)

    async def main() -> None:
        backend = LocalBackend("app", tmp_path)
        await backend.documents.put(NOTES, [("a", {"n": 1})])
        with contextlib.closing(sqlite3.connect(tmp_path / "app.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            told = await said(backend.documents.put(NOTES, [("a", {"n": 2})]))
            assert "another process keeps it locked for 0.2 s already: end that process, or try again" in told
            assert await backend.documents.find(NOTES, Find(query={})) == [("a", {"n": 1})]
            assert await backend.documents.get(NOTES, "a") == {"n": 1}
            other.execute("ROLLBACK")
        await backend.documents.put(NOTES, [("a", {"n": 3})])
        assert await backend.documents.get(NOTES, "a") == {"n": 3}
        await backend.aclose()

    asyncio.run(main())


def test_a_damaged_store_is_said_and_left_as_it_is(tmp_path: Path) -> None:
    """Somebody may still want to look at it."""
    path = tmp_path / "app.sqlite3"
    path.write_bytes(b"no database at all\n" * 1000)

    async def main() -> None:
        backend = LocalBackend("app", tmp_path)
        told = await said(backend.documents.put(NOTES, [("a", {})]))
        assert re.search(r"it is damaged, or was never a store: move it away, and a new one is made", told)
        await backend.aclose()

    asyncio.run(main())
    assert path.read_bytes().startswith(b"no database")


FULL_DISK = """
import asyncio, resource, signal, sys
from pathlib import Path
from sepkit.errors import StoreError
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import Find, Place

async def main():
    documents = LocalBackend("app", Path(sys.argv[1])).documents
    notes = Place(None, "notes", ("tag",))
    await documents.put(notes, [("small", {"tag": "x"})])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (262_144, resource.RLIM_INFINITY))
    for attempt in range(2):
        try:
            await documents.put(notes, [("small", {}), *((str(n), {"text": "x" * 10_000}) for n in range(100))])
        except StoreError as error:
            print(error)
    assert await documents.find(notes, Find(query={})) == [("small", {"tag": "x"})], "a part of it is there"
    await documents.put(notes, [("small", {"tag": "y"})])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await documents.put(notes, [(str(n), {"text": "x" * 10_000}) for n in range(100)])
    print(await documents.count(notes, {}))

asyncio.run(main())
"""


def test_a_full_disk_is_said_and_nothing_of_the_put_is_there(tmp_path: Path) -> None:
    """A limit of the file's size stands for the disk. What was there stays, small puts still fit, room helps."""
    assert hasattr(resource, "RLIMIT_FSIZE")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    *told, count = done.stdout.splitlines()
    assert count == "101"
    assert len(told) == 2
    for sentence in told:
        assert sentence.startswith(f"the store {tmp_path}/app.sqlite3 failed: ")
        assert "nothing of it was written: make room, and try again" in sentence


def test_a_file_that_may_not_grow_is_said_as_a_full_disk(tmp_path: Path) -> None:
    """SQLite's own word for it."""

    async def main() -> None:
        backend = LocalBackend("app", tmp_path)
        await backend.documents.put(NOTES, [("a", {})])
        await backend.database(None).do(lambda database: database.execute("PRAGMA max_page_count = 1"))
        told = await said(backend.documents.put(NOTES, [("b", {"text": "x" * 100_000})]))
        assert "there is no room on the disk, and nothing of it was written: make room, and try again" in told
        assert await backend.documents.count(NOTES, {}) == 1
        await backend.aclose()

    asyncio.run(main())


class Failing:
    """A backend of documents whose every second call fails, before or after it has been done."""

    def __init__(self, behind: Any) -> None:
        self._behind = behind
        self._calls = 0

    def __getattr__(self, name: str) -> Any:
        if name == "documents":
            return self
        found = getattr(self._behind.documents, name)

        async def call(*args: Any) -> Any:
            self._calls += 1
            if self._calls % 4 == 0:
                raise StoreError("the line is dead")
            result = await found(*args)
            if self._calls % 4 == 2:
                raise StoreError("the answer was lost")
            return result

        return call


def test_what_fails_in_a_backend_reaches_who_asked_and_harms_nothing_else() -> None:
    """Each method: the error as it is, and the next call is served."""

    async def main() -> None:
        local = LocalBackend("app", None)
        store = Documents(cast("Link", OnlyBackend(Failing(local))), notes)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: store.put("a", {"n": 1}),
            lambda: store.put_many({"b": {"n": 2}}),
            lambda: store.get("a"),
            lambda: store.find_items(),
            lambda: store.find_one({"n": 1}),
            lambda: store.count(),
            lambda: store.delete("a"),
            lambda: store.delete_many({"n": 2}),
            lambda: store.drop(),
        ]
        for call in calls:
            outcomes = [await asyncio.gather(call(), return_exceptions=True) for _ in range(4)]
            failed = [one for (one,) in outcomes if isinstance(one, BaseException)]
            assert sorted(map(str, failed)) == ["the answer was lost", "the line is dead"]
            assert all(type(one) is StoreError for one in failed)
        assert await local.documents.count(Place(None, "notes"), {}) == 0
        await local.aclose()

    asyncio.run(main())


def test_a_tool_whose_store_fails_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result is an error; the next call is served."""
    with TestHost(app) as host:
        put = database_module.Database.do

        async def no(*args: Any) -> Any:
            raise StoreError("the store failed")

        monkeypatch.setattr(database_module.Database, "do", no)
        assert host.call_tool("write").is_error
        monkeypatch.setattr(database_module.Database, "do", put)
        assert host.call_tool("write").content == "written"
