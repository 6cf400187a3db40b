"""Each method of the test host, in both forms, on each loop; what the extension did; scripts; what is refused."""

from __future__ import annotations

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from sepkit import App, EventContext, HookContext, TaskContext, ToolContext, testing
from sepkit.errors import ConnectionClosed, InternalError, InvalidParams, RequestTimeout
from sepkit.faces.runner import LoopKind, new_loop
from sepkit.testing import BlockingTestHost, TestHost, VirtualClockLoop
from sepkit.wire import messages
from tests.testing.sample import diary, is_alive, sample

Test = Callable[[Any], Coroutine[Any, Any, None]]


class _Awaitable:
    """A blocking host that can be awaited, so that one test drives both forms."""

    def __init__(self, host: BlockingTestHost) -> None:
        self._host = host

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._host, name)
        if not callable(found):
            return found

        async def call(*args: Any, **options: Any) -> Any:
            return await asyncio.to_thread(found, *args, **options)

        return call


@pytest.fixture(params=["asyncio", "uvloop", "virtual", "blocking"])
def drive(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Runs a test of a host: on each kind of loop, and in the form that waits."""
    form: str = request.param

    def drive(test: Test, app: App, **options: Any) -> None:
        if form == "blocking":
            with TestHost(app, **options) as host:
                asyncio.run(asyncio.wait_for(test(_Awaitable(host)), 20))
            return

        async def run() -> None:
            async with TestHost(app, **options) as host:
                await asyncio.wait_for(test(host), 20)

        kind: dict[str, LoopKind] = {"asyncio": "asyncio", "uvloop": "uvloop"}
        make = VirtualClockLoop if form == "virtual" else lambda: new_loop(kind[form])
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(run())

    return drive


Drive = Callable[..., None]


def test_a_tool_answers_with_what_it_told_before(drive: Drive) -> None:
    """The result has content, is_error and details, and the updates in order.

    Source: docs/protocol.md, sections 3 and 4.
    """

    async def test(host: TestHost) -> None:
        told: list[str | None] = []
        answer = await host.call_tool("greet", {"name": "Ada"}, on_update=lambda update: told.append(update.message))
        assert (answer.content, answer.is_error, answer.details) == ("Hello, Ada!", False, None)
        assert [(update.message, update.progress) for update in answer.updates] == [("begin", 0.0), ("end", 1.0)]
        assert answer.updates[1].details == {"name": "Ada"}
        assert told == ["begin", "end"]
        assert (await host.call_tool("described")).details == {"count": 2}
        failed = await host.call_tool("give_up")
        assert (failed.content, failed.is_error) == ("I give up", True)
        assert (await host.call_tool("greet", {"nam": "Ada"})).is_error
        threaded = await host.call_tool("in_a_thread")
        assert (threaded.content, [update.message for update in threaded.updates]) == ("done", ["from a thread"])

    drive(test, sample(), flags={"loud": True})


def test_a_flag_that_the_app_does_not_declare_is_refused(drive: Drive) -> None:
    """A misspelt flag in a test would show nothing; one that the lifespan declares counts."""

    async def test(host: Any) -> None:
        assert (await host.call_tool("greet", {"name": "Ada"})).content == "Hello, Ada!"

    drive(test, sample(), flags={"loud": True})
    with pytest.raises(ValueError, match=r"flags=: the app declares no flag 'lout'; did you mean 'loud'\?"):
        drive(test, sample(), flags={"loud": True, "lout": True})


def test_a_tool_that_takes_too_long_is_cancelled(drive: Drive) -> None:
    """The caller that times out sends ``$/cancel``; the late answer does not count."""
    app = sample()

    async def test(host: TestHost) -> None:
        with pytest.raises(RequestTimeout, match=r"tool/execute: no answer within 0\.05 s"):
            await host.call_tool("forever", timeout=0.05)
        await host.ping()
        assert diary(app) == ["cancelled"]
        assert not (await host.call_tool("greet", {"name": "Ada"})).is_error

    drive(test, app)


def test_hooks_decide(drive: Drive) -> None:
    """A hook continues, blocks or modifies; one that fails raises. Source: docs/protocol.md, section 6."""

    async def test(host: TestHost) -> None:
        outcomes = [await host.call_hook("tool_call", {"tool": tool, "arguments": {}}) for tool in ("ls", "bash")]
        assert outcomes == [messages.ContinueOutcome(), messages.BlockOutcome("no shells")]
        modified = await host.call_hook("tool_call", {"tool": "sample.greet", "arguments": {}})
        assert isinstance(modified, messages.ModifyOutcome)
        assert modified.patch == {"tool": "sample.greet", "arguments": {"name": "Ada"}}
        with pytest.raises(InternalError, match="unexpectedly"):
            await host.call_hook("user_bash", {"command": "ls"})
        with pytest.raises(InvalidParams):
            await host.call_hook("tool_call", {"tool": 5})
        assert await host.call_hook("no_such_hook", {}) == messages.ContinueOutcome()

    drive(test, sample())


def test_commands_run_and_are_completed(drive: Drive) -> None:
    """``command/execute`` and ``command/complete`` have a method each. Source: docs/protocol.md, section 3."""

    async def test(host: TestHost) -> None:
        assert await host.run_command("count", {"upto": 3}) == "1 2 3"
        assert await host.run_command("nothing") is None
        found = await host.complete_command("count", "1")
        assert found == [messages.Completion("10"), messages.Completion("12")]
        assert len(await host.complete_command("count")) == 3
        assert "no command 'cuont'" in (await host.run_command("cuont") or "")
        assert await host.complete_command("cuont") == []

    drive(test, sample())


def test_events_have_been_handled_when_they_were_sent(drive: Drive) -> None:
    """Events are numbered and in the event tier; ``events_lost`` has no number. Sending waits, unless told not to.

    Source: docs/protocol.md, section 7.
    """
    app = sample()

    async def test(host: TestHost) -> None:
        await host.send_event("turn_start", {"n": 1})
        assert diary(app) == ["turn 1 #1 event"]
        await host.send_event("turn_start", {"n": 2}, seq=9)
        await host.send_event("events_lost", {"lost": 4})
        assert diary(app)[1:] == ["turn 2 #9 event", "lost 4 #None"]
        await host.send_event("turn_start", {"n": 3}, wait=False)
        await host.ping()
        assert len(diary(app)) == 3
        await host.send_event("turn_start", {"n": 4})
        assert [line[:6] for line in diary(app)[3:]] == ["turn 3", "turn 4"]
        with pytest.raises(ValueError, match=r"nothing subscribes to 'turn_strat'.* turn_start"):
            await host.send_event("turn_strat")
        with pytest.raises(RequestTimeout, match="handlers of the event 'turn_end'"):
            await host.send_event("turn_end", timeout=0.05)

    drive(test, app, grace=0.1)


def test_keys_and_news_reach_their_handlers(drive: Drive) -> None:
    """``widget/key`` and ``bus/event`` can be sent. Source: docs/protocol.md, section 7."""
    app = sample()

    async def test(host: TestHost) -> None:
        await host.press_key("board", "q")
        await host.press_key("another", "x")
        await host.publish("weather", {"sky": "blue"}, from_="almanac")
        assert sorted(diary(app)) == ["from almanac", "key q", "weather blue"]

    drive(test, app)


def test_a_provider_streams_and_answers(drive: Drive) -> None:
    """Deltas come in order, then the whole result; without a stream there are none.

    Source: docs/protocol.md, sections 3 and 4.
    """

    async def test(host: TestHost) -> None:
        said = [{"role": "user", "content": "hi"}]
        pieces: list[messages.StreamEvent] = []
        answer = await host.complete("acme", "small", said, on_delta=pieces.append)
        assert (answer.content, answer.reasoning_content, answer.finish_reason) == ("small: hi", "hm", "stop")
        assert answer.usage == messages.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
        assert answer.deltas == pieces
        assert pieces == [
            messages.Reasoning("hm"),
            messages.Delta("small: "),
            messages.Delta("hi"),
            messages.Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3),
            messages.Done("stop"),
        ]
        whole = await host.complete(
            "acme", "small", said, tools=[{"name": "t"}], stream=False, thinking="high", response_format={"a": 1}
        )
        assert whole.content == "small: hi with 1 tools, high, {'a': 1}"
        assert (whole.deltas, whole.tool_calls, whole.resolved_model) == ([], [], None)
        with pytest.raises(InvalidParams, match="no provider 'acne'"):
            await host.complete("acne", "small", said)

    drive(test, sample())


def test_a_provider_logs_in(drive: Drive) -> None:
    """``provider/oauth_login`` and ``provider/oauth_refresh`` have a method each.

    Source: docs/protocol.md, section 3.
    """

    async def test(host: TestHost) -> None:
        first = await host.oauth_login("acme")
        assert (first.access_token, first.refresh_token, first.expires_at) == ("first", "r1", 5)
        assert (await host.oauth_refresh("acme", "r1")).access_token == "after r1"
        with pytest.raises(InvalidParams):
            await host.oauth_login("nobody")

    drive(test, sample())


def test_tasks_are_started_watched_and_stopped(drive: Drive) -> None:
    """The handshake asks for tasks, and the test starts and stops them. Source: docs/tasks.md, "On the wire"."""

    async def test(host: TestHost) -> None:
        assert [task.name for task in host.registrations.tasks] == ["watch"]
        started = await host.start_task("watch", id="w", user_id="ada", payload={"n": 1})
        assert (started.task_id, started.user_id) == ("w", "ada")
        await host.until(lambda: any(update.last_health_status for update in host.task_updates))
        (listed,) = await host.list_tasks()
        assert (listed.status, listed.last_health_status) == ("running", "watching {'n': 1}")
        stopped = await host.stop_task("w")
        assert stopped.status == "stopped"
        assert host.task_updates[-1] == stopped
        with pytest.raises(InvalidParams):
            await host.start_task("wotch")

    drive(test, sample())


def test_what_the_extension_did_is_there_to_see(drive: Drive) -> None:
    """Session, bus, logs, active tools and registrations are there, each as its record.

    Source: docs/protocol.md, section 4.
    """

    async def test(host: TestHost) -> None:
        assert host.extension == messages.ExtensionInfo("sample", "1.2")
        assert (await host.call_tool("act")).details == {"turn": 7}
        kinds = [type(call).__name__ for call in host.session_calls]
        assert kinds == [
            f"Session{name}Params" for name in ("SendMessage", "SendUserMessage", "AppendEntry", "SetModel", "State")
        ]
        sent, typed, kept, model, _ = host.session_calls
        assert isinstance(sent, messages.SessionSendMessageParams)
        assert isinstance(typed, messages.SessionSendUserMessageParams)
        assert isinstance(kept, messages.SessionAppendEntryParams)
        assert isinstance(model, messages.SessionSetModelParams)
        assert (sent.text, typed.deliver_as, kept.entry, model.provider) == ("said", "steer", {"kept": True}, "acme")
        assert (await host.call_tool("shout")).content == "True"
        assert host.bus == [messages.BusPublishParams("news", {"text": "hear"})]
        assert (await host.call_tool("activate")).details == ["greet"]
        assert host.active_tools == ["greet"]
        await host.call_tool("log")
        (line,) = [line for line in host.logs if line.message == "one thing"]
        assert (line.level, line.fields["logger"], line.fields["weight"]) == ("info", "sample", 3)
        assert not [line for line in host.logs if line.message == "not this"]

    drive(test, sample(), session_state={"turn": 7}, allowed_tools=["greet", "ls"])


def test_whatever_runs_may_set_the_active_tools(drive: Callable[..., None]) -> None:
    """``tools/set_active`` has no context, so it needs no tier. Source: docs/protocol.md, sections 4 and 5."""
    app = App("setters")

    @app.on("model_select")
    async def on_event(payload: dict[str, Any], ctx: EventContext) -> None:
        await ctx.tools.set_active(["of an event"])

    @app.hook("input")
    async def on_hook(given: dict[str, Any], ctx: HookContext) -> None:
        await ctx.tools.set_active(["of a hook"])

    @app.task
    async def work(ctx: TaskContext) -> None:
        await ctx.tools.set_active(["of a task"])

    async def test(host: TestHost) -> None:
        await host.until(lambda: host.active_tools == ["of a task"])
        await host.send_event("model_select", {})
        await host.until(lambda: host.active_tools == ["of an event"])
        await host.call_hook("input", {})
        assert host.active_tools == ["of a hook"]

    drive(test, app)


def test_the_store_holds_what_it_was_given_and_what_was_set(drive: Drive) -> None:
    """``kv/*`` reads and writes a store that the test can fill and read. Source: docs/protocol.md, section 4."""

    async def test(host: TestHost) -> None:
        answer = await host.call_tool("keep")
        assert answer.details == {"given": [1], "keys": ["a/1"], "none": None}
        assert host.kv == {"given": [1], "a/1": {"n": 1}}

    drive(test, sample(), kv={"given": [1]})


def test_registrations_grow_while_it_is_served() -> None:
    """``registry/update`` is merged by name; what it does not name stays. Source: docs/protocol.md, section 4."""
    app = App("growing")

    @app.tool
    async def first() -> str:
        @app.tool
        async def second() -> str:
            return ""

        @app.command
        async def more() -> str:
            return ""

        app.on("turn_end")(observe)
        app.flag("late")
        return ""

    @app.on("turn_start")
    async def observe(payload: dict[str, Any]) -> None: ...

    with TestHost(app) as host:
        with pytest.raises(ValueError, match="turn_end"):
            host.send_event("turn_end")
        host.call_tool("first")
        brought = host.registrations
        assert [tool.name for tool in brought.tools] == ["first", "second"]
        assert [command.name for command in brought.commands] == ["more"]
        assert (brought.subscriptions, brought.flags) == (["turn_start", "turn_end"], ["late"])
        host.send_event("turn_end")


def test_an_update_wins_over_what_has_its_name() -> None:
    """``registry/update`` is merged by name, and the last one wins. Source: docs/protocol.md, section 4."""
    from sepkit.capabilities.registrations import merged

    def tool(name: str, description: str) -> messages.ToolRegistration:
        return messages.ToolRegistration(name, description, {})

    known = messages.Registrations(tools=[tool("a", "1"), tool("b", "1")], flags=["f"], hooks=["context"])
    update = messages.RegistryUpdateParams(tools=[tool("c", "2"), tool("a", "2")], flags=["f", "g"])
    after = merged(known, update)
    assert after.tools == [tool("a", "2"), tool("b", "1"), tool("c", "2")]
    assert (after.flags, after.hooks) == (["f", "g"], ["context"])


# ------------------------------------------------------------------------------------------------------------- scripts
def asked(host: BlockingTestHost, kind: str) -> Any:
    answer = host.call_tool("ask", {"kind": kind})
    return answer.details["answer"] if not answer.is_error else answer.content


def told(host: BlockingTestHost) -> Any:
    return host.call_tool("told").details


def test_the_user_answers_from_a_table() -> None:
    """``ui/request`` is answered by kind; a list is used up in its order, and None is a dismissal.

    Source: docs/protocol.md, section 4.
    """
    with TestHost(sample(), ui={"confirm": [True, None, False], "select": "b", "input": "Eve"}) as host:
        assert [asked(host, "confirm") for _ in range(3)] == [True, None, False]
        assert [asked(host, "select") for _ in range(2)] == ["b", "b"]
        assert asked(host, "input") == "Eve"
        assert asked(host, "show") is True
        shown = [type(request).__name__ for request in host.ui_requests[-4:]]
        assert shown == ["NotifyRequest", "SetStatusRequest", "SetTitleRequest", "SetWidgetRequest"]
        assert host.ui_requests[3] == messages.SelectRequest("Which?", ["a", "b"])
        assert told(host)["mode"] == "tui"


def test_a_kind_without_an_answer_cannot_be_shown() -> None:
    """A kind that is not in ``ui_capabilities`` is answered with -32001, however it is asked for.

    Source: docs/protocol.md, section 4.
    """
    with TestHost(sample(), ui={}) as host:
        assert asked(host, "show") is False
        assert "NoUI" in error_of(host, "ui/request", {"kind": "confirm", "prompt": "?"})


def error_of(host: BlockingTestHost, method: str, params: dict[str, Any]) -> str:
    """The error that the host answers a request with which no typed client would send."""
    before = len(host.logs)
    assert host.call_tool("raw", {"method": method, "params": params}).is_error
    assert len(host.logs) > before
    return _raised[-1]


_raised: list[str] = []


@pytest.fixture(autouse=True)
def _keep_what_was_raised(caplog: pytest.LogCaptureFixture) -> Any:
    """What crosses is a fixed text; what was raised stands in the log."""

    def keep(record: Any) -> bool:
        if record.exc_info:
            _raised.append(repr(record.exc_info[1]))
        return True

    caplog.handler.addFilter(keep)
    yield
    caplog.handler.removeFilter(keep)
    _raised.clear()


@pytest.mark.parametrize("is_async", [False, True])
def test_the_user_answers_as_a_function_says(is_async: bool) -> None:
    """A function of the request, sync or async; what is only shown goes to it as well."""

    def answer(request: messages.UiRequest) -> str | bool | None:
        if isinstance(request, messages.SelectRequest):
            return request.options[0]
        return True if request.kind == "confirm" else None

    async def answer_later(request: messages.UiRequest) -> str | bool | None:
        await asyncio.sleep(0)
        return answer(request)

    with TestHost(sample(), ui=answer_later if is_async else answer) as host:
        assert [asked(host, kind) for kind in ("select", "confirm", "input", "show")] == ["a", True, None, True]


def test_nobody_is_there_by_default() -> None:
    """By default ``ui_capabilities`` is empty, and every ``ui/request`` is answered with -32001.

    Source: docs/protocol.md, section 4.
    """
    with TestHost(sample()) as host:
        assert host.call_tool("ask").is_error
        assert (told(host)["ui"], told(host)["mode"]) == ([], "headless")
        assert "NoUI(code=-32001" in error_of(host, "ui/request", {"kind": "notify", "message": "hi"})


@pytest.mark.parametrize(
    ("ui", "kind", "problem"),
    [
        ({"confirm": [True]}, "confirm", r"ui=\{'confirm': \[...\]\} has 1 answers, and was asked for one more"),
        ({"confirm": "yes"}, "confirm", "expected bool or None"),
        ({"select": "z"}, "select", r"'z', which is none of \['a', 'b'\]"),
    ],
)
def test_a_script_that_does_not_fit_fails_the_test(ui: Any, kind: str, problem: str) -> None:
    """Rather than an answer that no user could give."""

    def ask_twice() -> None:
        with TestHost(sample(), ui=ui) as host:
            for _ in range(2):
                host.call_tool("ask", {"kind": kind})

    with pytest.raises(AssertionError, match=problem):
        ask_twice()


def test_what_a_script_raises_fails_the_test() -> None:
    """An ``assert`` in a function given as ``ui``, ``exec`` or ``on_update`` is one of the test's own."""

    def wrong(request: object) -> Any:
        raise KeyError("mine")

    for options, tool in (({"ui": wrong}, "ask"), ({"exec": wrong}, "execute")):
        with pytest.raises(KeyError, match="mine"), TestHost(sample(), **options) as host:  # type: ignore[arg-type]
            assert host.call_tool(tool).is_error
    with pytest.raises(KeyError, match="mine"), TestHost(sample()) as host:
        assert host.call_tool("greet", {"name": "Ada"}, on_update=wrong).content == "Hello, Ada."


def test_commands_are_denied_unless_they_are_scripted() -> None:
    """``exec/run`` is answered with -32002, and the test can see what was asked for.

    Source: docs/protocol.md, section 4.
    """
    with TestHost(sample()) as host:
        assert host.call_tool("execute", {"args": ["status"]}).is_error
        assert "NotTrusted(code=-32002" in _raised[-1]
        (call,) = host.exec_calls
        assert (call.command, call.args, call.cwd, call.context.tier) == ("git", ["status"], "/tmp", "command")
    failed = messages.ExecRunResult("", "bad", 1)
    with TestHost(sample(), exec={"git status": "clean", "git": [failed, "again"]}) as host:
        results = [host.call_tool("execute", {"args": [arg]}).details for arg in ("status", "push", "push")]
        assert results == [
            {"stdout": "clean", "stderr": "", "exit_code": 0},
            {"stdout": "", "stderr": "bad", "exit_code": 1},
            {"stdout": "again", "stderr": "", "exit_code": 0},
        ]
        assert host.call_tool("execute", {"command": "rm"}).is_error
    with TestHost(sample(), exec=lambda request: f"{request.command}!") as host:
        assert host.call_tool("execute").details["stdout"] == "git!"


# ------------------------------------------------------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("kv/get", {"key": "k"}),
        ("ui/request", {"kind": "notify", "message": "m"}),
        ("exec/run", {"command": "ls", "context": {"token": "t", "tier": "command"}}),
        ("bus/publish", {"topic": "t", "payload": {}}),
        ("session/state", {"context": {"token": "t", "tier": "command"}}),
        ("tools/set_active", {"tools": []}),
    ],
)
def test_what_is_switched_off_is_refused(method: str, params: dict[str, Any]) -> None:
    """The answer is -32004, also if the extension asks in spite of the handshake."""
    groups = dict.fromkeys(("kv", "ui", "exec", "bus", "session", "tools"), False)
    with TestHost(sample(), capabilities=groups, ui={}) as host:
        assert "CapabilityDisabled(code=-32004" in error_of(host, method, params)
        assert told(host)["disabled"] == sorted(groups)


def test_tasks_can_be_switched_off() -> None:
    """Nothing of tasks is sent to a host that did not ask for them. Source: docs/tasks.md, "On the wire"."""
    with TestHost(sample(), capabilities={"tasks": False}) as host:
        assert host.registrations.tasks == []
        with pytest.raises(Exception, match="no method 'task/start'"):
            host.start_task("watch")


CONTEXT_METHODS: dict[str, dict[str, Any]] = {
    "session/send_message": {"text": "t"},
    "session/send_user_message": {"text": "t"},
    "session/append_entry": {"entry": {}},
    "session/set_model": {"model": "m"},
    "session/state": {},
    "exec/run": {"command": "ls"},
}


@pytest.mark.parametrize("method", CONTEXT_METHODS)
def test_who_may_only_observe_may_not_act(method: str) -> None:
    """The event tier, and a token of another host, are answered with -32003. Source: docs/protocol.md, section 5."""
    params = CONTEXT_METHODS[method]
    with TestHost(sample(), exec={"ls": ""}) as host:
        host.send_event("turn_end", {"raw": method, "params": params})
        assert "ContextViolation(code=-32003" in _raised[-1]
        foreign = {**params, "context": {"token": "epoch-0", "tier": "command"}}
        assert "ContextViolation(code=-32003" in error_of(host, method, foreign)
        assert (host.session_calls, host.exec_calls) == ([], [])


# ------------------------------------------------------------------------------------------------------------ the form
def test_what_is_exported_is_sorted_and_there() -> None:
    """``sepkit.testing.__all__`` is sorted, and each name is imported at its first use."""
    assert testing.__all__ == sorted(testing.__all__)
    assert {name for names in testing._HOMES.values() for name in names} == set(testing.__all__)
    assert all(hasattr(testing, name) for name in testing.__all__)
    with pytest.raises(AttributeError, match="'TestHosst'"):
        testing.TestHosst  # type: ignore[attr-defined]  # noqa: B018


def test_the_blocking_form_has_each_method_of_the_other() -> None:
    """A typed twin: same names, same docstrings, same parameters."""
    ending = {"aclose"}
    coroutines = dict(inspect.getmembers(TestHost, inspect.iscoroutinefunction))
    assert {"call_tool", "send_event", "until"} < coroutines.keys()
    for name, method in coroutines.items():
        if not name.startswith("_") and name not in ending:
            twin = vars(BlockingTestHost)[name]
            assert twin.__doc__ == method.__doc__
            assert twin._method is method


def test_the_blocking_form_says_what_it_lacks() -> None:
    with TestHost(sample()) as host, pytest.raises(AttributeError, match="has no 'call_tol'"):
        host.call_tol("greet")  # type: ignore[attr-defined]


def test_a_blocking_method_does_not_wait_for_itself() -> None:
    """A callback runs in the loop's thread; waiting there would be for ever."""
    with pytest.raises(RuntimeError, match="would wait for itself"), TestHost(sample()) as host:
        host.call_tool("greet", {"name": "Ada"}, on_update=lambda _: host.ping())


async def _enter_blocking() -> None:
    with TestHost(sample()):
        pass


def test_the_blocking_form_does_not_stop_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="write `async with TestHost"):
        asyncio.run(_enter_blocking())


def test_ctrl_c_ends_the_wait_and_the_call() -> None:
    """The call is cancelled: no work goes on behind a test that has ended."""
    app, waiting = sample(), threading.get_ident()
    with TestHost(app) as host:
        with pytest.raises(KeyboardInterrupt):
            host.call_tool("forever", on_update=lambda _: signal.pthread_kill(waiting, signal.SIGINT))
        host.ping()
        assert diary(app) == ["cancelled"]


def test_the_blocking_form_leaves_no_thread() -> None:
    before = threading.active_count()
    app = sample()
    with TestHost(app) as host:
        assert is_alive(app)
        host.ping()
    assert not is_alive(app)
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("sepkit-test-host")]
    assert not left, f"{before} threads before"
    with pytest.raises(RuntimeError, match="has been closed"):
        host.ping()
    host.close()


def test_options_reach_the_handshake_and_the_dispatcher() -> None:
    """The options end up in ``initialize`` and in the bound on running calls. Source: docs/protocol.md, section 3."""
    app = App("options")
    running = most = 0

    @app.tool
    async def work(ctx: ToolContext) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return f"{ctx.workspace.root} {ctx.workspace.trusted} {ctx.host.mode}"

    async def test() -> None:
        async with TestHost(app, workspace="/srv", trusted=False, mode="web", max_concurrency=2) as host:
            answers = await asyncio.gather(*(host.call_tool("work") for _ in range(6)))
            assert {answer.content for answer in answers} == {"/srv False web"}

    asyncio.run(test())
    assert most == 2


def test_a_host_that_has_ended_is_no_host() -> None:
    """Each call says so, rather than wait; ``until`` too."""

    async def test() -> None:
        async with TestHost(sample()) as host:
            await host.shutdown()
            for call in (host.ping(), host.send_event("turn_start"), host.until(lambda: False)):
                with pytest.raises(ConnectionClosed):
                    await call
        with pytest.raises(ConnectionClosed):
            await host.call_tool("greet")
        with pytest.raises(RuntimeError, match="has not begun"):
            await TestHost(sample()).ping()
        with pytest.raises(RuntimeError, match="lives once"):
            await host
        fresh = await TestHost(sample())
        with pytest.raises(TimeoutError, match=r"not within 0\.02 s"):
            await fresh.until(lambda: False, timeout=0.02)
        await fresh.aclose()

    asyncio.run(test())
