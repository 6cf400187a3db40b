"""The public API as its users type it. Checked by mypy --strict, never run.

What mypy must refuse carries a ``type: ignore`` with the code of the error: an accepted mistake leaves that unused,
which is an error of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypedDict, assert_type

import attrs

from sepkit import (
    App,
    Audio,
    Block,
    CommandContext,
    Completion,
    Contents,
    Credentials,
    Delta,
    Done,
    EmbeddedResource,
    EventContext,
    Format,
    HookContext,
    Icon,
    Image,
    JobContext,
    Messages,
    Model,
    ModelUsed,
    OAuthParams,
    Patch,
    Principal,
    PromptMessage,
    ProviderContext,
    ProviderRequest,
    Reasoning,
    ResourceContext,
    ResourceLink,
    RestartPolicy,
    Router,
    RpcError,
    Setting,
    SystemPrompt,
    TaskContext,
    TaskHealth,
    ToolCall,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolContext,
    ToolError,
    ToolOutcome,
    ToolResult,
    Usage,
    UserBash,
    render,
)
from sepkit.contexts.documents import Collection, Documents
from sepkit.errors import CapabilityDisabled, NoUI
from sepkit.handlers import CommandSpec
from sepkit.resources import ResourceSpec
from sepkit.scheduling import Job
from sepkit.testing import BlockingTestHost, TestHost
from sepkit.wire.messages import ExecRunResult, StreamEvent


@asynccontextmanager
async def lifespan(app: App) -> AsyncIterator[dict[str, int]]:
    yield {"n": 1}


app = App("typed", version="1.0", lifespan=lifespan, expose_errors=True)
router = Router()


@attrs.frozen
class Point:
    x: int


class Turn(TypedDict):
    agent_id: str


# -- tools -------------------------------------------------------------------------------------------------------------


@app.tool
async def bare(name: str, ctx: ToolContext) -> str:
    ctx.update("half", progress=0.5, details={"any": Point(1)})
    ctx.update(progress=1)
    assert_type(ctx.call_id, str)
    return name


@app.tool()
async def called(x: int = 1) -> ToolResult:
    return ToolResult("content", is_error=True, details=[x])


@router.tool(name="x", description="y", parameters={"type": "object"}, deferred=True, strict=True, timeout=1.5)
def in_a_thread(point: Point, *, flag: bool = False) -> dict[str, int]:
    if flag:
        raise ToolError("no")
    return {"x": point.x}


# Decorators keep the function's own type.
is_bare: Callable[[str, ToolContext], Coroutine[Any, Any, str]] = bare
is_called: Callable[[int], Coroutine[Any, Any, ToolResult]] = called
assert_type(in_a_thread(Point(1), flag=True), dict[str, int])
wrong_bare: Callable[[int], Coroutine[Any, Any, str]] = bare  # type: ignore[assignment]
in_a_thread("point")  # type: ignore[arg-type]


@app.tool("name")  # type: ignore[call-overload, untyped-decorator]
async def named_by_position() -> None: ...


@app.tool(titel="x")  # type: ignore[call-overload, untyped-decorator]
async def unknown_option() -> None: ...


@app.tool(timeout="1")  # type: ignore[call-overload, untyped-decorator]
async def wrong_option() -> None: ...


@app.tool(
    title="A tool",
    read_only=True,
    destructive=False,
    idempotent=True,
    open_world=False,
    icons=["https://x/a.png", Icon("data:,x", sizes=["any"], theme="dark")],
    output_schema=Point,
    long=True,
)
async def told_of(x: int) -> Point:
    return Point(x)


is_told_of: Callable[[int], Coroutine[Any, Any, Point]] = told_of


@app.tool(read_only="yes")  # type: ignore[call-overload, untyped-decorator]
async def wrong_hint() -> None: ...


@app.tool
async def rich(ctx: ToolContext) -> list[str | Image | Audio | ResourceLink | EmbeddedResource]:
    form = await ctx.ui.form("Where?", Point)
    assert_type(form, Point | None)
    assert_type(await ctx.ui.form("Which turn?", Turn), Turn | None)
    assert_type(await ctx.ui.open_url("Log in", "https://example.org"), bool)
    assert_type(await ctx.client.ask("roots/list"), Any)
    assert_type(ctx.principal, Principal | None)
    app.resource_changed("note://7")
    app.resource_changed(7)  # type: ignore[arg-type]
    return [
        "text",
        Image(b"", "image/png"),
        Audio.file("a.wav"),
        ResourceLink("note://7"),
        EmbeddedResource("a:b", b""),
    ]


Image("a.png")  # type: ignore[arg-type]
Contents(5)  # type: ignore[arg-type]
PromptMessage("x", "system")  # type: ignore[arg-type]
mail: Annotated[str, Format("email")] = "a@b"
Format("phone")  # type: ignore[arg-type]


# -- resources, prompts ------------------------------------------------------------------------------------------------


@app.resource("note://{id}", name="n", title="t", description="d", mime="text/plain", icons=[], expose_as_tool=True)
async def note(id: int, ctx: ResourceContext) -> str | bytes | Contents:  # noqa: A002
    assert_type(ctx.uri, str)
    assert_type(await ctx.ui.confirm("?"), bool | None)
    return Contents("text", "text/markdown")


is_note: Callable[[int, ResourceContext], Coroutine[Any, Any, str | bytes | Contents]] = note


@app.resource  # type: ignore[arg-type]
async def without_uri() -> str:
    return ""


@app.prompt
async def bare_prompt(topic: str) -> str:
    return topic


@router.prompt(name="p", title="t", description="d", icons=["https://x"])
def full_prompt(ctx: CommandContext) -> list[PromptMessage]:
    return [PromptMessage("a"), PromptMessage(Image(b"", "image/png"), role="assistant")]


is_bare_prompt: Callable[[str], Coroutine[Any, Any, str]] = bare_prompt
assert_type(app.prompts, dict[str, CommandSpec])
assert_type(app.resources, dict[str, ResourceSpec])
assert_type(app.exposed("tool"), list[CommandSpec])
app.add_prompt(full_prompt, name="q", replace=True)
app.add_resource(lambda: "", "note://all", replace=True)


@app.command(expose="tool")
async def exposed() -> str:
    return ""


@app.command(expose="tols")  # type: ignore[call-overload, untyped-decorator]
async def wrongly_exposed() -> None: ...


async def in_tests(host: TestHost, blocking: BlockingTestHost) -> None:
    assert_type(await host.read_resource("note://7", timeout=1), Contents)
    assert_type(await host.get_prompt("p", {"topic": "x"}), list[PromptMessage])
    assert_type(blocking.read_resource("note://7").data, str | bytes)
    assert_type(blocking.get_prompt("p"), list[PromptMessage])


# -- hooks -------------------------------------------------------------------------------------------------------------


@app.hook("tool_call")
async def on_call(call: ToolCall, ctx: HookContext) -> Block | None:
    assert_type(call.tool, str)
    assert_type(call.arguments, dict[str, Any])
    assert_type(ctx.hook, str)
    return Block("no") if call.tool == "bash" else None


@app.hook("tool_result")
async def on_result(outcome: ToolOutcome) -> ToolOutcome:
    assert_type(outcome.is_error, bool)
    return attrs.evolve(outcome, content=outcome.content.strip())


@app.hook("user_bash")
def on_bash(typed: UserBash) -> Patch | Block | None:
    return Patch(command=typed.command + " # seen")


@app.hook("before_agent_start")
async def on_start(prompt: SystemPrompt) -> SystemPrompt | None:
    return None if prompt.system_prompt else SystemPrompt("Be kind.")


@router.hook("context")
async def on_context(context: Messages) -> Messages:
    assert_type(context.messages, list[dict[str, Any]])
    return context


@router.hook("input")
async def on_input(value: dict[str, Any]) -> dict[str, Any]:
    return value


@router.hook("before_provider_request")
def on_request(value: dict[str, Any]) -> dict[str, Any] | None:
    return None


@app.hook("message_end")
async def on_message() -> None: ...


@app.hook("session_before_compact")
@app.hook("session_before_tree")
async def on_session(ctx: HookContext) -> Block:
    return Block()


is_on_call: Callable[[ToolCall, HookContext], Coroutine[Any, Any, Block | None]] = on_call
is_on_bash: Callable[[UserBash], Patch | Block | None] = on_bash


@app.hook  # type: ignore[arg-type]
async def without_its_name(call: ToolCall) -> None: ...


@app.hook("tool_cal")  # type: ignore[arg-type]
async def misspelt(call: ToolCall) -> None: ...


@app.hook("turn_start")  # type: ignore[arg-type]
async def event_as_hook(call: dict[str, Any]) -> None: ...


@app.hook("tool_call")  # type: ignore[type-var]
async def says_yes(call: ToolCall) -> bool:
    return True


@app.hook("tool_call")  # type: ignore[type-var]
async def says_why(call: ToolCall) -> str:
    return "no"


@app.hook("tool_call")  # type: ignore[type-var]
def says_yes_in_a_thread(call: ToolCall) -> bool:
    return True


@app.hook("tool_call")  # type: ignore[type-var]
async def returns_the_class(call: ToolCall) -> type[Block]:
    return Block


@app.hook("tool_call")  # type: ignore[type-var]
async def yields(call: ToolCall) -> AsyncIterator[Block]:
    yield Block()


Block(5)  # type: ignore[arg-type]


# -- events ------------------------------------------------------------------------------------------------------------


@app.on("turn_start")
async def on_turn(turn: Turn, ctx: EventContext) -> None:
    assert_type(ctx.name, str)
    assert_type(ctx.seq, int | None)
    assert_type(turn["agent_id"], str)


@app.on("my_host/event")
def on_own(payload: dict[str, object]) -> None: ...


@router.on_bus("news")
async def on_news(point: Point) -> None: ...


@router.on_key("board")
async def on_key(payload: dict[str, str]) -> None: ...


is_on_turn: Callable[[Turn, EventContext], Coroutine[Any, Any, None]] = on_turn
is_on_own: Callable[[dict[str, object]], None] = on_own


@app.on  # type: ignore[arg-type]
async def event_without_its_name(payload: dict[str, Any]) -> None: ...


@app.on("turn_start")  # type: ignore[type-var]
async def decides(payload: dict[str, Any]) -> Block:
    return Block()


@app.on("turn_start")  # type: ignore[type-var]
def decides_in_a_thread(payload: dict[str, Any]) -> bool:
    return False


@app.on_bus("news")  # type: ignore[type-var]
async def answers(payload: dict[str, Any]) -> str:
    return "heard"


@app.on_key(5)  # type: ignore[arg-type]
async def of_a_number(payload: dict[str, Any]) -> None: ...


async def event_tier(ctx: EventContext, task: TaskContext, provider: ProviderContext) -> None:
    for each in (ctx, task, provider):
        assert_type(await each.tools.set_active(["a"]), list[str])
    ctx.session  # type: ignore[attr-defined]  # noqa: B018
    ctx.exec  # type: ignore[attr-defined]  # noqa: B018
    ctx.update("x")  # type: ignore[attr-defined]
    task.session  # type: ignore[attr-defined]  # noqa: B018


# -- commands ----------------------------------------------------------------------------------------------------------


@app.command
async def report(ctx: CommandContext, unit: Literal["a", "b"] = "a") -> str:
    assert_type(ctx.arguments, dict[str, Any])
    return unit


@app.command(name="other", description="Other.")
def other(n: int) -> None: ...


@app.complete("report")
async def suggest(partial: str) -> list[str]:
    return ["a"]


@app.complete("other")
def suggest_records(ctx: CommandContext, partial: str) -> tuple[str | Completion, ...]:
    return ("1", Completion("2", "two"))


@router.complete("more")
async def suggest_lazily(partial: str) -> Iterator[Completion]:
    return iter([Completion("x", description="y")])


is_report: Callable[[CommandContext, Literal["a", "b"]], Coroutine[Any, Any, str]] = report
is_suggest: Callable[[str], Coroutine[Any, Any, list[str]]] = suggest
app.shortcut("ctrl+r", "report", "Report")
app.flag("verbose", default=False, description="Say more.")
app.flag("quiet", False, "Say less.")  # type: ignore[call-arg]
app.renderer("tag", render.stack(render.markdown("x"), render.progress(0.5, label="y")))


@app.complete("report")  # type: ignore[type-var]
async def suggests_numbers(partial: str) -> list[int]:
    return [1]


@app.complete("report")  # type: ignore[type-var]
async def suggests_one(partial: str) -> Completion:
    return Completion("x")


@app.complete  # type: ignore[arg-type]
async def suggests_for_nothing(partial: str) -> list[str]:
    return []


# -- providers ---------------------------------------------------------------------------------------------------------


@app.provider("p", models=[Model("m", display_name="M")], base_url="https://x", api_key_env="KEY")
async def complete(request: ProviderRequest, ctx: ProviderContext) -> AsyncIterator[StreamEvent]:
    assert_type(request.model, str)
    yield ModelUsed("m")
    yield Reasoning("hm")
    yield Delta("x")
    yield ToolCallStart(0, "id", "name")
    yield ToolCallArgumentsDelta(0, "{}")
    yield Usage(prompt_tokens=1, extra={"cost": 1})
    await ctx.delta(Delta("y"))
    yield Done("stop")


@router.provider("q")
async def only_text(request: dict[str, Any]) -> AsyncIterator[Delta]:
    yield Delta("x")


@app.oauth_login("p")
async def login(ctx: ProviderContext) -> Credentials:
    return Credentials(api_key=await ctx.ui.input("Key?"))


@app.oauth_refresh("p")
async def refresh(request: OAuthParams) -> Credentials:
    assert_type(request.refresh_token, str | None)
    return Credentials(access_token="x", expires_at=1)


is_complete: Callable[[ProviderRequest, ProviderContext], AsyncIterator[StreamEvent]] = complete


@app.provider("p")  # type: ignore[type-var]
async def no_generator(request: ProviderRequest) -> list[Delta]:
    return []


@app.provider("p")  # type: ignore[type-var]
def plain_generator(request: ProviderRequest) -> Iterator[Delta]:
    yield Delta("x")


@app.provider("p")  # type: ignore[type-var]
async def yields_text(request: ProviderRequest) -> AsyncIterator[str]:
    yield "x"


@app.provider  # type: ignore[arg-type]
async def provider_without_its_name() -> AsyncIterator[Delta]:
    yield Delta("x")


@app.oauth_login("p")  # type: ignore[type-var]
def login_in_a_thread(request: OAuthParams) -> Credentials:
    return Credentials()


@app.oauth_login("p")  # type: ignore[type-var]
async def login_with_a_dict(request: OAuthParams) -> dict[str, str]:
    return {}


app.provider("p", models=["m"])  # type: ignore[list-item]


async def wrong_delta(ctx: ProviderContext) -> None:
    await ctx.delta("text")  # type: ignore[arg-type]


# -- tasks -------------------------------------------------------------------------------------------------------------


@app.task
async def forever(ctx: TaskContext) -> None:
    while not ctx.stopping:
        ctx.report_health("fine")
        await ctx.sleep(1)
        if await ctx.wait_stop(0.5):
            return


@router.task(restart="on-failure", max_restarts=3, per_user=True, autostart=False, heartbeat_timeout=5)
async def for_user(ctx: TaskContext) -> int:
    assert_type(ctx.user_id, str | None)
    return 1


async def drive() -> None:
    handle = app.tasks.start(for_user, id="x", user_id="u", payload={"a": 1}, name="n")
    assert_type(handle.health, TaskHealth)
    await handle.join()
    async with app.tasks.start("for_user") as other_handle:
        assert_type(await other_handle.stop(), TaskHealth)
    assert_type(await app.tasks.stop("x"), TaskHealth | None)
    assert_type(app.tasks.status(), list[TaskHealth])


is_forever: Callable[[TaskContext], Coroutine[Any, Any, None]] = forever
policy = RestartPolicy(type="never", max_restarts=1)


@app.task  # type: ignore[type-var]
def task_in_a_thread(ctx: TaskContext) -> None: ...


@app.task(restart="never")  # type: ignore[type-var]
def task_in_a_thread_with_options() -> None: ...


@app.task(restart="sometimes")  # type: ignore[call-overload, untyped-decorator]
async def unknown_policy() -> None: ...


@app.task  # type: ignore[type-var]
async def task_that_yields() -> AsyncIterator[int]:
    yield 1


# -- jobs --------------------------------------------------------------------------------------------------------------


@app.every(60, misfire="skip", retry=True)
async def each_minute(ctx: JobContext[State]) -> None:
    assert_type(ctx.scheduled_for, datetime)
    assert_type(ctx.job_id, str)
    assert_type(ctx.user_id, str | None)
    assert_type(ctx.state, State)
    await ctx.sleep(1)


@router.cron("0 9 * * 1-5", tz="Europe/Stockholm", name="nine")
def nine_in_a_thread() -> None: ...


@app.job
async def once(ctx: JobContext) -> None: ...


@app.job(retry=True)
async def once_more(ctx: JobContext) -> int:
    return 1


async def plan() -> None:
    job = app.schedule.at(datetime.now(UTC), once, payload={"a": 1}, user_id="u", id="x")
    assert_type(job, Job)
    assert_type(await job, Job)
    assert_type((await app.schedule.at(timedelta(hours=1), "once")).when, datetime | None)
    assert_type(await app.schedule.cancel("x"), bool)
    assert_type(await app.schedule.list(), list[Job])
    app.schedule.at(60, once)  # type: ignore[arg-type]


is_once: Callable[[JobContext], Coroutine[Any, Any, None]] = once


@app.every("60")  # type: ignore[arg-type]
async def each_word() -> None: ...


@app.cron("* * * * *", misfire="never")  # type: ignore[arg-type]
async def misfires() -> None: ...


@app.job  # type: ignore[type-var]
async def job_that_yields() -> AsyncIterator[int]:
    yield 1


@app.job(every=60)  # type: ignore[call-overload, untyped-decorator]
async def unknown_option_of_a_job() -> None: ...


async def no_session_in_a_job(ctx: JobContext) -> None:
    ctx.session  # type: ignore[attr-defined]  # noqa: B018


# -- the state ---------------------------------------------------------------------------------------------------------


@attrs.define
class State:
    calls: int = 0


@app.tool
async def counts(ctx: ToolContext[State]) -> int:
    assert_type(ctx.state, State)
    ctx.state.calls += 1
    ctx.update("counted")
    return ctx.state.calls


@app.hook("tool_call")
async def counted(call: ToolCall, ctx: HookContext[State]) -> Block | None:
    return Block("enough") if ctx.state.calls > 5 else None


@app.command
async def total(ctx: CommandContext[State | None] | None = None) -> str:
    assert ctx is not None
    assert_type(ctx.state, State | None)
    return "none" if ctx.state is None else str(ctx.state.calls)


async def each_state(
    event: EventContext[State],
    task: TaskContext[State],
    provider: ProviderContext[State],
    bare_context: ToolContext,
) -> None:
    assert_type(event.state, State)
    assert_type(task.state, State)
    assert_type(provider.state, State)
    assert_type(bare_context.state, Any)
    anything: int = bare_context.state
    event.state.missing  # type: ignore[attr-defined]  # noqa: B018
    wrong: int = task.state  # type: ignore[assignment]
    takes_any(event_context=bare_context, number=anything + wrong)  # type: ignore[arg-type]
    any_tool(bare_context)


def takes_any(event_context: EventContext, number: int) -> None: ...


def any_tool(ctx: ToolContext[State]) -> None: ...


# -- apps and routers --------------------------------------------------------------------------------------------------

app.include(router)
app.include("module")  # type: ignore[arg-type]
App()  # type: ignore[call-arg]
App("x", "1.0")  # type: ignore[call-arg]


async def undecorated(app: App) -> AsyncIterator[None]:
    yield


App("x", lifespan=undecorated)  # type: ignore[arg-type]


# -- documents ---------------------------------------------------------------------------------------------------------

points = app.collection("points", Point, indexes=["x"], version=2)
turns = router.collection("turns", Turn)
loose = app.collection("loose", dict[str, int])
assert_type(points, Collection[Point])
assert_type(turns, Collection[Turn])
assert_type(loose, Collection[dict[str, int]])


@app.migrate(points, from_version=1)
def from_first(old: dict[str, Any]) -> dict[str, Any]:
    return old


assert_type(from_first({}), dict[str, Any])


async def documents(ctx: ToolContext, event: EventContext, task: TaskContext) -> None:
    store = ctx.store(points)
    assert_type(store, Documents[Point])
    assert_type(event.store(turns), Documents[Turn])
    assert_type(task.store(loose), Documents[dict[str, int]])
    assert_type(await store.get("a"), Point | None)
    assert_type(await store.find({"x": {"$gt": 1}}, sort={"x": "desc"}, limit=1, offset=1), list[Point])
    assert_type(await store.find_items(), list[tuple[str, Point]])
    assert_type(await store.find_one({"x": 1}), Point | None)
    assert_type(await store.count(), int)
    assert_type(await store.delete("a"), bool)
    assert_type(await store.delete_many({"x": 1}), int)
    await store.put("a", Point(1))
    await store.put_many({"a": Point(1)})
    await store.put_many(("a", Point(number)) for number in range(3))
    await store.put_many(await store.find_items())
    await event.store(turns).put("a", {"agent_id": "x"})
    assert_type(ctx.wait(store.find_one()), Point | None)
    await store.drop()


async def wrong_documents(ctx: ToolContext) -> None:
    store = ctx.store(points)
    await store.put("a", {"x": 1})  # type: ignore[arg-type]
    await store.put(1, Point(1))  # type: ignore[arg-type]
    await store.put_many([Point(1)])  # type: ignore[list-item]
    await store.find(sort={"x": "up"})  # type: ignore[dict-item]
    await store.find(sort=["x"])  # type: ignore[arg-type]
    await store.find(limit="5")  # type: ignore[arg-type]
    await store.find("x")  # type: ignore[arg-type]
    await store.delete_many()  # type: ignore[call-arg]
    found: int = await store.get("a")  # type: ignore[assignment]
    ctx.store("points")  # type: ignore[arg-type]
    ctx.store(Point)  # type: ignore[arg-type]
    app.collection("more")  # type: ignore[call-arg]
    app.collection("more", Point, indexes=found)  # type: ignore[arg-type]
    app.collection("more", Point, version="2")  # type: ignore[arg-type]
    app.migrate(points)  # type: ignore[call-arg]
    app.migrate(Point, from_version=1)  # type: ignore[arg-type]


@app.migrate(points, from_version=1)  # type: ignore[type-var]
async def not_a_plain_function(old: dict[str, Any]) -> dict[str, Any]:
    return old


# -- services ----------------------------------------------------------------------------------------------------------


async def services(ctx: ToolContext) -> None:
    assert_type(await ctx.ui.select("Which?", ["a", "b"]), str | None)
    assert_type(await ctx.ui.confirm("Sure?"), bool | None)
    assert_type(await ctx.ui.input("Name?", default="Ada"), str | None)
    await ctx.ui.notify("done", level="warn")
    await ctx.ui.set_status("busy")
    await ctx.ui.set_title("title")
    await ctx.ui.set_widget(render.widget("w", render.table(["a"], [["1"]]), {"q": None}))
    assert_type(ctx.has_ui("select"), bool)
    assert_type(await ctx.kv.get("k", int), int | None)
    assert_type(await ctx.kv.get("k", Point, None), Point | None)
    assert_type(await ctx.kv.get("k", int, 0), int)
    assert_type(await ctx.kv.get("k", int, "none"), int | str)
    assert_type(await ctx.kv.get("k", list[str]), list[str] | None)
    anything: Point = await ctx.kv.get("k")
    await ctx.kv.set("k", anything)
    await ctx.kv.delete("k")
    assert_type(await ctx.kv.list("prefix"), list[str])
    assert_type(await ctx.exec.run("ls", ["-l"], cwd="/"), ExecRunResult)
    await ctx.session.send_message("hi", role="user")
    await ctx.session.send_user_message("hi", deliver_as="next_turn")
    await ctx.session.append_entry({"any": 1})
    assert_type(await ctx.session.set_model("m", provider="p", thinking="high"), bool)
    assert_type(await ctx.session.state(), dict[str, Any])
    assert_type(await ctx.bus.publish("news", {"n": 1}), bool)
    assert_type(await ctx.tools.set_active(["a"]), list[str])
    ctx.log.info("n is %d", 1)
    logging.getLogger(__name__).info("so does this")
    assert_type(ctx.context.token, str)
    try:
        await asyncio.sleep(0)
    except (NoUI, CapabilityDisabled) as error:
        assert_type(error.code, int)
    except RpcError as error:
        assert_type(error.message, str)


async def wrong_services(ctx: ToolContext) -> None:
    await ctx.ui.notify("x", level="loud")  # type: ignore[arg-type]
    ctx.has_ui("telepathy")  # type: ignore[arg-type]
    await ctx.ui.select("Which?")  # type: ignore[call-arg]
    await ctx.kv.set("k")  # type: ignore[call-arg]
    await ctx.kv.get(5)  # type: ignore[call-overload]
    number: int = await ctx.kv.get("k", int)  # type: ignore[assignment]
    await ctx.session.send_message("x", role="system")  # type: ignore[arg-type]
    await ctx.session.send_user_message("x", deliver_as=str(number))  # type: ignore[arg-type]
    await ctx.exec.run(["ls"])  # type: ignore[arg-type]
    ctx.update(progress="half")  # type: ignore[arg-type]
    ctx.kv.get("k", int).real  # type: ignore[attr-defined]  # noqa: B018
    render.progress("half")  # type: ignore[arg-type]
    ToolResult(content=5)  # type: ignore[arg-type]
    Completion(5)  # type: ignore[arg-type]


url = app.setting("url", str, default="", description="Where it is.")
assert_type(url, Setting[str])
assert_type(app.setting("tags", list[str], default=[]), Setting[list[str]])
assert_type(app.setting("place", Point, Point(1)), Setting[Point])
maybe: Setting[int | None] = app.setting("maybe", int | None, default=None)
app.setting("n", int)  # type: ignore[call-overload]
app.setting("n", int, 5, "Say more.")  # type: ignore[call-overload]


@app.on_setting(url)
async def url_changed(value: str, ctx: EventContext) -> None: ...


@app.on_setting(url)
def url_changed_too() -> None: ...


@app.on_setting("url")  # type: ignore[arg-type]
async def not_a_setting(value: str) -> None: ...


async def settings(ctx: ToolContext, task: TaskContext) -> None:
    assert_type(ctx.setting(url), str)
    assert_type(task.setting(maybe), int | None)
    await ctx.set_setting(url, "x")
    await ctx.set_setting(url, 5)  # type: ignore[misc]
    ctx.setting("url")  # type: ignore[arg-type]
    assert_type(await ctx.secrets.get("key"), str | None)
    await ctx.secrets.set("key", "x")
    await ctx.secrets.set("key", b"x")  # type: ignore[arg-type]
    assert_type(await ctx.secrets.delete("key"), bool)
    assert_type(await ctx.secrets.list(), list[str])


def wants_awaitable(call: Callable[[], Awaitable[None]]) -> None: ...


wants_awaitable(on_message)


# -- users -------------------------------------------------------------------------------------------------------------


@app.tool
async def users_of_a_call(ctx: ToolContext) -> None:
    assert_type(ctx.user.id, str | None)
    assert_type(await ctx.user.profile(), dict[str, str])
    assert_type(await ctx.users(), list[str])
    ctx.user.id = "bo"  # type: ignore[misc]


@app.task(per_user=True)
async def users_of_a_task(ctx: TaskContext) -> None:
    assert_type(ctx.user.id, str | None)


# -- fetch, confirm, instructions --------------------------------------------------------------------------------------

needy = App("needy", needs=["network:api.example.com"], instructions="Be kind.")
App("needy", needs=[1])  # type: ignore[list-item]
App("needy", instructions=b"x")  # type: ignore[arg-type]


@needy.tool(confirm=True)
async def fetches(ctx: ToolContext) -> None:
    answer = await ctx.fetch("https://api.example.com/", method="POST", headers={"A": "b"}, body=b"x", timeout=1.5)
    assert_type(answer.status, int)
    assert_type(answer.text, str)
    assert_type(answer.content, bytes)
    assert_type(answer.json(Point), Point)
    assert_type(answer.json(list[Point]), list[Point])
    assert_type(answer.headers["a"], str)
    async with ctx.fetch_stream("https://api.example.com/") as texts:
        async for text in texts:
            assert_type(text, str)
    async with ctx.fetch_stream("https://api.example.com/", binary=True) as pieces:
        async for piece in pieces:
            assert_type(piece, bytes)
    await ctx.fetch("https://api.example.com/", body={"a": 1})  # type: ignore[arg-type]
    ctx.fetch_stream("https://api.example.com/", max_bytes=1)  # type: ignore[call-overload]


@needy.tool(confirm="Really?")
def asks_a_question() -> None: ...


@needy.tool(confirm=5)  # type: ignore[call-overload, untyped-decorator]
def asks_a_number() -> None: ...


users_notes = app.collection("users_notes", Point)


@app.tool
async def users_documents(ctx: ToolContext) -> None:
    assert_type(await ctx.user.store(users_notes).get("a"), Point | None)
