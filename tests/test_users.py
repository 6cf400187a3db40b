"""``ctx.user`` and ``ctx.users()``: whom a call is made for, and how far that reaches."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sepkit import App, CommandContext, EventContext, HookContext, TaskContext, ToolCall, ToolContext
from sepkit.app import SERVING
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import Principal
from sepkit.contexts.link import current_user
from sepkit.errors import NoUser, StoreError
from sepkit.tasks import TaskRefused
from sepkit.testing import TestHost
from sepkit.userids import LONGEST, user_fault, user_file
from tests.memory_host import on_each_loop

LEAVES_ITS_FOLDER = [
    "../bo",
    "/etc/passwd",
    "..",
    ".",
    "a/b",
    "a\\b",
    "a:b",
    "a\0b",
    "a\nb",
    "\x7f",
    "a\u2028b",
    "\u202eob",
]
NOT_AN_ID = ["", "  ", "a" * (LONGEST + 1), "å" * LONGEST, "\udcff", 5, None, b"ada", ["ada"], True]


def an_app() -> App:
    app = App("users")

    @app.tool
    async def who(ctx: ToolContext) -> list[Any]:
        return [ctx.user.id, await ctx.user.profile(), await ctx.users(), current_user()]

    @app.tool
    def who_in_a_thread(ctx: ToolContext) -> list[Any]:
        return [ctx.user.id, ctx.wait(ctx.user.profile()), ctx.wait(ctx.users()), current_user()]

    @app.tool
    async def need(ctx: ToolContext) -> str:
        with pytest.raises(NoUser) as raised:
            ctx.user.needed("the notes")
        return str(raised.value)

    return app


@on_each_loop
async def test_a_call_knows_its_user_what_the_host_tells_of_it_and_all_users() -> None:
    profiles = {"ada": {"nickname": "Ada", "language": "sv"}, "bo": {}}
    async with TestHost(an_app(), user="ada", users=profiles) as host:
        for tool in ("who", "who_in_a_thread"):
            answer = await host.call_tool(tool)
            assert answer.details == ["ada", {"nickname": "Ada", "language": "sv"}, ["ada", "bo"], "ada"]


@on_each_loop
async def test_without_a_user_there_is_no_id_an_empty_profile_and_an_empty_list() -> None:
    async with TestHost(an_app()) as host:
        assert (await host.call_tool("who")).details == [None, {}, [], None]
        assert (await host.call_tool("need")).content.startswith("the notes: there is no user here")


async def _seen_by_each_kind_of_handler(host: TestHost, seen: list[Any]) -> None:
    await host.call_hook("tool_call", {"tool": "x", "arguments": {}})
    await host.run_command("say")
    await host.send_event("turn_start")


@on_each_loop
async def test_hooks_commands_and_events_have_the_user_of_their_call() -> None:
    app, seen = App("users"), list[Any]()

    @app.hook("tool_call")
    async def gate(call: ToolCall, ctx: HookContext) -> None:
        seen.append((ctx.user.id, current_user()))

    @app.command
    async def say(ctx: CommandContext) -> None:
        seen.append((ctx.user.id, current_user()))

    @app.on("turn_start")
    async def observe(payload: dict[str, Any], ctx: EventContext) -> None:
        seen.append((ctx.user.id, current_user()))

    async with TestHost(app, user="ada") as host:
        await _seen_by_each_kind_of_handler(host, seen)
        host.user = "bo"
        await _seen_by_each_kind_of_handler(host, seen)
        host.user = None
        await _seen_by_each_kind_of_handler(host, seen)
    assert seen == [("ada", "ada")] * 3 + [("bo", "bo")] * 3 + [(None, None)] * 3


@on_each_loop
async def test_a_per_user_task_is_started_for_the_user_of_the_call_and_so_are_those_that_it_starts() -> None:
    app, seen = App("users"), asyncio.Queue[Any]()

    @app.task(per_user=True)
    async def outer(ctx: TaskContext) -> None:
        seen.put_nowait((ctx.task_id, ctx.user.id, ctx.user_id, current_user(), await ctx.user.profile()))
        app.tasks.start(inner)
        await ctx.wait_stop()

    @app.task(per_user=True)
    async def inner(ctx: TaskContext) -> None:
        seen.put_nowait((ctx.task_id, ctx.user.id))
        await ctx.wait_stop()

    @app.task(autostart=False)
    async def shared(ctx: TaskContext) -> None:
        seen.put_nowait((ctx.task_id, ctx.user.id, current_user()))
        await ctx.wait_stop()

    @app.tool
    async def follow(user: str | None = None) -> None:
        async def soon() -> None:  # a task of the handler's own works for its user, too
            app.tasks.start(outer, user_id=user)

        await asyncio.create_task(soon())

    @app.tool
    async def share() -> None:
        app.tasks.start(shared)

    async with TestHost(app, user="ada", users={"ada": {"nickname": "A"}}) as host:
        assert not (await host.call_tool("follow")).is_error
        assert await seen.get() == ("outer:ada", "ada", "ada", "ada", {"nickname": "A"})
        assert await seen.get() == ("inner:ada", "ada")
        host.user = "bo"
        assert not (await host.call_tool("follow")).is_error
        assert await seen.get() == ("outer:bo", "bo", "bo", "bo", {})
        assert await seen.get() == ("inner:bo", "bo")
        assert not (await host.call_tool("follow", {"user": "cy"})).is_error
        assert (await seen.get())[:3] == ("outer:cy", "cy", "cy")
        assert await seen.get() == ("inner:cy", "cy")
        await host.call_tool("share")
        assert await seen.get() == ("shared", None, None), "what is shared by all works for none"


@on_each_loop
async def test_a_per_user_task_that_a_call_without_a_user_starts_is_refused() -> None:
    app, said = App("users"), list[str]()

    @app.task(per_user=True)
    async def feed(ctx: TaskContext) -> None: ...

    @app.tool
    async def follow(user: Any = None) -> None:
        with pytest.raises(TaskRefused) as raised:
            app.tasks.start(feed, user_id=user)
        said.append(str(raised.value))

    async with TestHost(app) as host:
        await host.call_tool("follow")
        for user in LEAVES_ITS_FOLDER:
            assert not (await host.call_tool("follow", {"user": user})).is_error
            with pytest.raises(Exception, match="user_id cannot be the name of a file"):
                await host.start_task("feed", user_id=user)
    assert said[0] == "task 'feed' is per user: start it with a user_id"
    assert all(text.startswith("task 'feed': user_id cannot be the name of a file: ") for text in said[1:])


@on_each_loop
async def test_the_lifespan_works_for_no_user() -> None:
    from contextlib import asynccontextmanager

    seen = []

    @asynccontextmanager
    async def lifespan(app: App) -> Any:
        seen.append((current_user(), SERVING.get() is not None))
        yield

    async with TestHost(App("users", lifespan=lifespan), user="ada"):
        pass
    assert seen == [(None, True)]


def test_a_user_may_be_changed_between_the_calls_of_a_blocking_host() -> None:
    with TestHost(an_app(), user="ada", users=["bo"]) as host:
        assert host.user == "ada"
        assert host.call_tool("who").details == ["ada", {}, ["ada", "bo"], "ada"]
        host.user = "bo"
        assert host.call_tool("who").details == ["bo", {}, ["ada", "bo"], "bo"]


@pytest.mark.parametrize("user", [*LEAVES_ITS_FOLDER, *NOT_AN_ID], ids=lambda user: f"{user!a:.20}")
def test_an_id_that_could_leave_its_folder_is_refused_in_one_sentence_wherever_it_comes_in(
    user: Any, tmp_path: Path
) -> None:
    fault = user_fault(user)
    assert fault is not None
    assert "\n" not in fault
    assert len(fault) < 250
    with pytest.raises(ValueError, match="the user's id "):
        Principal(user)
    if user is not None:
        with pytest.raises(ValueError, match="the user's id "):
            TestHost(an_app(), user=user)
    if isinstance(user, str):
        with pytest.raises(StoreError, match="the user's id "):
            LocalBackend("users", tmp_path).database(user)
    with pytest.raises(ValueError, match="the user's id "):
        TestHost(an_app(), users=[user] if not isinstance(user, list) else [""])
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_users_that_is_a_text_is_refused_with_what_to_write() -> None:
    with pytest.raises(ValueError, match=r"users='ada': write a list of ids, \['ada'\]"):
        TestHost(an_app(), users="ada")


IDS = st.text(min_size=1, max_size=90).filter(lambda text: user_fault(text) is None)


@given(IDS, IDS)
def test_two_users_never_share_a_file_even_where_capitals_do_not_count(one: str, other: str) -> None:
    names = [user_file(one), user_file(other)]
    for name in names:
        assert name.isascii()
        assert not {"/", "\\", ":", "\0"} & set(name)
        assert not name.startswith(".")
        assert len(f"{name}.sqlite3-journal") <= 255
    assert (names[0].lower() == names[1].lower()) == (one == other)


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("ada", "ada"),
        ("ada@example.com", "ada@example.com"),
        ("auth0|5f7c", "auth0%7C5f7c"),
        ("Ada", "%41da"),
        (".ssh", "%2Essh"),
        ("50%", "50%25"),
        ("åsa", "%C3%A5sa"),
    ],
)
def test_the_file_of_a_user_shows_whose_it_is(user: str, name: str) -> None:
    assert user_fault(user) is None
    assert user_file(user) == name


@on_each_loop
async def test_each_user_has_documents_of_their_own_and_without_one_the_apps_are_not_touched() -> None:
    app = App("users")
    notes = app.collection("notes", dict[str, str])

    @app.tool
    async def keep(text: str, ctx: ToolContext) -> str:
        try:
            await ctx.user.store(notes).put("a", {"text": text})
        except NoUser as error:
            return str(error)
        return "kept"

    @app.tool
    async def read(ctx: ToolContext) -> list[Any]:
        of_user = None if ctx.user.id is None else await ctx.user.store(notes).get("a")
        return [of_user, await ctx.store(notes).get("a")]

    async with TestHost(app, user="ada") as host:
        assert (await host.call_tool("keep", {"text": "of ada"})).content == "kept"
        assert (await host.call_tool("read")).details == [{"text": "of ada"}, None]
        host.user = "bo"
        assert (await host.call_tool("read")).details == [None, None]
        host.user = None
        assert (await host.call_tool("keep", {"text": "x"})).content.startswith("ctx.user.store: there is no user here")
        assert (await host.call_tool("read")).details == [None, None]
