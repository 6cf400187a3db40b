"""Settings: declared, read from their sources, set, observed; and flags, which have the same sources."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Le
from attrs import frozen

from sepkit import App, EventContext, Router, Setting, TaskContext, ToolContext
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.settings import Flags, Texts
from sepkit.errors import (
    BadSettings,
    EncodeError,
    InvalidData,
    InvalidParams,
    RegistrationError,
    SettingFixed,
    StoreError,
)
from sepkit.serving.served import Served
from sepkit.testing import TestHost
from tests.memory_host import MemoryHost, on_each_loop

# -- declared ----------------------------------------------------------------------------------------------------------


@frozen
class Place:
    host: str
    port: int = 80


class Colour(Enum):
    RED = "red"


def test_a_setting_is_a_flag_with_a_type_and_a_default() -> None:
    app = App("t")
    url = app.setting("url", str, default="x", description="Where it is.")
    assert isinstance(url, Setting)
    assert (url.name, url.default, url.description, url.schema) == ("url", "x", "Where it is.", {"type": "string"})
    assert app.flag_defaults == {"url": "x"}
    assert repr(url) == "<Setting 'url'>"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("a b", str, ""), "setting name 'a b': letters, digits, '-', '_' and '.' only; write 'a-b'"),
        ((5, str, ""), "setting name 5: a name is a string"),
        (("n", int, "5"), "setting 'n': the default '5' does not fit: expected integer, got string"),
        (("n", str, None), "setting 'n': the default None does not fit: expected string, got null"),
        (("n", int, True), "setting 'n': the default True does not fit: expected integer, got boolean"),
        (("n", float, float("nan")), "setting 'n': the default nan does not fit: a float that is not finite"),
        (("n", Annotated[int, Ge(1)], 0), "setting 'n': the default 0 does not fit"),
        (("n", bytes, b""), "setting 'n': bytes has no JSON form; take str and decode it, as base64 for example"),
        (("n", object(), 1), "setting 'n': "),
        (("n", int, object()), "setting 'n': the default <object object at "),
    ],
)
def test_what_cannot_be_a_setting_is_refused_where_it_is_written(arguments: Any, problem: str) -> None:
    with pytest.raises(RegistrationError) as caught:
        App("t").setting(*arguments)
    assert str(caught.value).startswith(problem)


def test_two_settings_of_one_name_are_refused() -> None:
    app = App("t")
    app.setting("url", str, "")
    with pytest.raises(RegistrationError, match="setting 'url' is registered twice"):
        app.setting("url", str, "")
    with pytest.raises(RegistrationError, match="flag 'url' is registered twice"):
        app.flag("url")
    router = Router()
    router.setting("url", int, 1)
    with pytest.raises(RegistrationError, match="setting 'url' is registered twice"):
        app.include(router)


@pytest.mark.parametrize("other", ["a-b", "A.B", "a_b", "A_b"])
def test_two_names_with_one_variable_are_refused(other: str) -> None:
    app = App("t")
    app.setting("a.b", str, "")
    router = Router()
    router.flag(other)
    said = f"flags 'a.b' and '{other}' would both be SEPKIT_FLAG_A_B in the environment; rename one"
    for refused in (lambda: app.flag(other), lambda: app.setting(other, str, ""), lambda: app.include(router)):
        with pytest.raises(RegistrationError) as caught:
            refused()
        assert str(caught.value) == said
    assert list(app.flag_defaults) == ["a.b"]
    assert list(app.settings) == ["a.b"]


def test_a_handler_takes_the_settings_type_and_names_a_setting_of_the_app() -> None:
    app = App("t")
    url = app.setting("url", str, "")
    with pytest.raises(
        RegistrationError, match="parameter 'value' has another type than the setting; annotate it with str"
    ):

        @app.on_setting(url)
        async def wrong(value: int) -> None: ...

    async def bare(value: str) -> None: ...

    for given in ("url", None, bare):
        with pytest.raises(RegistrationError, match="say which setting it is told of"):
            app.on_setting(given)  # type: ignore[arg-type]

    @app.on_setting(App("other").setting("else", str, ""))
    async def foreign(value: str) -> None: ...

    with pytest.raises(RegistrationError, match=r"handler of setting 'else' .*there is no such setting; known: url"):
        app.check()


@on_each_loop
async def test_a_setting_comes_too_late_once_the_app_is_served_but_not_in_its_lifespan() -> None:
    from collections.abc import AsyncIterator
    from contextlib import asynccontextmanager

    made: list[Setting[int]] = []

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        made.append(app.setting("n", int, 1))
        yield

    app = App("t", lifespan=lifespan)

    @app.tool
    async def read(ctx: ToolContext) -> int:
        with pytest.raises(RegistrationError, match="setting 'late' comes too late"):
            app.setting("late", int, 1)
        return ctx.setting(made[0])

    async with TestHost(app, settings={"n": 5}) as host:
        assert (await host.call_tool("read")).details == 5


# -- its sources -------------------------------------------------------------------------------------------------------


def flags(app: App, *, host: Any = None, line: Any = None, environ: Any = None, stored: Any = None) -> Flags:
    return Flags(host or {}, app.flag_defaults, app.settings, Texts(line or {}, environ or {}), stored or {})


def test_the_sources_have_their_order() -> None:
    app = App("t")
    n = app.setting("a.n", int, 1)
    sources: dict[str, Any] = {
        "stored": {"a.n": 2},
        "environ": {"SEPKIT_FLAG_A_N": "3"},
        "line": {"a.n": "4"},
        "host": {"a.n": 5},
    }
    given: dict[str, Any] = {}
    seen, holders = [n.of(flags(app))], []
    for source, values in sources.items():
        given[source] = values
        found = flags(app, **given)
        seen.append(n.of(found))
        holders.append(found.holder(n))
        assert found["a.n"] == n.of(found)
    assert seen == [1, 2, 3, 4, 5]
    assert holders == [None, "SEPKIT_FLAG_A_N", "--flag a.n", "the host"]


READ: list[tuple[Any, Any, str, Any]] = [
    (str, "", "5", "5"),
    (str, "", "", ""),
    (str, "", "null", "null"),
    (str, "", '{"a": 1}', '{"a": 1}'),
    (str, "", "a=b", "a=b"),
    (int, 0, "5", 5),
    (int, 0, "-123456789012345678", -123456789012345678),
    (float, 0.0, "2", 2.0),
    (bool, True, "false", False),
    (bool, False, "true", True),
    (list[str], [], '["a", "b"]', ["a", "b"]),
    (list[int], [], "[]", []),
    (dict[str, float], {}, '{"a": 1.5}', {"a": 1.5}),
    (int | None, 1, "null", None),
    (int | None, None, "5", 5),
    (int | str, "", "5", "5"),
    (Literal["a", "b"], "a", "b", "b"),
    (Colour, Colour.RED, "red", Colour.RED),
    (Place, Place("h"), '{"host": "x", "port": 5}', Place("x", 5)),
    (Annotated[int, Ge(1), Le(9)], 1, "9", 9),
    (Any, None, '"x"', "x"),
    (Any, None, "x", "x"),
]


@pytest.mark.parametrize(("kind", "default", "text", "value"), READ)
def test_text_is_read_by_the_settings_type(kind: Any, default: Any, text: str, value: Any) -> None:
    app = App("t")
    setting = app.setting("n", kind, default)
    for source in ({"line": {"n": text}}, {"environ": {"SEPKIT_FLAG_N": text}}):
        found = flags(app, **source)
        found.check(complete=True)
        assert setting.of(found) == value
        assert type(setting.of(found)) is type(value)


@pytest.mark.parametrize(
    ("kind", "default", "text"),
    [
        (int, 0, "5x"),
        (int, 0, "1.5"),
        (int, 0, ""),
        (int, 0, "true"),
        (int, 0, '"5"'),
        (bool, False, "1"),
        (bool, False, "yes"),
        (bool, False, '"true"'),
        (float, 0.0, "nan"),
        (list[int], [], "1"),
        (list[int], [], "[1"),
        (list[int], [], '["x"]'),
        (dict[str, int], {}, "[]"),
        (str, "", "\udcff"),
        (list[str], [], '["\udcff"]'),
        (Literal["a"], "a", "b"),
        (Annotated[int, Ge(1)], 1, "0"),
        (Place, Place("h"), '{"host": "x", "prot": 5}'),
    ],
)
def test_text_that_says_no_value_of_the_type_is_a_fault(kind: Any, default: Any, text: str) -> None:
    app = App("t")
    app.setting("n", kind, default)
    with pytest.raises(BadSettings, match=r"^--flag n[:.\[]") as caught:
        flags(app, line={"n": text}).check(complete=True)
    str(caught.value).encode()


def test_all_faults_are_one_message_with_the_source_of_each() -> None:
    app = App("t")
    for name in ("a", "b.c", "d", "e", "f"):
        app.setting(name, int, 0)
    app.setting("tags", list[int], [])
    found = flags(
        app,
        host={"a": "x", "unknown": 1},
        line={"d": "y", "nosuch": "1", "tags": "[1, null]"},
        environ={"SEPKIT_FLAG_B_C": "z", "SEPKIT_FLAG_NOSUCH": "1"},
        stored={"e": "5", "nosuch": 1},
    )
    with pytest.raises(BadSettings) as caught:
        found.check(complete=True)
    assert str(caught.value).split("; ") == [
        "the host's flag a: expected integer, got string",
        "SEPKIT_FLAG_B_C: expected integer, got string",
        "--flag d: expected integer, got string",
        "the stored setting e: expected integer, got string",
        "--flag tags[1]: expected integer, got null",
        "--flag 'nosuch': expected a flag of the app (a, b.c, d, e, f, tags), got another",
    ]


def test_what_a_higher_source_covers_is_not_looked_at() -> None:
    app = App("t")
    app.setting("n", int, 0)
    flags(app, host={"n": 1}, line={"n": "x"}, environ={"SEPKIT_FLAG_N": "x"}, stored={"n": "x"}).check(complete=True)


def test_a_host_may_send_what_means_the_same_and_null_is_absent() -> None:
    app = App("t")
    n = app.setting("n", int, 1)
    maybe = app.setting("maybe", int | None, 1)
    assert n.of(flags(app, host={"n": "5"})) == 5
    assert n.of(flags(app, host={"n": None}, stored={"n": 3})) == 3
    assert maybe.of(flags(app, host={"maybe": None})) is None


def test_a_value_is_a_copy_each_time() -> None:
    app = App("t")
    default: list[list[int]] = [[1]]
    tags = app.setting("tags", list[list[int]], default)
    default[0].append(2)
    for source in ({}, {"host": {"tags": [[1]]}}, {"stored": {"tags": [[1]]}}, {"line": {"tags": "[[1]]"}}):
        found = flags(app, **source)
        tags.of(found)[0].append(3)
        assert tags.of(found) == [[1]]


def test_a_plain_flag_is_read_by_the_type_of_its_default() -> None:
    app = App("t")
    for name, default in {"text": "a", "whole": 1, "part": 1.0, "on": False, "many": [1], "any": None}.items():
        app.flag(name, default)
    line = {"text": "5", "whole": "5", "part": "5", "on": "true", "many": '["x"]', "any": "[5]"}
    found = flags(app, line=line)
    found.check(complete=True)
    assert dict(found) == {"text": "5", "whole": 5, "part": 5.0, "on": True, "many": ["x"], "any": [5]}
    assert flags(app, line={"any": "some text"})["any"] == "some text"
    with pytest.raises(BadSettings, match=r"^--flag whole: .*; --flag on: expected boolean, got string$"):
        flags(app, line={"whole": "x", "on": "yes"}).check(complete=True)
    assert flags(app, host={"whole": "as it came", "more": 1}) == {**dict(flags(app)), "whole": "as it came", "more": 1}


# -- in an app that is served ------------------------------------------------------------------------------------------


class Sample:
    """An app with settings, and what its handlers saw."""

    def __init__(self) -> None:
        self.app = app = App("sample")
        self.url = app.setting("url", str, default="none", description="Where it is.")
        self.tags = app.setting("tags", list[str], default=[])
        self.seen: list[tuple[str, Any]] = []
        self.gate: asyncio.Event | None = None

        @app.tool
        async def read(ctx: ToolContext) -> dict[str, Any]:
            return {"url": ctx.setting(self.url), "tags": ctx.setting(self.tags), "flags": dict(ctx.flags)}

        @app.tool
        async def write(ctx: ToolContext, url: str) -> None:
            await ctx.set_setting(self.url, url)

        @app.on_setting(self.url)
        async def changed(value: str, ctx: EventContext) -> None:
            if self.gate is not None:
                await self.gate.wait()
            self.seen.append((value, ctx.setting(self.url)))


@on_each_loop
async def test_what_is_set_is_read_at_once_told_in_order_and_there_again_at_the_next_start() -> None:
    sample = Sample()
    async with TestHost(sample.app) as host:
        assert host.registrations.flags == ["url", "tags"]
        assert (await host.call_tool("read")).details == {
            "url": "none",
            "tags": [],
            "flags": {"url": "none", "tags": []},
        }
        for url in ("a", "b", "b", "c"):
            await host.call_tool("write", {"url": url})
        assert (await host.call_tool("read")).details["url"] == "c"
        while len(sample.seen) < 3:
            await asyncio.sleep(0)
    assert [value for value, _ in sample.seen] == ["a", "b", "c"], "what is the same as before is not told"
    async with TestHost(sample.app, settings={"url": "stored"}, flags={"tags": ["x"]}) as host:
        assert (await host.call_tool("read")).details == {
            "url": "stored",
            "tags": ["x"],
            "flags": {"url": "stored", "tags": ["x"]},
        }


@on_each_loop
async def test_what_the_host_holds_cannot_be_set() -> None:
    sample = Sample()
    async with TestHost(sample.app, flags={"url": "theirs"}) as host:
        result = await host.call_tool("write", {"url": "mine"})
        assert result.is_error
        assert (await host.call_tool("read")).details["url"] == "theirs"
    assert sample.seen == []


@on_each_loop
async def test_the_refusal_to_set_names_the_source() -> None:
    app = App("t")
    settings = [app.setting(name, str, "") for name in ("a", "b", "c")]
    said: list[str] = []

    @app.tool
    async def write(ctx: ToolContext) -> None:
        for setting in settings:
            with pytest.raises(SettingFixed) as caught:
                await ctx.set_setting(setting, "x")
            said.append(str(caught.value))

    texts = Texts({"b": "y"}, {"SEPKIT_FLAG_C": "y"})
    served = Served(app, texts=texts, backend=lambda: LocalBackend("t", None))
    async with MemoryHost(app, served=served, handshake={"flags": {"a": "y"}}) as host:
        call = {"call_id": "c", "tool": "write", "arguments": {}, "context": {"token": "epoch-1", "tier": "command"}}
        assert not (await host.ask("tool/execute", call)).get("is_error")
    assert said == [
        "setting 'a' is fixed by the host; set it there",
        "setting 'b' is fixed by --flag b; set it there",
        "setting 'c' is fixed by SEPKIT_FLAG_C; set it there",
    ]


@on_each_loop
async def test_a_value_that_does_not_fit_is_refused_and_nothing_is_stored() -> None:
    sample = Sample()
    raised: list[BaseException] = []

    @sample.app.tool
    async def wrong(ctx: ToolContext) -> None:
        other = App("other").setting("url", str, "")
        twin = Router().setting("gone", str, "")
        for setting, value in [
            (sample.url, 5),
            (sample.url, None),
            (sample.tags, ["a", 1]),
            (sample.tags, object()),
            (sample.url, "x" * 70_000),
            (sample.url, "\ud800"),
            (other, "x"),
            (twin, "x"),
        ]:
            try:
                await ctx.set_setting(setting, value)  # type: ignore[arg-type]
            except Exception as error:
                raised.append(error)
        with pytest.raises(RegistrationError, match="setting 'url' is not one of this app"):
            ctx.setting(other)

    async with TestHost(sample.app) as host:
        assert not (await host.call_tool("wrong")).is_error
        assert (await host.call_tool("read")).details["url"] == "none"
    invalid, encode, foreign = InvalidData, EncodeError, RegistrationError
    assert [type(error) for error in raised] == [invalid, invalid, invalid, encode, invalid, encode, foreign, foreign]
    assert str(raised[0]) == "setting 'url': expected string, got integer"
    assert str(raised[2]) == "setting 'tags'[1]: expected string, got integer"
    assert str(raised[4]) == "setting 'url': expected at most 65,536 bytes of JSON, got 70,002"
    assert sample.seen == []


@on_each_loop
async def test_a_handler_that_fails_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    sample = Sample()
    told: list[str] = []

    @sample.app.on_setting(sample.url)
    async def fails(value: str) -> None:
        raise RuntimeError("no")

    @sample.app.on_setting(sample.url)
    def in_a_thread(value: str) -> None:
        told.append(value)

    @sample.app.on_setting(sample.url)
    async def without_a_value() -> None:
        told.append("without")

    async with TestHost(sample.app) as host:
        assert not (await host.call_tool("write", {"url": "a"})).is_error
        while not (len(told) == 2 and sample.seen):
            await asyncio.sleep(0)
    assert sorted(told) == ["a", "without"]
    assert "the url handler fails failed" in caplog.text


@on_each_loop
async def test_a_slow_handler_delays_neither_the_setter_nor_the_order_and_is_waited_for_at_the_end() -> None:
    sample = Sample()
    sample.gate = asyncio.Event()
    async with TestHost(sample.app) as host:
        for url in ("a", "b"):
            await host.call_tool("write", {"url": url})
        assert sample.seen == []
        asyncio.get_running_loop().call_later(0.01, sample.gate.set)
    assert sample.seen == [("a", "b"), ("b", "b")]


@on_each_loop
async def test_a_handler_that_never_ends_is_cancelled_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    sample = Sample()
    sample.gate = asyncio.Event()
    async with TestHost(sample.app, grace=0.4) as host:
        await host.call_tool("write", {"url": "a"})
    assert "still running at the end, cancelled: setting url handler changed" in caplog.text


@on_each_loop
async def test_calls_that_set_at_once_and_one_that_is_cancelled_leave_one_value() -> None:
    """What is read afterwards is what is on the disk."""
    sample = Sample()
    backend = LocalBackend("t", None)
    served = Served(sample.app, backend=lambda: backend)
    kept = backend.settings

    @sample.app.tool
    async def race(ctx: ToolContext) -> None:
        tasks = [asyncio.create_task(ctx.set_setting(sample.url, str(number))) for number in range(20)]
        await asyncio.sleep(0)
        tasks[-1].cancel()
        await asyncio.wait(tasks)
        while (await kept.all()).get("url") != "19":
            await asyncio.sleep(0)
        assert ctx.setting(sample.url) == "19"

    async with MemoryHost(sample.app, served=served) as host:
        call = {"call_id": "c", "tool": "race", "arguments": {}, "context": {"token": "epoch-1", "tier": "command"}}
        assert not (await host.ask("tool/execute", call)).get("is_error")
    assert [value for value, _ in sample.seen] == [str(number) for number in range(20)]


@on_each_loop
async def test_a_change_over_one_connection_is_seen_on_all_and_told_once() -> None:
    sample = Sample()
    served = Served(sample.app, backend=lambda: LocalBackend("t", None))
    context = {"token": "epoch-1", "tier": "command"}
    async with served, MemoryHost(sample.app, served=served) as one, MemoryHost(sample.app, served=served) as other:
        write = {"call_id": "c", "tool": "write", "arguments": {"url": "a"}, "context": context}
        await one.ask("tool/execute", write)
        read = {"call_id": "d", "tool": "read", "arguments": {}, "context": context}
        assert (await other.ask("tool/execute", read))["details"]["url"] == "a"
    assert sample.seen == [("a", "a")]


@on_each_loop
async def test_a_background_task_reads_and_sets_settings() -> None:
    sample = Sample()

    @sample.app.task(autostart=True)
    async def works(ctx: TaskContext) -> None:
        await ctx.set_setting(sample.url, ctx.setting(sample.url) + "!")

    async with TestHost(sample.app):
        while not sample.seen:
            await asyncio.sleep(0)
    assert sample.seen == [("none!", "none!")]


@on_each_loop
async def test_a_host_that_sends_a_wrong_value_is_told_all_and_the_app_does_not_start() -> None:
    sample = Sample()
    entered: list[App] = []
    with pytest.raises(InvalidParams) as caught:
        async with TestHost(sample.app, flags={"url": 5, "tags": ["a", 1]}):
            entered.append(sample.app)
    assert entered == []
    assert caught.value.message == (
        "the app's flags and settings do not fit: the host's flag url: expected string, got integer; "
        "the host's flag tags[1]: expected string, got integer"
    )
    assert [fault["path"] for fault in caught.value.data["errors"]] == [
        "the host's flag url",
        "the host's flag tags[1]",
    ]


@on_each_loop
async def test_a_server_that_holds_the_app_is_told_of_wrong_values_before_there_is_a_host() -> None:
    sample = Sample()
    served = Served(sample.app, texts=Texts({"tags": "x"}, {}), backend=lambda: LocalBackend("t", None))
    with pytest.raises(BadSettings, match=r"^--flag tags: expected array, got string$"):
        async with served:
            pass


@on_each_loop
async def test_a_store_that_cannot_be_read_keeps_the_app_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    sample = Sample()

    class Broken:
        async def all(self) -> dict[str, Any]:
            raise StoreError("the store x failed: disk I/O error")

    backend = LocalBackend("t", None)
    backend._settings = Broken()  # type: ignore[assignment]
    served = Served(sample.app, backend=lambda: backend)
    caplog.set_level(logging.ERROR)
    with pytest.raises(StoreError, match="disk I/O error"):
        async with served:
            pass


@on_each_loop
async def test_the_test_host_refuses_a_setting_that_the_app_does_not_declare() -> None:
    with pytest.raises(ValueError, match=r"settings=: the app declares no setting 'ulr'; did you mean 'url'\?"):
        async with TestHost(Sample().app, settings={"ulr": "x"}):
            pass


@on_each_loop
async def test_the_test_host_keeps_secrets_in_memory() -> None:
    app = App("t")

    @app.tool
    async def login(ctx: ToolContext, key: str) -> list[Any]:
        before = await ctx.secrets.get("api.key")
        await ctx.secrets.set("api.key", key)
        return [before, await ctx.secrets.get("api.key"), await ctx.secrets.list(), await ctx.secrets.delete("api.key")]

    async with TestHost(app, secrets={"api.key": "old"}) as host:
        assert (await host.call_tool("login", {"key": "new"})).details == ["old", "new", ["api.key"], True]


def test_settings_and_secrets_work_without_a_loop_and_on_a_virtual_clock() -> None:
    from sepkit.testing.clock import run_virtual

    sample = Sample()
    with TestHost(sample.app, settings={"url": "x"}, secrets={"k": "v"}) as blocking:
        assert blocking.call_tool("read").details["url"] == "x"

    async def virtual() -> None:
        async with TestHost(sample.app, settings={"url": "y"}) as host:
            await host.call_tool("write", {"url": "z"})
            assert (await host.call_tool("read")).details["url"] == "z"

    run_virtual(virtual())
