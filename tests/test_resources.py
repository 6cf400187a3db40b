"""Resources: which URI means which, what a variable may hold, what is read, and what becomes of them under SEP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepkit import App, Contents, Image, ResourceContext, Router, ToolContext, ToolError
from sepkit.content import MOST_BYTES
from sepkit.errors import (
    ConnectionClosed,
    InternalError,
    InvalidParams,
    MethodNotFound,
    RegistrationError,
    RequestTimeout,
)
from sepkit.faces.sep.registrations import registrations
from sepkit.resources import LONGEST_URI, Template, _filled, find
from sepkit.serving.served import MOST_CHANGED, Served
from sepkit.testing import TestHost
from tests.memory_host import on_each_loop


def notes() -> App:
    """Resources of each kind."""
    app = App("notes")

    @app.resource("note://today", mime="text/markdown", title="Today")
    async def today() -> str:
        """The note of today."""
        return "# Today"

    @app.resource("note://{number}")
    async def note(number: int, ctx: ResourceContext) -> str:
        if number == 0:
            raise ToolError("there is no note 0")
        if number < 0:
            raise ValueError("secret")
        await ctx.kv.set("last", ctx.uri)
        return f"note {number}"

    @app.resource("file://{+path}")
    def file(path: str) -> bytes | Contents:
        return Contents(path, "text/x-path") if path.endswith("?") else path.encode()

    return app


# -- what a URI means --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "uri", "found"),
    [
        ("note://today", "note://today", {}),
        ("note://today", "NOTE://today", {}),
        ("note://today", "note://Today", None),
        ("note://{id}", "note://7", {"id": "7"}),
        ("note://{id}", "note://", None),
        ("note://{id}", "note://a/b", None),
        ("note://{id}", "note://a?b", None),
        ("note://{id}", "note://a#b", None),
        ("note://{id}", "note://a%2Fb", {"id": "a/b"}),
        ("note://{id}", "note://%C3%A9%20", {"id": "é "}),
        ("note://{id}", "note://%252e", {"id": "%2e"}),  # decoded once
        ("note://{id}/raw", "note://7/raw", {"id": "7"}),
        ("note://{id}/raw", "note://7/raw/raw", None),
        ("note://{a}-{b}", "note://1-2-3", {"a": "1", "b": "2-3"}),
        ("note://{a}-{b}", "note://-1-2", {"a": "-1", "b": "2"}),
        ("note://{a}-{b}", "note://1-", None),
        ("note://{a}-/{b}", "note://1-2-/3", {"a": "1-2", "b": "3"}),
        ("note://{a}.md", "note://a.md.md", {"a": "a.md"}),
        ("file://{+path}", "file://a/b?c#d", {"path": "a/b?c#d"}),
        ("file://{+path}", "file://", None),
        ("file://{+path}/raw", "file://a/raw/raw", {"path": "a/raw"}),
        ("file://{user}/{+path}/v{n}", "file://ada/x/v1/y/v2", {"user": "ada", "path": "x/v1/y", "n": "2"}),
        ("file://{user}/{+path}/v{n}", "file://ada/v2", None),
        ("search:{q}", "search:a%20b", {"q": "a b"}),
        ("x://h/{a}?n={b}", "x://h/1?n=2", {"a": "1", "b": "2"}),
    ],
)
def test_a_uri_matches_what_it_should(template: str, uri: str, found: dict[str, str] | None) -> None:
    """A variable has at least one character; without ``+`` none of ``/``, ``?`` and ``#``. The whole URI must match."""
    app = App("x")
    names = [variable.name for variable in Template(template).variables]
    app.add_resource(_taking(names), template)
    result = find(app.resources, uri)
    assert (None if result is None else result[1]) == found


def _taking(names: list[str]) -> Callable[..., str]:
    scope: dict[str, Any] = {}
    exec(f"def read({', '.join(f'{name}: str' for name in names)}) -> str: return ''", scope)
    made: Callable[..., str] = scope["read"]
    return made


@given(st.lists(st.text("ab-/", min_size=1, max_size=4), min_size=3, max_size=3))
def test_matching_finds_a_match_wherever_a_search_would(texts: list[str]) -> None:
    """No backtracking, and yet nothing is missed: what a regular expression matches is matched, too."""
    import re

    first, second, third = texts
    uri = f"t:{first}-{second}-{third}"
    matched = Template("t:{a}-{b}-{c}").match(uri) is not None
    assert matched == (re.fullmatch(r"t:([^/]+)-([^/]+)-([^/]+)", uri) is not None)
    with_path = Template("t:{a}-{+b}-{c}").match(uri) is not None
    assert with_path == (re.fullmatch(r"t:([^/]+)-(.+)-([^/]+)", uri) is not None)


@given(st.text(min_size=1), st.text(min_size=1))
def test_what_is_filled_in_is_what_is_read_out(one: str, path: str) -> None:
    """Whatever a tool's argument holds stands in the URI so that the resource gets it back; or both refuse it."""
    app = App("x")
    app.add_resource(_taking(["one", "path"]), "d://{one}/{+path}/end")
    (spec,) = app.resources.values()
    try:
        uri = _filled(spec.template, {"one": one, "path": path})
    except ToolError:
        return
    assert find(app.resources, uri) == (spec, {"one": one, "path": path})


def test_a_hostile_uri_is_matched_in_no_time() -> None:
    """The time is in proportion to the length, however many variables there are."""
    template = Template("t:" + "-".join(f"{{v{n}}}" for n in range(20)) + "x")
    began = time.process_time()
    for _ in range(20):
        assert template.match("t:" + "-" * (LONGEST_URI - 3)) is None
    assert time.process_time() - began < 1


def test_the_most_specific_resource_is_found() -> None:
    """A fixed URI, then templates without a path, then those with more text, then the order of registration."""
    app = App("x")
    for uri, names in (
        ("d://{+all}", ["all"]),
        ("d://docs/{+rest}", ["rest"]),
        ("d://{kind}/{id}", ["kind", "id"]),
        ("d://docs/{id}", ["id"]),
        ("d://docs/index", []),
        ("d://{id}/notes", ["id"]),
    ):
        app.add_resource(_taking(names), uri)

    def means(uri: str) -> str:
        found = find(app.resources, uri)
        assert found is not None
        return found[0].uri

    assert means("d://docs/index") == "d://docs/index"
    assert means("d://docs/other") == "d://docs/{id}"
    assert means("d://docs/notes") == "d://{id}/notes"  # one character more outside of the braces
    assert means("d://a/b") == "d://{kind}/{id}"
    assert means("d://docs/a/b") == "d://docs/{+rest}"
    assert means("d://x/y/z") == "d://{+all}"
    assert find(app.resources, "e://x") is None


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("file://../x", "{path} holds '..'"),
        ("file://a/../../x", "{path} holds '..'"),
        ("file://a/..", "{path} holds '..'"),
        ("file://%2e%2e/x", "{path} holds '..'"),
        ("file://a%2F..%2Fb", "{path} holds '..'"),
        ("file://a%5C..%5Cb", "{path} holds '..'"),
        ("file:///etc/passwd", "{path} is an absolute path; leave the first slash out"),
        ("file://%2Fetc/passwd", "{path} is an absolute path"),
        ("file://C:%5Cx", "{path} is an absolute path"),
        ("file://a%00", "{path} holds a NUL"),
        ("file://%zz", "{path} is not percent-encoded"),
        ("file://a%", "{path} is not percent-encoded"),
        ("file://%ff", "{path} is not UTF-8"),
        ("note", "the URI: 'note' is not a URI"),
        ("note://a b", "write %20 for a space"),
        ("note://\n", "is not a URI"),
        ("note://é", "is not a URI"),
        ("note://\ud800", "is not a URI"),
        ("", "is not a URI"),
        (":x", "is not a URI"),
        ("note:" + "a" * LONGEST_URI, "a URI has at most 8,192 characters"),
    ],
)
def test_a_uri_that_leads_out_is_refused_in_one_sentence(uri: str, problem: str) -> None:
    """``..``, absolute paths and NUL never reach a handler, however they are encoded."""
    with pytest.raises(InvalidParams) as caught:
        find(notes().resources, uri)
    assert problem in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_dots_that_do_not_lead_out_are_no_problem() -> None:
    """``..`` is refused as a segment only."""
    app = notes()
    for text in ("a..b", "...", "a/.../b", ".", "a/./b"):
        found = find(app.resources, f"file://{text}")
        assert found is not None
        assert found[1] == {"path": text}


# -- what is refused where it is written -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "names", "problem"),
    [
        ("note", [], "a URI begins with its scheme, written out, as in note://{id}"),
        ("", [], "a URI begins with its scheme"),
        ("{scheme}://x", ["scheme"], "begins with its scheme, written out"),
        ("note:{id", [], "a brace has no partner"),
        ("note:id}", [], "a brace has no partner"),
        ("note:{}", [], "{} can't be matched"),
        ("note:{?q}", ["q"], "{?q} can't be matched; write {name}, or {+name}"),
        ("note:{a,b}", ["a", "b"], "can't be matched"),
        ("note:{path*}", ["path"], "can't be matched"),
        ("note:{ä}", [], "can't be matched"),
        ("note:{a}{b}", ["a", "b"], "where one variable ends and the next begins can't be told"),
        ("note:{+a}/{+b}", ["a", "b"], "keep one of them"),
        ("note:{a}/{a}", ["a"], "{a} stands there twice"),
        ("note:a b", [], "write %20 for a space"),
        ("note:é", [], "is not a URI"),
        ("note:100%", [], "write %25 for a % itself"),
        ("note:{id}", [], "no parameter takes {id} of the URI; add `id: str`"),
        ("note:x", ["id"], "parameter 'id' is not in the URI; write {id} there"),
        ("note:{id}", ["idd"], "no parameter takes {id}"),
    ],
)
def test_a_resource_that_cannot_be_matched_is_refused(uri: str, names: list[str], problem: str) -> None:
    """Where it is written, in one sentence that names the URI."""
    app = App("x")
    with pytest.raises(RegistrationError) as caught:
        app.add_resource(_taking(names), uri)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(f"resource {uri!r}")
    assert not app.resources


def test_two_resources_of_one_uri_are_refused() -> None:
    """Also two templates that differ in the names of their variables only; and over routers."""
    app, router = App("x"), Router()
    app.add_resource(_taking([]), "note://today")
    app.add_resource(_taking(["id"]), "note://{id}")
    for uri, names in (("note://today", []), ("NOTE://today", []), ("note://{name}", ["name"])):
        with pytest.raises(RegistrationError, match=r"is registered twice .*; give one of them another URI"):
            app.add_resource(_taking(names), uri)
    router.add_resource(_taking(["x"]), "note://{x}")
    with pytest.raises(RegistrationError, match="is registered twice"):
        app.include(router)
    assert [spec.uri for spec in app.resources.values()] == ["note://today", "note://{id}"]


def test_the_other_mistakes_of_an_author_are_said_where_they_are_made() -> None:
    """Each in one sentence."""
    app = App("x")

    async def read(id: str) -> str:  # noqa: A002
        return id

    def refused(problem: str, fn: Any = read, uri: Any = "note://{id}", **options: Any) -> None:
        with pytest.raises(RegistrationError, match=problem):
            app.add_resource(fn, uri, **options)

    async def untyped(id) -> str:  # type: ignore[no-untyped-def]  # noqa: A002
        return str(id)

    async def of_tools(id: str, ctx: ToolContext) -> str:  # noqa: A002
        return id

    async def chunks(id: str) -> Any:  # noqa: A002
        yield id

    refused("has no annotation", untyped)
    refused("'ctx' is a ToolContext, which is not given here; write ResourceContext", of_tools)
    refused("is a generator; return its content", chunks)
    refused("mime='text': write a type", mime="text")
    refused("mime=5: write a text", mime=5)
    refused("title=5: write a text", title=5)
    refused("name='' is empty", name="")
    refused("expose_as_tool='yes': write True or False", expose_as_tool="yes")
    refused("letters, digits", name="My notes", expose_as_tool=True)
    refused("an icon is a URL", icons=["a.png"])
    refused("icons= takes a list", icons="https://x/a.png")
    refused(r'say which URI it has, as in @app.resource\("note://today"\)', uri=read)
    with pytest.raises(RegistrationError, match="say which URI it has"):
        app.resource(read)  # type: ignore[arg-type]
    refused("@app.resource decorates a function", fn="note")
    assert not app.resources
    assert not app.tools


def test_a_tool_of_that_name_is_there_already() -> None:
    """Nothing is registered of a resource whose tool has no place."""
    app = App("x")

    @app.tool
    async def note(id: str) -> str:  # noqa: A002
        return id

    with pytest.raises(RegistrationError, match="tool 'note' is registered twice"):
        app.resource("note://{id}", expose_as_tool=True)(note)
    assert not app.resources


# -- reading -----------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_resource_gives_its_content_and_the_type_of_it() -> None:
    """A text, bytes, ``Contents``; async def and def; the type is what was said, or what the URI or the bytes say."""
    async with TestHost(notes()) as host:
        assert await host.read_resource("note://today") == Contents("# Today", "text/markdown")
        assert await host.read_resource("note://7") == Contents("note 7", "text/plain")
        assert host.kv == {"last": "note://7"}
        assert await host.read_resource("file://a/b.json") == Contents(b"a/b.json", "application/json")
        assert await host.read_resource("file://a/b") == Contents(b"a/b", "application/octet-stream")
        assert await host.read_resource("file://a?") == Contents("a?", "text/x-path")
        assert (await host.read_resource("file://%C3%A9")).text == "é"


def test_a_resource_is_read_without_a_loop_too() -> None:
    """The blocking host has the same methods."""
    with TestHost(notes()) as host:
        assert host.read_resource("note://7").text == "note 7"


@on_each_loop
async def test_what_does_not_fit_or_fails_is_one_sentence() -> None:
    """Unknown URIs, variables of another type, what a handler raises, and results that are no content."""
    app = notes()

    @app.resource("bad://{kind}")
    def bad(kind: Literal["dict", "none", "class", "surrogate", "large"]) -> Any:
        large = bytes(MOST_BYTES + 1)
        return {"dict": {"a": 1}, "none": None, "class": Image, "surrogate": Contents("\ud800"), "large": large}[kind]

    async with TestHost(app) as host:
        with pytest.raises(InvalidParams, match=r"no resource has the URI 'other://x'; known: note://today, "):
            await host.read_resource("other://x")
        with pytest.raises(InvalidParams, match=r"the URI does not fit the resource note://\{number\}: \$\.number: "):
            await host.read_resource("note://seven")
        with pytest.raises(InternalError, match=r"^there is no note 0$"):
            await host.read_resource("note://0")
        with pytest.raises(InternalError, match=r"the resource note://\{number\} failed unexpectedly") as caught:
            await host.read_resource("note://-1")
        assert "secret" not in str(caught.value)
        for kind, problem in (
            ("dict", "it returned a dict, and not str, bytes or Contents"),
            ("none", "it returned a NoneType, and not str"),
            ("class", "it returned a type, and not str"),
            ("surrogate", "a text with a lone surrogate"),
            ("large", "33,554,433 bytes are too many; at most 33,554,432"),
        ):
            with pytest.raises(InternalError, match=rf"^the resource bad://\{{kind\}} cannot be sent: .*{problem}"):
                await host.read_resource(f"bad://{kind}")
        with pytest.raises(InvalidParams, match="expected one of"):
            await host.read_resource("bad://other")
    with pytest.raises(ConnectionClosed):
        await host.read_resource("note://today")


@on_each_loop
async def test_variables_are_typed_as_a_tools_parameters() -> None:
    """Numbers, dates, choices: what is a text in a URI becomes what the annotation says, where nothing is lost."""
    app, got = App("x"), list[object]()

    class Kind(Enum):
        SMALL = "s"

    @app.resource("t://{day}/{kind}/{exact}/{half}/{many}")
    async def typed(day: date, kind: Kind, exact: bool, half: float, many: list[int]) -> str:
        got.extend([day, kind, exact, half, many])
        return "ok"

    async with TestHost(app) as host:
        await host.read_resource("t://2026-01-31/s/true/0.5/%5B1,2%5D")
    assert got == [date(2026, 1, 31), Kind.SMALL, True, 0.5, [1, 2]]


@on_each_loop
async def test_a_read_that_takes_too_long_is_cancelled_and_gives_its_slot_back() -> None:
    """As a tool: it runs within a slot, which it lends while it asks the host."""
    app, seen = App("x"), list[str]()

    @app.resource("slow://{how}")
    async def slow(how: str, ctx: ResourceContext) -> str:
        try:
            if how == "asks":
                return str(await ctx.ui.confirm("?"))
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return ""

    async def answer(_: object) -> bool:
        await host.call_tool("quick")  # it needs the only slot
        return True

    @app.tool
    async def quick(ctx: ToolContext) -> str:
        await asyncio.sleep(0)
        return "quick"

    async with TestHost(app, max_concurrency=1, ui=answer) as host:
        with pytest.raises(RequestTimeout, match=r"the resource slow://x"):
            await host.read_resource("slow://x", timeout=0.01)
        await host.ping()
        assert seen == ["cancelled"]
        assert (await host.read_resource("slow://asks")).text == "True"
        assert (await host.call_tool("quick")).content == "quick"


# -- under SEP ---------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_under_sep_a_resource_is_not_there_and_the_log_says_so() -> None:
    """One line when the handshake is done names what is not served; an exposed one is not among them."""
    app = notes()

    @app.resource("memo://{id}", expose_as_tool=True)
    async def memo(id: str) -> str:  # noqa: A002
        """A memo."""
        return id

    async with TestHost(app) as host:
        await host.ping()
        (line,) = [line.message for line in host.logs if "not served" in line.message]
        assert line == (
            "not served, since SEP has no resources: note://today, note://{number}, file://{+path}; "
            "expose_as_tool=True makes tools of them"
        )
        assert [tool.name for tool in host.registrations.tools] == ["memo"]
    async with TestHost(App("none")) as host:
        await host.ping()
        assert not host.logs


@on_each_loop
async def test_an_exposed_resource_is_a_tool_under_sep() -> None:
    """Its variables are the arguments; what leads out is refused; bytes are a placeholder with the data beside it."""
    app = App("x")

    @app.resource("doc://{+path}", title="A document", expose_as_tool=True)
    async def document(path: str, ctx: ResourceContext) -> str | bytes | Contents:
        """A document.

        Args:
            path: Where it is.
            ctx: The call's context.
        """
        if path == "picture":
            return b"\x89PNG\r\n\x1a\n..."
        if path == "asks":
            return f"{await ctx.ui.confirm('?')} {ctx.uri}"
        return Contents(f"{ctx.uri} {path}", "text/plain") if path == "a b/ü" else 5  # type: ignore[return-value]

    @app.resource("n://{n}", expose_as_tool=True)
    def number(n: int) -> str:
        return f"n is {n}"

    @app.resource("later://x", expose_as_tool=True)
    def later(ctx: ResourceContext) -> Any:
        async def read() -> str:
            return ctx.uri

        return read()

    async with TestHost(app, ui={"confirm": True}) as host:
        (tool, *_) = host.registrations.tools
        assert (tool.name, tool.description) == ("document", "A document.")
        assert tool.parameters["properties"] == {"path": {"type": "string", "description": "Where it is."}}
        assert (await host.call_tool("document", {"path": "a b/ü"})).content == "doc://a%20b/%C3%BC a b/ü"
        assert (await host.call_tool("document", {"path": "asks"})).content == "True doc://asks"
        shown = await host.call_tool("document", {"path": "picture"})
        assert shown.content == "[doc://picture: image/png, 11 bytes]"
        block = {"uri": "doc://picture", "mimeType": "image/png", "blob": "iVBORw0KGgouLi4="}
        assert shown.details == {"content": [{"type": "resource", "resource": block}]}
        for path, problem in (("../x", "path holds '..'"), ("/etc", "path is an absolute path"), ("", "path is empty")):
            refused = await host.call_tool("document", {"path": path})
            assert refused.is_error
            assert problem in refused.content
        wrong = await host.call_tool("document", {"path": "x"})
        assert wrong.content == "doc://x cannot be read: it returned a int, and not str, bytes or Contents"
        assert (await host.call_tool("number", {"n": "5"})).content == "n is 5"
        assert "expected integer" in (await host.call_tool("number", {"n": "five"})).content
        assert (await host.call_tool("later")).content == "later://x"


@on_each_loop
async def test_resources_are_registered_and_replaced_while_the_app_is_served() -> None:
    """The host is told of a tool that stands for one; a face is told of the resource."""
    app, told = App("x"), list[Any]()
    app.add_resource(_taking([]), "a://1", name="one", expose_as_tool=True)
    async with TestHost(app) as host:
        host._served.changed(told.append)
        app.add_resource(_taking([]), "a://2", name="two", expose_as_tool=True)
        await host.ping()
        assert "two" in [tool.name for tool in host.registrations.tools]
        app.add_resource(lambda: "new", "a://1", name="one", expose_as_tool=True, replace=True)
        assert (await host.call_tool("one")).content == "new"
        assert (await host.read_resource("a://1")).text == "new"
        app.add_resource(lambda: "newer", "a://1", name="uno", replace=True)
        assert (await host.call_tool("one")).is_error
    assert [("resource", "a://2")] in told
    assert [("tool", "two")] in told


# -- changes -----------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_change_is_told_once_in_the_next_turn_of_the_loop() -> None:
    """From a handler and from its thread; each URI once; after the listener has gone, no more."""
    app = notes()

    @app.tool
    async def write(ctx: ToolContext) -> None:
        app.resource_changed("note://7")
        app.resource_changed("note://7")
        app.resource_changed("note://today")

    @app.tool
    def write_in_thread() -> None:
        app.resource_changed("file://a/b")

    told: list[list[str]] = []
    async with TestHost(app) as host:
        forget = host._served.on_resource_changed(lambda uris: told.append(list(uris)))
        await host.call_tool("write")
        assert told == [["note://7", "note://today"]]
        await host.call_tool("write_in_thread")
        await host.ping()
        assert told[1:] == [["file://a/b"]]
        forget()
        await host.call_tool("write")
        assert len(told) == 2


@on_each_loop
async def test_a_change_concerns_what_serves_the_running_handler() -> None:
    """Two hosts of one App: within a handler its own; elsewhere it must say which, and none is an error, too."""
    app = notes()

    @app.tool
    async def write() -> None:
        app.resource_changed("note://7")

    with pytest.raises(RegistrationError, match="resources change while the app is served, and it is not"):
        app.resource_changed("note://7")
    told: list[str] = []
    async with TestHost(app) as one:
        one._served.on_resource_changed(lambda uris: told.extend(f"one {uri}" for uri in uris))
        app.resource_changed("note://8")
        async with TestHost(app) as other:
            other._served.on_resource_changed(lambda uris: told.extend(f"other {uri}" for uri in uris))
            await other.call_tool("write")
            with pytest.raises(RegistrationError, match=r"served 2 times in this process; call app\.resource_changed"):
                app.resource_changed("note://7")
    assert told == ["one note://8", "other note://7"]


@on_each_loop
async def test_a_change_of_what_is_not_there_is_refused() -> None:
    """A misspelt URI would be told to no host, for ever."""
    async with TestHost(app := notes()):
        for uri, problem in (
            ("nota://7", r"no resource has this URI; known: note://today, note://\{number\}"),
            ("file://../x", "holds '..'"),
            ("x", "is not a URI"),
            (5, "a URI is a text, not int"),
        ):
            with pytest.raises(RegistrationError, match=rf"app.resource_changed\({uri!r}\): .*{problem}"):
                app.resource_changed(uri)  # type: ignore[arg-type]


@on_each_loop
async def test_changes_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """Of more URIs within one turn of the loop the rest is dropped, and the log says how many."""
    app = notes()
    async with TestHost(app) as host:
        told: list[str] = []
        served: Served = host._served
        for number in range(MOST_CHANGED + 50):
            app.resource_changed(f"note://{number}")  # without a listener nothing is kept
        assert not served._changed_resources
        served.on_resource_changed(told.extend)
        for number in range(MOST_CHANGED + 50):
            app.resource_changed(f"note://{number}")
        await host.ping()
        assert len(told) == MOST_CHANGED
        assert "more than 1024 resources changed at once; no host is told of 50 of them" in caplog.text


# -- the client --------------------------------------------------------------------------------------------------------


@on_each_loop
async def test_a_sep_host_cannot_be_asked_in_the_words_of_mcp() -> None:
    """``ctx.client`` is for MCP clients; under SEP each method is unknown, in one sentence. There is no principal."""
    app = App("x")

    @app.tool
    async def sample(ctx: ToolContext) -> str:
        with pytest.raises(MethodNotFound) as caught:
            await ctx.client.ask("sampling/createMessage", {"messages": []})
        return f"{caught.value.message} {ctx.principal}"

    async with TestHost(app) as host:
        said = (await host.call_tool("sample")).content
        assert said == "sampling/createMessage: ctx.client asks MCP clients, and this host speaks SEP None"


def test_nothing_of_it_is_imported_by_an_app_that_has_none() -> None:
    """Start-up counts: content and resources come with the first of them."""
    code = (
        "import sys; from sepkit import App; app = App('x'); app.tool(name='t')(lambda: ''); "
        "from sepkit.faces.sep import dispatcher; import sepkit.serving.served; "
        "print([name for name in sys.modules if name in "
        "('sepkit.content', 'sepkit.resources', 'sepkit.contexts.forms', 'mimetypes')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_registrations_of_sep_know_no_resource() -> None:
    """Nothing of a resource that is not exposed crosses the wire."""
    assert registrations(notes()) == registrations(App("x"))


def test_call_reads_a_resource_by_its_uri(tmp_path: Path) -> None:
    """In the process of the command: what the module prints is not in the output; each mistake is one sentence."""
    (tmp_path / "diary.py").write_text(
        "from sepkit import App, ResourceContext\n"
        "print('imported')\n"
        "app = App('diary')\n"
        "app.flag('loud', default=False)\n"
        "@app.resource('day://{n}')\n"
        "async def day(n: int, ctx: ResourceContext) -> str:\n"
        "    return f'day {n} \\x1b[31m {ctx.flags[\"loud\"]}'\n"
    )

    def call(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "sepkit", "call", "diary:app", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert call("day://7", "--flag", "loud=true") == (0, "day 7 \\x1b[31m True\n", "imported\n")
    code, out, err = call("day://seven")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("sepkit: the URI does not fit the resource day://{n}: $.n: expected integer")
    code, out, err = call("day://7", "n=7")
    assert (code, out) == (2, "")
    assert "a resource takes no arguments: what it needs is in its URI" in err
