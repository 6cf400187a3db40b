"""Collections as an author has them: declared, checked where they are written, and used in handlers of each kind."""

from __future__ import annotations

import asyncio
import enum
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import attrs
import pytest

from sepkit import App, CommandContext, EventContext, HookContext, Router, TaskContext, ToolCall, ToolContext
from sepkit.cli.inspect import describe
from sepkit.contexts.backend import Place
from sepkit.contexts.documents import Collection, Documents
from sepkit.errors import EncodeError, InvalidData, QueryError, RegistrationError, StoreError
from sepkit.handlers import where
from sepkit.testing import TestHost
from tests.memory_host import on_each_loop


class Kind(enum.Enum):
    WORK = "work"
    HOME = "home"


@attrs.frozen
class Note:
    text: str
    tag: str = ""
    at: datetime | None = None
    kind: Kind = Kind.WORK


@dataclass
class Author:
    name: str
    age: int


@dataclass
class Book:
    title: str
    author: Author
    tags: list[str] = field(default_factory=list)


async def with_store(test: Callable[[Documents[Any], ToolContext], Any], app: App, collection: Collection[Any]) -> None:
    """Run ``test`` within a tool of the app."""

    async def within(ctx: ToolContext) -> None:
        await test(ctx.store(collection), ctx)

    app.add_tool(within, name="within")
    async with TestHost(app) as host:
        result = await host.call_tool("within")
        assert not result.is_error, result


# -- in handlers -------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_documents_come_back_as_their_class_says() -> None:
    """attrs, dates and enums: what was put is got, found and compared."""
    app = App("x")
    notes = app.collection("notes", Note, indexes=["tag"])
    early, late = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)

    async def test(store: Documents[Note], _: ToolContext) -> None:
        assert [await store.get("a"), await store.find_one(), await store.count()] == [None, None, 0]
        await store.put("a", Note("first", "x", early))
        await store.put_many({"b": Note("second", "x", late, Kind.HOME), "c": Note("third")})
        assert await store.get("a") == Note("first", "x", early)
        assert await store.find({"tag": "x"}) == [Note("first", "x", early), Note("second", "x", late, Kind.HOME)]
        assert await store.find_items({"kind": Kind.HOME}) == [("b", Note("second", "x", late, Kind.HOME))]
        assert await store.find({"at": {"$gt": early}}) == [Note("second", "x", late, Kind.HOME)]
        assert await store.find_one(sort={"text": "desc"}) == Note("third")
        assert await store.find(sort={"at": "desc"}, limit=1, offset=1) == [Note("first", "x", early)]
        assert await store.find(offset=2) == [Note("third")]
        assert await store.find(limit=0) == []
        assert [await store.delete("c"), await store.delete("c")] == [True, False]
        await store.put_many(iter([("d", Note("4"))]))
        await store.put_many([])
        assert await store.delete_many({"tag": {"$ne": ""}}) == 2
        await store.drop()
        assert await store.count() == 0

    await with_store(test, app, notes)


def test_every_kind_of_handler_has_the_store() -> None:
    """Tools, commands, hooks, events, tasks, the app's one store; a plain def waits for it with ctx.wait."""
    app = App("x")
    log = app.collection("log", dict[str, str])

    @app.tool
    async def tool(ctx: ToolContext) -> None:
        await ctx.store(log).put("tool", {})

    @app.tool
    def plain(ctx: ToolContext) -> list[str]:
        store = ctx.store(log)
        ctx.wait(store.put("plain", {"by": "thread"}))
        return [id for id, _ in ctx.wait(store.find_items())]  # noqa: A001

    @app.command
    async def command(ctx: CommandContext) -> None:
        await ctx.store(log).put("command", {})

    @app.hook("tool_call")
    async def hook(_: ToolCall, ctx: HookContext) -> None:
        await ctx.store(log).put("hook", {})

    @app.on("turn_start")
    async def event(ctx: EventContext) -> None:
        await ctx.store(log).put("event", {})

    @app.task(autostart=False)
    async def task(ctx: TaskContext) -> None:
        await ctx.store(log).put("task", {})

    with TestHost(app) as host:
        host.call_tool("tool")
        host.run_command("command")
        host.call_hook("tool_call", {"tool": "x", "arguments": {}})
        host.send_event("turn_start")
        host.start_task("task")
        assert json.loads(host.call_tool("plain").content)[:4] == ["tool", "command", "hook", "event"]


def test_the_store_of_a_test_host_begins_empty() -> None:
    """In memory, and each host's own."""
    app = App("x")
    notes = app.collection("notes", dict[str, Any])

    @app.tool
    async def count(ctx: ToolContext) -> int:
        await ctx.store(notes).put("a", {})
        return await ctx.store(notes).count()

    for _ in range(2):
        with TestHost(app) as host:
            assert host.call_tool("count").content == "1"


def test_documents_outlive_the_process(tmp_path: Path) -> None:
    """Over real processes: the second one finds what the first one has put, in the folder that it was told of."""
    (tmp_path / "app.py").write_text(
        "from sepkit import App, ToolContext\n"
        "app = App('keeper')\n"
        "notes = app.collection('notes', dict[str, str], indexes=['tag'])\n"
        "@app.tool\n"
        "async def add(tag: str, ctx: ToolContext) -> int:\n"
        "    await ctx.store(notes).put(tag, {'tag': tag})\n"
        "    return await ctx.store(notes).count()\n"
    )
    for number, tag in enumerate(("x", "y"), 1):
        done = subprocess.run(
            [sys.executable, "-m", "sepkit", "call", "app:app", "add", f"tag={tag}"],
            cwd=tmp_path,
            env={"SEPKIT_DATA_DIR": str(tmp_path / "data"), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.stdout.strip(), done.returncode) == (str(number), 0), done.stderr
    for path in (tmp_path / "data").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, f"{path} is readable for others"


def test_an_app_without_collections_loads_nothing_of_them() -> None:
    """Its start costs what it did."""
    code = (
        "import sys; import sepkit; app = sepkit.App('x'); app.check();"
        "print([name for name in sys.modules if name in ('sqlite3', 'sepkit.contexts.documents')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "[]"


# -- declared ----------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    a: int
    b: int


class Reserved(TypedDict):
    _id: str


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (int, "a document is a JSON object: write a dataclass"),
        (list[str], "a document is a JSON object"),
        (object, "a document is a JSON object"),
        (asyncio.Queue, "Queue has no JSON form; write an attrs class"),
        ("Note", "'Note' has no JSON form"),
        (dict[int, str], "keys are strings in JSON"),
        (Reserved, "the field '_id' is reserved"),
    ],
)
def test_a_class_that_is_no_document_is_refused_where_it_is_written(cls: Any, said: str) -> None:
    """With what to write instead."""
    with pytest.raises(RegistrationError, match=r"collection 'notes': ") as caught:
        App("x").collection("notes", cls)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("reading-list", "write 'reading_list'"),
        ("my notes", "write 'my_notes'"),
        ("", "a letter or '_'"),
        ("1st", "a letter or '_'"),
        ("ä", "a letter or '_'"),
        ("a" * 65, "at most 64"),
        ('x"; DROP TABLE y', "at most 64"),
        ("notes\n", "write 'notes'"),
        (5, "collection name 5"),
        ("sepkit_jobs", "sepkit's own"),
    ],
)
def test_a_name_that_is_no_identifier_is_refused_where_it_is_written(name: Any, said: str) -> None:
    """With a name that is one, where there is one near."""
    with pytest.raises(RegistrationError, match="collection name") as caught:
        App("x").collection(name, Note)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("indexes", "said"),
    [
        ("tag", 'a list of fields such as ["tag"]'),
        (["tgas"], "there is no field 'tgas'; known: title, author, tags"),
        (["author.agee"], "there is no field 'author.agee'; known: name, age"),
        (["a'b"], "is not a field"),
        (["_id"], "get() finds by id"),
        (["tags", "tags"], "twice"),
        ([5], "5 is not a field"),
        (None, "a list of fields"),
        ([f"f{number}" for number in range(17)], "at most 16"),
    ],
)
def test_indexes_that_make_no_sense_are_refused_where_they_are_written(indexes: Any, said: str) -> None:
    """Also one of a field that the class does not have."""
    with pytest.raises(RegistrationError, match="indexes") as caught:
        App("x").collection("books", Book, indexes=indexes)
    assert said in str(caught.value)
    assert App("x").collection("books", Book, indexes=["author.age", "title"]).indexes == ("author.age", "title")


def test_two_collections_of_one_name_are_refused() -> None:
    """In an app, and when a router is included; then nothing of it is taken over."""
    app, router = App("x"), Router()
    app.collection("notes", Note)
    with pytest.raises(RegistrationError, match="collection 'notes' is registered twice"):
        app.collection("notes", Book)
    router.collection("notes", Book)
    router.collection("books", Book)
    with pytest.raises(RegistrationError, match="collection 'notes' is registered twice"):
        app.include(router)
    assert list(app.collections) == ["notes"]


def test_a_collection_of_a_router_is_the_apps_once_it_is_included() -> None:
    """Before that nothing can be stored in it."""
    app, outer, router = App("x"), Router(), Router()
    notes = router.collection("notes", dict[str, Any])

    @app.tool
    async def put(ctx: ToolContext) -> int:
        await ctx.store(notes).put("a", {})
        return await ctx.store(notes).count()

    with TestHost(app, log_level=100) as host:
        assert host.call_tool("put").is_error
    with pytest.raises(RegistrationError, match="of a Router that no app includes"):
        Documents(None, notes)  # type: ignore[arg-type]
    with pytest.raises(RegistrationError, match=r"what app\.collection returned, not of 'notes'"):
        Documents(None, "notes")  # type: ignore[arg-type]
    outer.include(router)
    app.include(outer)
    with TestHost(app) as host:
        assert host.call_tool("put").content == "1"


def test_inspect_shows_collections() -> None:
    """Their classes, versions, indexes, and where the migrations are."""
    app = App("x")
    books = app.collection("books", Book, indexes=["title"], version=2)
    app.collection("notes", dict[str, Any])

    @app.migrate(books, from_version=1)
    def grow(old: dict[str, Any]) -> dict[str, Any]:
        return old

    assert describe(app)["collections"] == [
        {"name": "books", "type": "Book", "version": 2, "indexes": ["title"], "migrations": {"1": where(grow)}},
        {"name": "notes", "type": "dict", "version": 1, "indexes": [], "migrations": {}},
    ]


# -- put ---------------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_what_could_not_be_read_again_is_not_put() -> None:
    """A field of a wrong type, an object of another class, what has no JSON: said with its path; nothing is stored."""
    app = App("x")
    books, loose = app.collection("books", Book), app.collection("loose", dict[str, Any])
    wrong: Any = 5

    async def test(store: Documents[Any], ctx: ToolContext) -> None:
        with pytest.raises(InvalidData, match=r"books\['a'\]\.author\.age: expected integer, got string"):
            await store.put("a", Book("t", Author("n", "old")))  # type: ignore[arg-type]
        with pytest.raises(InvalidData, match=r"books\['a'\]"):
            await store.put("a", Note("t"))
        with pytest.raises(InvalidData, match=r"books\['a'\]: expected object"):
            await store.put("a", wrong)
        with pytest.raises(EncodeError, match=r"loose\['a'\]\.x\[0\]: .*bytes has no form in JSON"):
            await ctx.store(loose).put("a", {"x": [b""]})
        with pytest.raises(EncodeError, match=r"loose\['a'\]\._v: the name of this field is reserved"):
            await ctx.store(loose).put("a", {"_v": 1})
        with pytest.raises(EncodeError, match=r"loose\['a'\]\._id: .*reserved"):
            await ctx.store(loose).put_many({"b": {}, "a": {"_id": 1}})
        no_pairs: list[Any] = [5, "ab", ("a",), ("a", {}, {})]
        for bad in no_pairs:
            with pytest.raises(ValueError, match="pairs"):
                await ctx.store(loose).put_many([bad])
        assert [await store.count(), await ctx.store(loose).count()] == [0, 0]

    await with_store(test, app, books)


@on_each_loop
async def test_documents_of_a_user_are_apart_from_the_apps_and_from_other_users() -> None:
    """What ``ctx.user.store`` is made of."""
    app = App("x")
    notes = app.collection("notes", dict[str, Any])

    async def test(store: Documents[Any], ctx: ToolContext) -> None:
        users = {name: Documents(ctx._link, notes, name) for name in ("ada", "bob")}
        await store.put("a", {"of": "app"})
        for name, documents in users.items():
            await documents.put("a", {"of": name})
        assert await store.find() == [{"of": "app"}]
        assert [await documents.find() for documents in users.values()] == [[{"of": "ada"}], [{"of": "bob"}]]
        await users["ada"].drop()
        assert [await store.count(), await users["ada"].count(), await users["bob"].count()] == [1, 0, 1]
        with pytest.raises(StoreError, match=r"user('s)? id"):
            await Documents(ctx._link, notes, "../bob").find()

    await with_store(test, app, notes)


@on_each_loop
async def test_an_id_that_is_no_bounded_text_is_refused() -> None:
    """By each method that takes one."""
    app = App("x")
    notes = app.collection("notes", dict[str, Any])
    ids: list[Any] = ["", "x" * 257, None, 5, b"a", "\ud800"]

    async def test(store: Documents[Any], _: ToolContext) -> None:
        for id in ids:  # noqa: A001
            for work in (store.put(id, {}), store.get(id), store.delete(id), store.put_many([(id, {})])):
                with pytest.raises(ValueError, match="id"):
                    await work
        await store.put("x" * 256, {})
        assert await store.count() == 1

    await with_store(test, app, notes)


# -- queries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"a": {"$regex": "x"}}, "a: there is no operator '$regex'; there are $gt $gte $lt $lte $ne $in $contains"),
        ({"a": {}}, "a: {} says nothing: write a value, or an operator"),
        ({"$or": []}, "'$or' is not a field"),
        ({"a": None}, "a: None can't be compared with: nothing is equal to null"),
        ({"a": {"$ne": None}}, "a.$ne: None can't be compared with"),
        (
            {"a": [1, 2]},
            "a: [1, 2] can't be compared with: write a text, a number, True or False; for one of several values",
        ),
        ({"a": {"$gt": [1]}}, "a.$gt: [1] can't be compared with"),
        ({"a": {"$in": []}}, "a.$in: write a list of values, not empty"),
        ({"a": {"$in": "abc"}}, "a.$in: write a list of values"),
        ({"a": {"$in": [1, None]}}, "a.$in[1]: None can't be compared with"),
        ({"a": {"$in": [[1]]}}, "a.$in[0]: [1] can't be"),
        ({"a": {"$in": [0] * 10_001}}, "at most 10,000"),
        ({"a": {"$in": ["x" * 60_000] * 18}}, "a.$in: texts of 1,080,000 characters in all: at most 1,048,576"),
        ({"a": {"$contains": 5}}, "a.$contains: write a text, not 5"),
        ({"a": {"$contains": True}}, "a.$contains: write a text, not True"),
        ({"a": {"b": 1}}, "a: there is no operator 'b'; for a field of it write 'a.b'"),
        ({"a": {1: 1}}, "a: there is no operator 1"),
        ({"a": {"$gt": float("nan")}}, "a.$gt: a float that is not finite"),
        ({"a": 2**63}, "does not fit 64 bits"),
        ({"a": b"x"}, "bytes has no form in JSON"),
        ({"a": "\ud800"}, "lone surrogate"),
        ({"a": "x" * 65_537}, "at most 65,536"),
        ({"a": {"$gt": 1, "$bad": 1}}, "there is no operator '$bad'"),
        ({"_id": "x"}, "'_id' is not a field of a document; get() finds by id"),
        ({"_v": 1}, "'_v' is not a field of a document"),
        ({"a..b": 1}, "'a..b' is not a field"),
        ({"a b": 1}, "is not a field"),
        ({"a') OR 1=1 --": 1}, "is not a field"),
        ({"": 1}, "'' is not a field"),
        ({"a\n": 1}, "is not a field"),
        ({5: 1}, "5 is not a field"),
        ({"a." * 100 + "a": 1}, "is not a field"),
        ({f"a{number}": 1 for number in range(101)}, "at most 100"),
        ("a", "a query is a dict"),
        ([("a", 1)], "a query is a dict"),
    ],
)
def test_a_wrong_query_is_refused_with_its_path_and_never_matches_everything(query: Any, said: str) -> None:
    """By each method, before any backend is asked."""
    app = App("x")
    notes = app.collection("notes", dict[str, Any])
    store: Documents[Any] = Documents(None, notes)  # type: ignore[arg-type]

    async def main() -> None:
        for work in (store.find, store.find_items, store.find_one, store.count, store.delete_many):
            with pytest.raises(QueryError) as caught:
                await work(query)
            assert said in str(caught.value)
            assert len(str(caught.value)) < 500

    asyncio.run(main())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sort": "a"}, "sort= is a dict"),
        ({"sort": ["a"]}, "sort= is a dict"),
        ({"sort": {"a": "up"}}, 'sort=: a: write "asc" or "desc", not \'up\''),
        ({"sort": {"a": 1}}, 'write "asc" or "desc"'),
        ({"sort": {"a": ["asc"]}}, 'write "asc" or "desc"'),
        ({"sort": {"a b": "asc"}}, "sort=: 'a b' is not a field"),
        ({"sort": {"_id": "asc"}}, "sort=: '_id' is not a field"),
        ({"sort": {f"a{number}": "asc" for number in range(17)}}, "at most 16"),
        ({"limit": -1}, "limit= is a whole number from 0"),
        ({"limit": True}, "limit= is a whole number"),
        ({"limit": 1.5}, "limit= is a whole number"),
        ({"limit": "5"}, "limit= is a whole number"),
        ({"limit": 2**53}, "limit= is a whole number"),
        ({"offset": -1}, "offset= is a whole number"),
        ({"offset": None}, "offset= is a whole number"),
    ],
)
def test_a_wrong_option_is_refused(options: Any, said: str) -> None:
    """Before any backend is asked."""
    app = App("x")
    notes = app.collection("notes", dict[str, Any])
    store: Documents[Any] = Documents(None, notes)  # type: ignore[arg-type]
    with pytest.raises(QueryError) as caught:
        asyncio.run(store.find({}, **options))
    assert said in str(caught.value)


@on_each_loop
async def test_nothing_is_deleted_by_a_query_that_says_nothing() -> None:
    """delete_many() of everything is drop()."""
    app = App("x")
    notes = app.collection("notes", dict[str, Any])

    async def test(store: Documents[Any], _: ToolContext) -> None:
        await store.put_many({str(number): {"a": number} for number in range(5)})
        empty: list[Any] = [{}, None, {"a": {}}, {"a": {"$regex": "x"}}, {"$or": []}, {"a": None}]
        for query in empty:
            with pytest.raises(QueryError):
                await store.delete_many(query)
        assert await store.delete_many({"nowhere": {"$ne": 1}}) == 0
        assert await store.count() == 5

    await with_store(test, app, notes)


# -- versions ----------------------------------------------------------------------------------------------------------


@dataclass
class NoteOfToday:
    title: str
    tags: list[str]


def three_versions() -> tuple[App, Collection[NoteOfToday]]:
    app = App("x")
    notes = app.collection("notes", NoteOfToday, version=3)

    @app.migrate(notes, from_version=1)
    def title(old: dict[str, Any]) -> dict[str, Any]:
        return {"title": old["text"][:10], "tag": old.get("tag")}

    @app.migrate(notes, from_version=2)
    def tags(old: dict[str, Any]) -> dict[str, Any]:
        tag = old.pop("tag")
        return {**old, "tags": [tag] if tag else []}

    return app, notes


@on_each_loop
async def test_an_older_document_is_migrated_when_it_is_read() -> None:
    """From each version, in one chain; what is put is of the newest, and what is stored stays until then."""
    app, notes = three_versions()

    async def test(store: Documents[NoteOfToday], ctx: ToolContext) -> None:
        documents, place = ctx._link.backend.documents, Place(None, "notes")
        await documents.put(
            place, [("1", {"text": "x" * 20, "tag": "t"}), ("2", {"title": "two", "tag": None, "_v": 2})]
        )
        await store.put("3", NoteOfToday("three", []))
        now = [NoteOfToday("x" * 10, ["t"]), NoteOfToday("two", []), NoteOfToday("three", [])]
        assert await store.find() == now
        assert [await store.get(id) for id in "123"] == now  # noqa: A001
        assert await documents.get(place, "1") == {"text": "x" * 20, "tag": "t"}
        assert await documents.get(place, "3") == {"title": "three", "tags": [], "_v": 3}
        assert await store.count({"title": "two"}) == 1
        assert await store.count({"text": "x" * 20}) == 1, "a query sees what is stored"
        await store.put_many(await store.find_items())
        assert await store.count({"text": "x" * 20}) == 0
        assert await store.find() == now

    await with_store(test, app, notes)


@on_each_loop
async def test_a_document_that_cannot_be_read_says_which_and_why() -> None:
    """Of a newer version, of none, one that a migration fails for, one that does not fit the class."""
    app, notes = three_versions()
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"_v": 4}, StoreError, "document 'a' of collection 'notes' is of version 4, and this app reads up to 3"),
        ({"_v": 0}, StoreError, "has the version 0, which is none"),
        ({"_v": "2"}, StoreError, "has the version '2', which is none"),
        ({"_v": 2**63}, StoreError, "and this app reads up to 3"),
        ({"tag": 5}, StoreError, "document 'a' of collection 'notes': its migration from version 1 failed: KeyError"),
        ({"title": 5, "tags": [], "_v": 3}, InvalidData, r"notes['a'].title: expected string, got integer"),
    ]

    async def test(store: Documents[NoteOfToday], ctx: ToolContext) -> None:
        for data, error, said in cases:
            await ctx._link.backend.documents.put(Place(None, "notes"), [("a", data)])
            for work in (store.get("a"), store.find()):
                with pytest.raises(error) as caught:
                    await work
                assert said in str(caught.value)
        assert await store.delete("a"), "it can still be deleted"

    await with_store(test, app, notes)


def test_a_migration_that_is_missing_is_said_at_the_start() -> None:
    """Not when the first older document is read."""
    app = App("x")
    notes = app.collection("notes", Note, version=3)
    app.migrate(notes, from_version=1)(lambda old: old)
    with pytest.raises(
        RegistrationError, match=r"collection 'notes': version=3, and no migration from version 2: write"
    ):
        app.check()
    app.migrate(notes, from_version=2)(lambda old: old)
    app.check()


async def _coroutine(old: dict[str, Any]) -> dict[str, Any]:
    return old


@pytest.mark.parametrize(
    ("fn", "version", "said"),
    [
        (lambda old: old, 0, "from_version=0: there are migrations from 1 to 2"),
        (lambda old: old, 3, "from_version=3: there are migrations from 1 to 2"),
        (lambda old: old, True, "from_version=True"),
        (lambda old: old, 1, "there is one from version 1 already"),
        (_coroutine, 2, "is a coroutine; write a plain `def`"),
        (5, 2, "decorates a function, not 5"),
    ],
)
def test_a_migration_that_makes_no_sense_is_refused_where_it_is_written(fn: Any, version: Any, said: str) -> None:
    """No such version, the second of one, no plain function."""
    app = App("x")
    notes = app.collection("notes", Note, version=3)

    @app.migrate(notes, from_version=1)
    def first(old: dict[str, Any]) -> dict[str, Any]:
        return old

    with pytest.raises(RegistrationError) as caught:
        app.migrate(notes, from_version=version)(fn)
    assert said in str(caught.value)
    with pytest.raises(RegistrationError, match="takes what app"):
        app.migrate("notes", from_version=1)(first)  # type: ignore[arg-type]


@on_each_loop
async def test_a_migration_that_returns_no_dict_is_named() -> None:
    """With the document."""
    app = App("x")
    notes = app.collection("notes", dict[str, Any], version=2)
    forgets: Any = lambda old: None  # noqa: E731
    app.migrate(notes, from_version=1)(forgets)

    async def test(store: Documents[Any], ctx: ToolContext) -> None:
        await ctx._link.backend.documents.put(Place(None, "notes"), [("a", {})])
        with pytest.raises(StoreError, match=r"document 'a' .* from version 1 returned NoneType; return the dict"):
            await store.get("a")

    await with_store(test, app, notes)


# -- many --------------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_putting_and_finding_thousands_leaves_the_loop_to_others() -> None:
    """Others have their turn between the documents."""
    app = App("x")
    books = app.collection("books", Book)

    async def test(store: Documents[Book], _: ToolContext) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        running = asyncio.ensure_future(other())
        await store.put_many((str(number), Book("t", Author("n", number))) for number in range(5000))
        put = turns
        assert len(await store.find()) == 5000
        running.cancel()
        assert put > 20
        assert turns - put > 20

    await with_store(test, app, books)
