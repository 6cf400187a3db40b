"""Documents, whatever keeps them: the contract of a ``DocumentBackend``, over each kind of backend."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from sepkit.capabilities.local import backend as backend_module
from sepkit.capabilities.local import documents as documents_module
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import Backend, Find, Place
from sepkit.errors import StoreError
from sepkit.testing import VirtualClockLoop

Run = Callable[[Coroutine[Any, Any, Any]], Any]

NOTES = Place(None, "notes", ("tag",))
ALL = Find(query={})


def ids(found: list[tuple[str, Any]]) -> list[str]:
    return [id for id, _ in found]  # noqa: A001


def test_what_was_put_is_there_until_it_is_deleted(backend: Backend, run: Run) -> None:
    """One document: put, replaced, deleted; a replaced one keeps its place."""

    async def main() -> None:
        documents = backend.documents
        assert await documents.get(NOTES, "a") is None
        await documents.put(NOTES, [("a", {"text": "ä", "tag": None})])
        await documents.put(NOTES, [("b", {"n": [1, {"x": 2.5}], "big": 2**64 - 1})])
        await documents.put(NOTES, [("a", {"text": "new"})])
        assert await documents.get(NOTES, "a") == {"text": "new"}
        assert await documents.get(NOTES, "b") == {"n": [1, {"x": 2.5}], "big": 2**64 - 1}
        assert await documents.find(NOTES, ALL) == [("a", {"text": "new"}), ("b", await documents.get(NOTES, "b"))]
        assert [await documents.delete(NOTES, "a"), await documents.delete(NOTES, "a")] == [True, False]
        await documents.put(NOTES, [("a", {})])
        assert ids(await documents.find(NOTES, ALL)) == ["b", "a"]
        await documents.drop(NOTES)
        assert [await documents.count(NOTES, {}), await documents.get(NOTES, "b")] == [0, None]
        await backend.aclose()

    run(main())


def test_documents_of_users_collections_and_the_app_are_apart(backend: Backend, run: Run) -> None:
    """Also those of two collections whose names differ in capitals only, and of a user named as the app's file is."""
    places = [Place(user, name) for user in (None, "app", "app.sqlite3") for name in ("notes", "Notes", "_", "n")]

    async def main() -> None:
        documents = backend.documents
        for number, place in enumerate(places):
            await documents.put(place, [("id", {"number": number})])
        for number, place in enumerate(places):
            assert await documents.find(place, ALL) == [("id", {"number": number})]
        await documents.drop(places[0])
        await documents.delete_many(places[5], {"number": {"$gte": 0}})
        left = [number for number, place in enumerate(places) if await documents.count(place, {})]
        assert left == [number for number in range(len(places)) if number not in (0, 5)]
        await backend.aclose()

    run(main())


def test_a_user_id_that_could_leave_its_folder_is_refused(backend: Backend, tmp_path: Path) -> None:
    """Nothing is written for it."""

    async def main() -> None:
        for user in ("", ".", "..", "../x", "a/b", "a\\b", "/", "a\0", "a" * 129, "ä", "a:b", ".hidden"):
            with pytest.raises(StoreError, match=r"user('s)? id"):
                await backend.documents.put(Place(user, "notes"), [("a", {})])
        await backend.aclose()

    asyncio.run(main())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_any_text_is_an_id(backend: Backend) -> None:
    """Whatever is in it."""

    async def main() -> None:
        documents = backend.documents
        names = ["a", "A", "ä", " ", "\0", "a\0b", "'; DROP TABLE x; --", "x" * 256, "\U0001f600", "\n"]
        await documents.put(NOTES, [(name, {"n": name}) for name in names])
        assert ids(await documents.find(NOTES, ALL)) == names
        for name in names:
            assert await documents.get(NOTES, name) == {"n": name}
            assert await documents.delete(NOTES, name)
            assert await documents.get(NOTES, name) is None
        await backend.aclose()

    asyncio.run(main())


STRANGE = ["\0", "\1", "\0\1\0\0", "\\u0000", "\\\0", "\\\\u0001\ufdd0", '"\0"', "\1\ufdd1", "\x1f", "\u2028", "\\"]


def test_texts_with_characters_that_sqlite_ends_at_come_back_and_are_found(backend: Backend) -> None:
    """U+0000 and its neighbours, and what looks like them."""

    async def one(text: str) -> None:
        documents = backend.documents
        await documents.drop(NOTES)
        await documents.put(NOTES, [("a", {"tag": text, text: [text]}), ("b", {"tag": text + "b"}), ("c", {"tag": ""})])
        assert await documents.get(NOTES, "a") == {"tag": text, text: [text]}
        assert await documents.find(NOTES, Find(query={"tag": {"$eq": text}})) == [("a", {"tag": text, text: [text]})]
        assert ids(await documents.find(NOTES, Find(query={"tag": {"$gt": text}}))) == ["b"]
        assert ids(await documents.find(NOTES, Find(query={"tag": {"$in": [text, ""]}}))) == ["a", "c"]
        assert ids(await documents.find(NOTES, Find(query={"tag": {"$contains": text}}))) == ["a", "b"]

    async def main() -> None:
        for text in STRANGE:
            await one(text)
        await backend.aclose()

    asyncio.run(main())


def test_many_are_put_together_or_not_at_all(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third of them is too much: none is there, and what was replaced is as it was."""
    monkeypatch.setattr(documents_module, "MOST_STORED", 1000)

    async def main() -> None:
        documents = backend.documents
        await documents.put(NOTES, [("a", {"n": 0})])
        with pytest.raises(StoreError, match=r"'notes'.*smaller parts"):
            await documents.put(NOTES, [("a", {"n": 1}), ("b", {}), ("c", {"text": "x" * 1000})])
        assert await documents.find(NOTES, ALL) == [("a", {"n": 0})]
        await documents.put(NOTES, [("a", {"n": 1}), ("b", {}), ("a", {"n": 2})])
        assert await documents.find(NOTES, ALL) == [("a", {"n": 2}), ("b", {})]
        await backend.aclose()

    asyncio.run(main())


def test_a_find_of_many_pages_is_one_moment(backend: Backend, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written while it is read is all in it, or not at all."""
    monkeypatch.setattr(documents_module, "_PAGE", 10)

    async def main() -> None:
        documents = backend.documents
        names = [f"{number:03}" for number in range(200)]
        await documents.put(NOTES, [(name, {"n": 0}) for name in names])

        async def rewrite() -> None:
            for number in range(1, 20):
                await documents.put(NOTES, [(name, {"n": number}) for name in names])

        writing = asyncio.ensure_future(rewrite())
        for _ in range(5):
            found = await documents.find(NOTES, ALL)
            assert ids(found) == names
            assert len({document["n"] for _, document in found}) == 1, "half of a put is seen"
        await writing
        await backend.aclose()

    run(main())


def test_more_than_fits_into_an_answer_is_refused_with_what_to_do(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit makes it fit."""

    async def main() -> None:
        documents = backend.documents
        await documents.put(NOTES, [(str(number), {"text": "x" * 100}) for number in range(100)])
        monkeypatch.setattr(documents_module, "MOST_STORED", 5000)
        with pytest.raises(StoreError, match=r"'notes' match: set limit= and offset="):
            await documents.find(NOTES, ALL)
        assert len(await documents.find(NOTES, Find(query={}, limit=20, offset=90))) == 10
        assert await documents.count(NOTES, {}) == 100
        await backend.aclose()

    asyncio.run(main())


def test_the_longest_query_there_may_be_is_answered(backend: Backend) -> None:
    """All operators on a hundred deep fields, and 16 fields to sort by."""
    everything = {"$eq": "x", "$ne": 1, "$gt": 1, "$gte": 0.5, "$lt": "y", "$lte": "x", "$contains": "X"}
    everything["$in"] = ["x", *range(9_999)]
    steps = [f"f{number}" + ".a" * 50 for number in range(100)]

    async def main() -> None:
        documents = backend.documents
        await documents.put(NOTES, [("a", {})])
        find = Find(query=dict.fromkeys(steps, everything), sort=[(step, True) for step in steps[:16]], limit=1)
        assert await documents.find(NOTES, find) == []
        assert await documents.count(NOTES, find.query) == 0
        assert await documents.find(NOTES, Find(query={}, sort=find.sort)) == [("a", {})]
        await backend.aclose()

    asyncio.run(main())


def test_many_at_once_each_have_their_own_answer(backend: Backend, run: Run) -> None:
    """Puts, finds and deletes of a hundred coroutines."""

    async def one(number: int) -> None:
        documents, name = backend.documents, str(number)
        await documents.put(NOTES, [(name, {"n": number, "tag": f"t{number}"})])
        assert await documents.find(NOTES, Find(query={"tag": {"$eq": f"t{number}"}})) == [
            (name, {"n": number, "tag": f"t{number}"})
        ]
        assert await documents.delete(NOTES, name) is True
        assert await documents.get(NOTES, name) is None

    async def main() -> None:
        await asyncio.gather(*map(one, range(100)))
        assert await backend.documents.count(NOTES, {}) == 0
        await backend.aclose()

    run(main())


def test_on_a_virtual_clock_no_time_passes_while_documents_are_read(backend: Backend) -> None:
    """A timer of an hour does not go off because a thread takes a moment."""

    async def main() -> None:
        await asyncio.wait_for(backend.documents.put(NOTES, [("a", {})]), 3600)
        assert await asyncio.wait_for(backend.documents.count(NOTES, {}), 3600) == 1
        assert asyncio.get_running_loop().time() < 1
        await backend.aclose()

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main())


# -- the local one -----------------------------------------------------------------------------------------------------


def plan(path: Path, place: Place, find: Find) -> str:
    """How SQLite goes about a find."""
    sql, values = documents_module.statement(place, find)
    with contextlib.closing(sqlite3.connect(path)) as database:
        return "; ".join(row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {sql}", values))


def test_a_find_by_an_indexed_field_uses_its_index(tmp_path: Path) -> None:
    """Each comparison, and the order; a field without an index is searched document by document."""
    path = tmp_path / "app.sqlite3"
    place = Place(None, "notes", ("tag", "author.Age"))

    async def main() -> None:
        backend = LocalBackend("app", tmp_path)
        await backend.documents.put(place, [("a", {"tag": "x"})])
        await backend.aclose()

    asyncio.run(main())
    for condition in ({"$eq": "x"}, {"$in": ["x", 1.5]}, {"$gt": 1}, {"$gte": 0.5, "$lt": "y"}):
        assert "USING INDEX documents:notes:tag" in plan(path, place, Find(query={"tag": condition})), condition
        assert "USING INDEX documents:notes:author.^age" in plan(path, place, Find(query={"author.Age": condition}))
        assert "USING INDEX" not in plan(path, place, Find(query={"author.age": condition}))
    equal = plan(path, place, Find(query={"tag": {"$eq": "x"}}))
    assert "B-TREE" not in equal, "it is in order already"
    assert "USING INDEX" in plan(path, place, Find(query={}, sort=[("tag", False)]))
    everything = plan(path, place, Find(query={}, limit=10))
    assert "B-TREE" not in everything, "ten of many are the first ten"


def test_indexes_become_those_of_the_version_that_runs(tmp_path: Path) -> None:
    """A new one is made of what is there, one that is not declared any more is dropped; the documents stay."""

    async def main(*indexes: str) -> set[str]:
        backend = LocalBackend("app", tmp_path)
        await backend.documents.put(Place(None, "notes", indexes), [(str(indexes), {"a": 1, "b": 2})])
        await backend.documents.put(Place(None, "other", ("a",)), [("x", {"a": 1})])
        await backend.aclose()
        with contextlib.closing(sqlite3.connect(tmp_path / "app.sqlite3")) as database:
            return {
                name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE INDEX%'")
            }

    other = "documents:other:a"
    assert asyncio.run(main("a")) == {other, "documents:notes:a"}
    assert asyncio.run(main("b", "A")) == {other, "documents:notes:b", "documents:notes:^a"}
    assert asyncio.run(main()) == {other}
    with contextlib.closing(sqlite3.connect(tmp_path / "app.sqlite3")) as database:
        assert database.execute('SELECT count(*) FROM "documents:notes"').fetchone() == (3,)


def test_a_long_reading_keeps_no_write_waiting(tmp_path: Path, run: Run) -> None:
    """Reads have a thread and a connection of their own."""

    async def main() -> None:
        backend = LocalBackend("app", tmp_path)
        await backend.documents.put(NOTES, [("a", {})])
        may_go_on = threading.Event()
        reading = asyncio.ensure_future(backend.database(None).read(lambda database: may_go_on.wait(20)))
        for number in range(5):
            await asyncio.wait_for(backend.documents.put(NOTES, [(str(number), {})]), 10)
        assert not reading.done()
        may_go_on.set()
        assert await reading is True
        assert await backend.documents.count(NOTES, {}) == 6
        await backend.aclose()

    run(main())


def test_a_find_that_is_cancelled_lets_go_of_what_it_read(tmp_path: Path, run: Run, monkeypatch: Any) -> None:
    """The log of writes can be given back afterwards: no snapshot is held."""
    monkeypatch.setattr(documents_module, "_PAGE", 1)

    async def main() -> None:
        backend = LocalBackend("app", tmp_path)
        await backend.documents.put(NOTES, [(str(number), {}) for number in range(1000)])
        database = backend.database(None)
        for turns in (1, 5, 50):
            finding = asyncio.ensure_future(backend.documents.find(NOTES, ALL))
            for _ in range(turns):
                await database.read(lambda _: None)
            finding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await finding
        await database.read(lambda _: None)  # behind what was given up
        await backend.documents.put(NOTES, [("a", {})])

        def checkpoint() -> Any:
            with contextlib.closing(sqlite3.connect(tmp_path / "app.sqlite3", timeout=0)) as other:
                return other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

        assert (await asyncio.to_thread(checkpoint))[0] == 0, "somebody still reads the log"
        await backend.aclose()

    run(main())


def test_databases_of_many_users_are_not_all_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were used longest ago are closed; what is in them is there when they are used again."""
    monkeypatch.setattr(backend_module, "_MOST_OPEN", 4)

    def open_ones() -> int:
        return sum(thread.name.startswith("sepkit-store") for thread in threading.enumerate())

    async def main() -> None:
        before = open_ones()
        backend = LocalBackend("app", tmp_path)
        places = [Place(f"user{number}", "notes") for number in range(16)]
        for place in places:
            await backend.documents.put(place, [("a", {"user": place.user})])
            await backend.documents.count(place, {})
        for place in places:
            assert await backend.documents.get(place, "a") == {"user": place.user}
        await asyncio.gather(*(backend.documents.put(place, [("b", {})]) for place in places))  # more than may be idle
        assert [await backend.documents.count(place, {}) for place in places] == [2] * 16
        assert len(backend._databases) <= 5
        await backend.aclose()
        for _ in range(1000):  # threads that were told to end do so in their own time
            if open_ones() <= before:
                break
            await asyncio.sleep(0.01)
        assert open_ones() <= before

    asyncio.run(main())


def test_a_store_that_is_closed_says_so(backend: Backend) -> None:
    """Nothing waits for ever."""

    async def main() -> None:
        documents = backend.documents
        await documents.put(NOTES, [("a", {})])
        database = cast("LocalBackend", backend).database(None)
        await backend.aclose()
        with pytest.raises(StoreError, match="closed"):
            await database.read(lambda _: None)
        with pytest.raises(StoreError, match="closed: what served the app has ended"):
            await documents.put(NOTES, [("b", {})])

    asyncio.run(main())


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_an_app_whose_name_is_another_folder_has_no_data(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would write into somebody else's."""
    monkeypatch.setenv("SEPKIT_DATA_DIR", "/nowhere")
    with pytest.raises(StoreError, match="name of a folder"):
        backend_module.data_folder(name)
    assert backend_module.data_folder("a.b") == Path("/nowhere/a.b")
