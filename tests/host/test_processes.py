"""The host over real processes: births, deaths and what goes between, with extensions of sepkit's and without it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from sepkit.errors import Cancelled, InvalidParams, RequestTimeout, RpcError
from sepkit.faces.runner import LoopKind, new_loop
from sepkit.host import Delegate, ExtensionDied, Host, KvStore, Manifest, Problem, discover, read
from sepkit.host.lives import ExtensionUnavailable
from sepkit.host.manifest import GROUPS, Capabilities, Run
from sepkit.transports.process import MARK
from sepkit.wire import messages

PLUGINS: Final = Path(__file__).parents[2] / "plugins"
ILL: Final = Path(__file__).with_name("children") / "ill.py"
SOAK: Final = bool(os.environ.get("SEPKIT_SOAK"))
PATIENCE: Final = 20.0

ALL: Final = Capabilities(**dict.fromkeys(GROUPS, True))  # type: ignore[arg-type]  # `events` is no group

APP: Final = """
    import asyncio, os, sys, time
    from collections.abc import AsyncIterator
    from sepkit import (App, Block, Credentials, Delta, Done, EventContext, Model, OAuthParams, Patch, ProviderContext,
        ProviderRequest, TaskContext, ToolCall, ToolContext, render)
    from sepkit.errors import RpcError

    app = App("full", version="1.0")
    heard = []
    cancelled = []

    @app.tool
    async def say(text: str, ctx: ToolContext) -> str:
        for step in range(3):
            ctx.update(f"step {step}", progress=step / 2)
        return text

    @app.tool(deferred=True)
    async def hidden() -> str:
        return "found"

    @app.tool
    async def sleep(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            cancelled.append(time.time())
            raise
        return "slept"

    @app.tool
    async def look(what: str) -> object:
        return {"heard": heard, "cancelled": cancelled, "env": dict(os.environ), "pid": os.getpid()}[what]

    @app.tool
    async def learn() -> str:
        async def learned() -> str:
            return "learned"
        app.add_tool(learned)
        return "done"

    @app.tool
    async def ask(ctx: ToolContext) -> list[object]:
        await ctx.kv.set("n", {"deep": [1]})
        await ctx.ui.set_widget(render.widget("board", render.markdown("x"), {"q": "quit"}))
        await ctx.session.append_entry({"e": 1})
        done = await ctx.exec.run("ls", ["-l"])
        return [await ctx.kv.get("n"), await ctx.kv.list(), await ctx.ui.confirm("sure?"), done.stdout,
                await ctx.tools.set_active(["full.say", "other.tool"]), await ctx.bus.publish("t", {"n": 1})]

    @app.tool
    async def big(size: int) -> str:
        return "x" * size

    @app.tool
    async def measure(text: str) -> int:
        return len(text)

    kept = []

    @app.tool
    async def keep(ctx: ToolContext) -> None:
        kept.append(ctx)

    @app.tool
    async def use_kept(token: str = "") -> str:
        ctx = kept[0]
        if token:
            ctx._raw = {"token": token, "tier": "command"}
        try:
            await ctx.session.append_entry({})
        except RpcError as error:
            return str(error.code)
        return "done"

    @app.tool
    async def stderr(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    @app.hook("tool_call")
    async def gate(call: ToolCall) -> Block | Patch | None:
        if call.arguments.get("text") == "storm":
            return Block("no storms")
        if call.arguments.get("text") == "mend":
            return Patch(arguments={"text": "mended"})
        if call.arguments.get("text") == "break":
            return Patch(arguments={"text": 5})
        return None

    @app.command
    async def plan(state: str = "on") -> str:
        return f"plan is {state}"

    @app.complete("plan")
    async def states(partial: str) -> list[str]:
        return [word for word in ("on", "off") if word.startswith(partial)]

    @app.on("turn_start")
    async def started(payload: dict, ctx: EventContext) -> None:
        heard.append(["turn_start", payload, ctx.seq])
        try:
            await ctx._link.ask("session/append_entry", {"context": ctx._raw, "entry": {}})
        except RpcError as error:
            heard.append(["refused", error.code])

    @app.on_bus("t")
    async def told(payload: dict) -> None:
        heard.append(["bus", payload])

    @app.on_key("board")
    async def key(payload: dict) -> None:
        heard.append(["key", payload])

    @app.provider("parrot", models=[Model("grey")])
    async def parrot(request: ProviderRequest) -> AsyncIterator[Delta | Done]:
        try:
            for word in request.messages[-1]["content"].split():
                yield Delta(word)
                if request.thinking:
                    await asyncio.sleep(20)
            yield Done("stop")
        finally:
            heard.append(["parrot ended"])

    @app.oauth_login("parrot")
    async def login(params: OAuthParams) -> Credentials:
        return Credentials(api_key="k")

    @app.oauth_refresh("parrot")
    async def refresh(params: OAuthParams) -> Credentials:
        return Credentials(access_token=params.refresh_token)

    @app.task
    async def watch(ctx: TaskContext) -> None:
        ctx.report_health("watching")
        await ctx.wait_stop()

    @app.task(per_user=True)
    async def feed(ctx: TaskContext) -> None:
        ctx.report_health(str(ctx.payload))
        await ctx.wait_stop()
"""


class Person(Delegate):
    """Allows everything, and remembers it."""

    ui_kinds = ("confirm", "set_widget")

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.lines: list[str] = []
        self.states: list[tuple[str, str]] = []
        self.published_on: list[tuple[str, str, dict[str, Any]]] = []

    async def ui(self, extension: str, request: messages.UiRequest) -> messages.UiResult:
        self.asked.append(request)
        return messages.UiResult(confirmed=True) if request.kind == "confirm" else messages.UiResult()

    async def exec(self, extension: str, request: messages.ExecRunParams) -> messages.ExecRunResult:
        self.asked.append((request.command, request.args))
        return messages.ExecRunResult(stdout="listed", stderr="", exit_code=0)

    async def append_entry(self, extension: str, request: messages.SessionAppendEntryParams) -> None:
        self.asked.append(request.entry)

    def stderr(self, extension: str, line: str) -> None:
        self.lines.append(line)

    def state_changed(self, extension: str, state: str) -> None:
        self.states.append((extension, state))

    def published(self, extension: str, topic: str, payload: dict[str, Any]) -> None:
        self.published_on.append((extension, topic, payload))


def app_in(folder: Path, name: str = "full", source: str = APP, **fields: Any) -> Manifest:
    """An extension made with sepkit, in a folder of its own."""
    root = folder / name
    root.mkdir(parents=True, exist_ok=True)
    (root / "app.py").write_text(textwrap.dedent(source), encoding="utf-8")
    return Manifest(
        name=name,
        version="1",
        root=root,
        run=Run(command=sys.executable, args=["-m", "sepkit", "run", "app:app"]),
        **{"capabilities": ALL, **fields},
    )


def ill(name: str = "ill") -> Manifest:
    return Manifest(
        name=name, version="1", root=ILL.parent, run=Run(command=sys.executable, args=[str(ILL)]), capabilities=ALL
    )


def plain(name: str, source: str, folder: Path, **fields: Any) -> Manifest:
    """A program of a few lines as an extension."""
    path = folder / f"{name}.py"
    path.write_text(textwrap.dedent(source), encoding="utf-8")
    run = Run(command=sys.executable, args=[str(path)])
    return Manifest(name=name, version="1", root=folder, run=run, **{"capabilities": ALL, **fields})


ON_BOTH_LOOPS: Final = pytest.mark.parametrize("loop_kind", ["asyncio", "uvloop"])


def on_a_loop(work: Callable[[], Awaitable[None]], loop_kind: LoopKind = "auto") -> None:
    async def limited() -> None:
        await asyncio.wait_for(work(), 50)

    with asyncio.Runner(loop_factory=lambda: new_loop(loop_kind)) as runner:
        runner.run(limited())


def hosting(*, delegate: Delegate | None = None, **options: Any) -> Host:
    return Host("test", "1", store=KvStore(), delegate=delegate, **{"trusted": True, **options})


async def load(host: Host, *manifests: Manifest) -> None:
    for problem in await host.load(manifests):
        raise problem.error


async def until(found: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not found():
            await asyncio.sleep(0.005)


async def seen(host: Host, what: str = "heard") -> Any:
    return (await host.call_tool("full.look", {"what": what})).details


# -- the surface -------------------------------------------------------------------------------------------------------


@ON_BOTH_LOOPS
def test_all_of_the_surface(loop_kind: LoopKind, tmp_path: Path) -> None:
    """Host, "The surface": tools, hooks, events, commands, providers, keys, what an extension asks, status."""

    async def main() -> None:
        person = Person()
        async with hosting(delegate=person, workspace=tmp_path) as host:
            await load(host, app_in(tmp_path))
            names = [tool.name for tool in host.tools()]
            assert "full.say" in names
            assert [tool.name for tool in host.deferred_tools()] == ["full.hidden"]
            told: list[messages.ToolUpdateParams] = []
            result = await host.call_tool("full.say", {"text": "hi"}, on_update=told.append, timeout=10)
            assert result.content == "hi"
            assert [update.progress for update in told] == [0, 0.5, 1]
            assert (await host.call_tool("full.hidden")).content == "found"
            with pytest.raises(InvalidParams, match=r"no tool 'full\.nope'"):
                await host.call_tool("full.nope")

            assert await host.run_command("plan", {"state": "off"}) == "plan is off"
            assert await host.run_command("plan", extension="full") == "plan is on"
            assert [one.value for one in await host.complete_command("plan", "of")] == ["off"]
            with pytest.raises(InvalidParams, match="no command"):
                await host.run_command("nope")

            assert (await host.call_tool("full.ask")).details == [
                {"deep": [1]}, ["n"], True, "listed", ["full.say"], True,
            ]  # fmt: skip
            assert [tool.name for tool in host.tools()] == ["full.say"], "what was set active"
            assert person.published_on == [("full", "t", {"n": 1})]
            assert ("ls", ["-l"]) in person.asked

            host.press_key("board", "q")
            host.press_key("full", "x")
            with pytest.raises(InvalidParams):
                host.press_key("nothing", "q")
            host.dispatch_event("turn_start", {"n": 1})
            host.dispatch_event("turn_end", {})
            while len(heard := await seen(host)) < 3:
                await asyncio.sleep(0.01)
            assert sorted(heard, key=str) == [
                ["key", {"widget_id": "board", "key": "q"}],
                ["refused", -32003],
                ["turn_start", {"n": 1}, 3],
            ], "an event's context is good for nothing but to observe"

            stream = host.complete("parrot", "grey", [{"role": "user", "content": "a b"}])
            assert [event async for event in stream] == [
                messages.Delta("a"), messages.Delta("b"), messages.Done("stop"),
            ]  # fmt: skip
            assert stream.result is not None
            assert (stream.result.content, stream.result.finish_reason) == ("ab", "stop")
            assert (await host.oauth_login("parrot")).api_key == "k"
            assert (await host.oauth_refresh("parrot", "r")).access_token == "r"
            with pytest.raises(InvalidParams, match="no provider"):
                host.complete("nope", "m", [])

            await host.call_tool("full.learn")
            host.set_active("full", ["full.learned", "full.say"])
            assert "full.learned" in [tool.name for tool in host.tools()]
            assert (await host.call_tool("full.learned")).content == "learned"
            (status,) = host.status()
            assert (status.name, status.state, status.epoch, status.restarts) == ("full", "ready", 1, 0)
        assert person.states == [("full", "starting"), ("full", "ready"), ("full", "stopped")]
        assert host.status()[0].pid is None

    on_a_loop(main, loop_kind)


def test_who_stops_reading_a_stream_cancels_it(tmp_path: Path) -> None:
    """Host, "The surface": a stream that nobody reads on ends upstream, too."""

    async def main() -> None:
        async with hosting() as host:
            await load(host, app_in(tmp_path))
            said = [{"role": "user", "content": "a b c"}]
            async for event in host.complete("parrot", "grey", said, thinking="high"):
                assert event == messages.Delta("a")
                break
            while ["parrot ended"] not in await seen(host):
                await asyncio.sleep(0.01)
            assert host.status()[0].pending == 0

    on_a_loop(main)


def test_a_hook_s_decisions_and_a_gate_that_is_down(tmp_path: Path) -> None:
    """A denial and a failure can be told apart, a rewritten input is checked, and a dead gate blocks.

    Source: docs/protocol.md, section 6.
    """

    async def main() -> None:
        async with hosting(restart_delays=(0.3,)) as host:
            await load(host, app_in(tmp_path))

            async def gate(**arguments: object) -> Any:
                return await host.run_hook("tool_call", {"tool": "full.say", "arguments": arguments})

            assert not (await gate(text="calm")).blocked
            denied = await gate(text="storm")
            assert (denied.verdict, denied.reason, denied.by) == ("denied", "no storms", "full")
            assert (await gate(text="mend")).value["arguments"] == {"text": "mended"}
            broken = await gate(text="break")
            assert (broken.verdict, broken.value["arguments"]) == ("allowed", {"text": "break"})
            assert "5 is not of type" in broken.notes[0]
            foreign = await host.run_hook("tool_call", {"tool": "bash", "arguments": {"text": "mend"}})
            assert foreign.value["arguments"] == {"text": "mend"}
            assert (await host.run_hook("user_bash", {"command": "ls"})).verdict == "allowed", "it does not handle that"
            pid = host.status()[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: host.status()[0].state == "restarting")
            failed = await gate(text="calm")
            assert failed.verdict == "failed"
            assert "full is restarting" in str(failed.reason)
            assert not (await host.run_hook("input", {"text": "x"})).blocked
            await until(lambda: host.status()[0].state == "ready")
            assert not (await gate(text="calm")).blocked

    on_a_loop(main)


def test_what_a_life_was_given_is_worth_nothing_to_the_next(tmp_path: Path) -> None:
    """A reload starts a new epoch: old tokens and what the old process still says no longer count.

    Source: docs/protocol.md, section 5.
    """

    async def main() -> None:
        async with hosting(delegate=Person(), shutdown_grace=0.3) as host:
            manifest = app_in(tmp_path)
            (manifest.root / "extension.toml").write_text(
                f'name = "full"\nversion = "2"\n[run]\ncommand = "{sys.executable}"\n'
                'args = ["-m", "sepkit", "run", "app:app"]\n[capabilities]\ntools = true\nsession = true\n',
                encoding="utf-8",
            )
            await load(host, manifest)
            await host.call_tool("full.keep")
            assert (await host.call_tool("full.use_kept")).content == "done"
            old = host._extension("full").lives.context["token"]
            pid = await seen(host, "pid")
            running = asyncio.ensure_future(host.call_tool("full.sleep", {"seconds": 30}))
            await asyncio.sleep(0.05)
            await host.reload("full")
            with pytest.raises((ExtensionDied, Cancelled)):
                await running
            (status,) = host.status()
            assert (status.epoch, status.version, status.state) == (2, "2", "ready")
            assert await seen(host, "pid") != pid
            await host.call_tool("full.keep")
            assert (await host.call_tool("full.use_kept")).content == "done"
            assert (await host.call_tool("full.use_kept", {"token": old})).content == "-32003"
            await host.unload("full")
            assert host.tools() == []

    on_a_loop(main)


def test_tasks_fail_with_their_process_and_come_back_with_it(tmp_path: Path) -> None:
    """If a process dies its tasks show as failed, and those that should run come back with it."""

    async def main() -> None:
        async with hosting(restart_delays=(0.3, 0.3)) as host:
            await load(host, app_in(tmp_path))
            await host.start_task("full", "feed", user_id="ada", payload={"n": 1})
            await host.start_task("full", "feed", user_id="bo", payload={"n": 2})

            def states() -> dict[str, tuple[str, str | None]]:
                return {task.task_id: (task.status, task.last_health_status) for task in host.tasks()["full"]}

            running = {
                "watch": ("running", "watching"),
                "feed:ada": ("running", "{'n': 1}"),
                "feed:bo": ("running", "{'n': 2}"),
            }
            await until(lambda: states() == running)
            with pytest.raises(InvalidParams, match="no task 'nope'"):
                await host.start_task("full", "nope")
            assert (await host.stop_task("full", "feed:bo")).status == "stopped"
            for number in (signal.SIGKILL, signal.SIGTERM):  # the second ends it orderly: it stops its tasks itself
                pid = host.status()[0].pid
                assert pid is not None
                os.kill(pid, number)
                await until(lambda: host.status()[0].state == "restarting")
                shown = {task.task_id: task for task in host.tasks()["full"]}
                if number == signal.SIGKILL:
                    assert {name: task.status for name, task in shown.items()} == {
                        "watch": "failed", "feed:ada": "failed", "feed:bo": "stopped",
                    }  # fmt: skip
                    assert "killed by SIGKILL" in str(shown["watch"].error)
                else:
                    assert shown["feed:ada"].status in ("stopped", "failed")
                await until(lambda: states() == {**running, "feed:bo": ("stopped", "{'n': 2}")})

    on_a_loop(main)


def test_the_bus_reaches_the_others_and_not_the_sender(tmp_path: Path) -> None:
    """``bus/publish`` reaches every other extension that subscribed, and not the sender.

    Source: docs/protocol.md, sections 4 and 9.
    """

    async def main() -> None:
        async with hosting() as host:
            await load(host, app_in(tmp_path), app_in(tmp_path, "other"))
            host.publish("other", "t", {"n": 7})
            while not (heard := await seen(host)):
                await asyncio.sleep(0.01)
            assert heard == [["bus", {"n": 7}]]
            other = (await host.call_tool("other.look", {"what": "heard"})).details
            assert other == []

    on_a_loop(main)


def test_what_is_not_granted_is_refused_and_not_shown(tmp_path: Path) -> None:
    """The manifest bounds what an extension registers and what it may ask; the rest is -32004.

    Source: docs/protocol.md, section 10.
    """
    source = """
        from sepkit import App, ToolContext
        from sepkit.errors import CapabilityDisabled

        app = App("small")

        @app.tool
        async def store(ctx: ToolContext) -> str:
            try:
                await ctx._link.peer.request("kv/set", {"key": "k", "value": 1})
            except CapabilityDisabled as error:
                return str(error)
            return "stored"

        @app.command
        async def plan() -> None: ...

        @app.on("turn_start")
        async def a() -> None: ...

        @app.on("turn_end")
        async def b() -> None: ...
    """

    async def main() -> None:
        async with hosting() as host:
            small = app_in(tmp_path, "small", source, capabilities=Capabilities(tools=True, events=["turn_end"]))
            await load(host, small)
            assert host.registrations("small").subscriptions == ["turn_end"]
            assert host.registrations("small").commands == []
            assert "does not have kv = true" in (await host.call_tool("small.store")).content

    on_a_loop(main)


# -- births ------------------------------------------------------------------------------------------------------------


def test_one_bad_extension_fails_alone_and_says_why(tmp_path: Path) -> None:
    """A module that cannot be imported fails at once; a missing command is reported with the PATH."""
    broken = app_in(tmp_path, "broken", "import nothing_of_that_name\n")
    absent = Manifest(name="absent", version="1", root=tmp_path, run=Run(command="no-such-program"))
    silent = plain("silent", "import sys; sys.stdin.read()", tmp_path)
    refusing = plain(
        "refusing",
        """
        import sys, json
        rid = json.loads(sys.stdin.readline())["id"]
        print(json.dumps({"jsonrpc": "2.0", "id": rid, "error": {"code": -32603, "message": "not today"}}), flush=True)
        sys.stdin.read()
        """,
        tmp_path,
    )

    async def main() -> None:
        async with hosting(initialize_timeout=1.5) as host:
            began = time.monotonic()
            problems = await host.load([broken, absent, silent, refusing, ill("well")])
            assert time.monotonic() - began < 10
            by_name: dict[str, Problem] = {problem.name: problem for problem in problems}
            assert sorted(by_name) == ["absent", "broken", "refusing", "silent"]
            died = by_name["broken"].error
            assert isinstance(died, ExtensionDied)
            assert died.exit_code == 6
            assert "No module named 'nothing_of_that_name'" in died.stderr
            assert "exit code 6" in str(died)
            assert "no-such-program" in str(by_name["absent"].error)
            assert os.environ["PATH"] in str(by_name["absent"].error)
            assert isinstance(by_name["silent"].error, RequestTimeout)
            assert "not today" in str(by_name["refusing"].error)
            assert (await host.call_tool("well.echo", {"text": "x"})).content == "x"
            assert {one.name: one.state for one in host.status()}["broken"] == "failed"
            with pytest.raises(ExtensionUnavailable, match="broken is failed"):
                await host._extension("broken").lives.ask("ping", {}, 1)

    on_a_loop(main)


def test_ten_slow_extensions_are_ready_in_two_seconds_and_a_hanging_one_fails_alone(tmp_path: Path) -> None:
    """Ten extensions that need 1 s each are ready in less than 2 s; a hanging one fails alone."""
    sluggish = """
        import json, sys, time
        time.sleep(1)
        for line in sys.stdin:
            frame = json.loads(line)
            result = {}
            if frame["method"] == "initialize":
                result = {"protocol_version": 1, "extension": {"name": "s", "version": "1"}}
            print(json.dumps({"jsonrpc": "2.0", "id": frame["id"], "result": result}), flush=True)
            if frame["method"] == "shutdown":
                break
    """
    manifests = [plain(f"s{number}", sluggish, tmp_path) for number in range(10)]
    hanging = plain("hanging", "import time; time.sleep(60)", tmp_path)

    async def once() -> float:
        async with hosting() as host:
            began = time.monotonic()
            assert await host.load(manifests) == []
            return time.monotonic() - began

    async def main() -> None:
        # The promise is the host's: where the machine is busy, one of three attempts shows it.
        for _ in range(3):
            if (needed := await once()) < 2:
                break
        assert needed < 2
        async with hosting(initialize_timeout=2.5, shutdown_grace=0.5) as host:
            (problem,) = await host.load([*manifests, hanging])
            assert problem.name == "hanging"
            assert sum(one.state == "ready" for one in host.status()) == 10

    on_a_loop(main)


def test_a_child_knows_what_its_manifest_names_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's environment is the allow-list, what its manifest names, and its mark."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("TOKEN", "t")
    monkeypatch.setenv("LANG", "C.UTF-8")
    manifest = app_in(tmp_path)
    manifest = attrs.evolve(manifest, run=attrs.evolve(manifest.run, env={"MINE": "${env:TOKEN}-${env:NOT_SET}"}))

    async def main() -> None:
        async with hosting() as host:
            await load(host, manifest)
            environment = await seen(host, "env")
            assert environment["MINE"] == "t-"
            assert environment["LANG"] == "C.UTF-8"
            assert "planted" not in str(environment)
            known = {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TERM", "SystemRoot", "MINE", MARK}
            assert set(environment) <= known

    on_a_loop(main)


def test_extensions_are_found_where_users_put_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifests of the plugins are found, trusted or not, and loaded as they are.

    Source: docs/protocol.md, section 10.
    """
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    home, workspace = tmp_path / "home", tmp_path / "work"
    shutil.copytree(PLUGINS / "hello", home / "extensions" / "hello")
    shutil.copytree(PLUGINS / "permission_gate", workspace / ".smooth" / "extensions" / "gate")

    async def main() -> None:
        found = discover(workspace, home=home)
        async with hosting(workspace=workspace, trusted=False) as host:
            (problem,) = await host.load(found)
            assert (problem.name, "not trusted" in str(problem.error)) == ("permission-gate", True)
            assert (await host.call_tool("hello.greet", {"name": "Ada"})).content == "Hello, Ada!"
        async with hosting(workspace=workspace, trusted=True) as host:
            assert await host.load(found) == []
            call = {"tool": "bash", "arguments": {"command": "rm -rf /"}}
            assert (await host.run_hook("tool_call", call)).verdict == "denied"

    on_a_loop(main)
    assert read(PLUGINS / "hello").name == "hello"


# -- deaths ------------------------------------------------------------------------------------------------------------


def session_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == pid and state != "Z":
                found.append(int(entry.name))
    return found


STUBBORN: Final = """
    import json, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    children = [subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, "
        "signal.SIG_IGN); time.sleep(600)"]) for _ in range(2)]
    line = sys.stdin.readline()
    result = {"protocol_version": 1, "extension": {"name": "s", "version": "1"}}
    print(json.dumps({"jsonrpc": "2.0", "id": json.loads(line)["id"], "result": result}), flush=True)
    time.sleep(600)
"""


def test_a_stubborn_extension_is_ended_with_all_of_its_session(tmp_path: Path) -> None:
    """Closed stdin, then SIGTERM, then SIGKILL; the host survives, and nothing of the child's session is left."""

    async def main() -> None:
        host = hosting(shutdown_grace=0.3)
        await load(host, plain("stubborn", STUBBORN, tmp_path))
        pid = host.status()[0].pid
        assert pid is not None
        await until(lambda: len(session_of(pid)) == 3)
        began = time.monotonic()
        await host.aclose()
        assert time.monotonic() - began < 8
        assert session_of(pid) == []

    on_a_loop(main)


@ON_BOTH_LOOPS
def test_a_death_fails_all_that_waits_at_once_with_the_last_of_its_stderr(loop_kind: LoopKind, tmp_path: Path) -> None:
    """Calls fail within 1 s, with the exit code and the tail of stderr, and without an ExceptionGroup."""

    async def main() -> None:
        async with hosting(restart_delays=()) as host:
            await load(host, app_in(tmp_path))
            await host.call_tool("full.stderr", {"text": "these were my last words"})
            calls = [asyncio.ensure_future(host.call_tool("full.sleep", {"seconds": 60})) for _ in range(50)]
            await asyncio.sleep(0.1)
            pid = host.status()[0].pid
            assert pid is not None
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began < 1
            for outcome in outcomes:
                assert isinstance(outcome, ExtensionDied)
                assert outcome.exit_code == -9
                assert "these were my last words" in outcome.stderr
                assert "killed by SIGKILL" in str(outcome)
            assert len({id(outcome) for outcome in outcomes}) == 50, "an error each: they are raised with a traceback"
            assert host.status()[0].state == "failed"

    on_a_loop(main, loop_kind)


def test_stderr_is_read_to_its_end_and_kept_to_a_tail(tmp_path: Path) -> None:
    """The host drains stderr until its end, keeps a bounded tail, and hands lines to a callback."""

    async def main() -> None:
        person = Person()
        async with hosting(delegate=person) as host:
            await load(host, app_in(tmp_path))
            for number in range(100):
                await host.call_tool("full.stderr", {"text": f"line {number} \u00e4"})
            await until(lambda: "line 99 \u00e4" in person.lines)
            assert [line for line in person.lines if line.startswith("line")] == [
                f"line {n} \u00e4" for n in range(100)
            ]
            await host.call_tool("full.stderr", {"text": "y" * 1_000_000})
            await until(lambda: host.status()[0].stderr.endswith("yyy\n"))
            assert len(host.status()[0].stderr) <= 16 * 1024
            assert max(map(len, person.lines)) <= 8192

    on_a_loop(main)


def test_who_is_silent_is_asked_and_who_does_not_answer_has_died() -> None:
    """An idle extension is pinged; two missed answers count as a crash. Source: docs/protocol.md, section 2."""

    async def main() -> None:
        async with hosting(ping_after=0.1, ping_timeout=0.2, restart_delays=(0.01,)) as host:
            await load(host, ill())
            await asyncio.sleep(0.6)
            assert host.status()[0].epoch == 1, "who answers lives"
            pid = host.status()[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.15)
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.4)
            assert host.status()[0].epoch == 1, "a short pause is no death"
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: host.status()[0].epoch == 2 and host.status()[0].state == "ready")
            assert "does not answer any more" in str(host.status()[0].error)

    on_a_loop(main)


def test_the_count_of_restarts_begins_anew_after_a_healthy_life() -> None:
    """The count of restarts is reset by uptime, and ``failed`` can be left."""

    async def main() -> None:
        async with hosting(restart_delays=(0.01, 0.02), healthy_after=2.0) as host:
            await load(host, ill())

            async def die() -> None:
                epoch, pid = host.status()[0].epoch, host.status()[0].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                await until(lambda: host.status()[0].state == "failed" or host.status()[0].epoch > epoch)
                await until(lambda: host.status()[0].state in ("ready", "failed"))

            await die()
            await die()
            assert host.status()[0].restarts == 2
            await asyncio.sleep(2.1)
            await die()
            assert (host.status()[0].restarts, host.status()[0].state) == (1, "ready")
            await die()
            await die()
            assert host.status()[0].state == "failed"
            await host._extension("ill").lives.reload(ill())
            assert (host.status()[0].restarts, host.status()[0].state) == (0, "ready")
            assert (await host.call_tool("ill.echo", {"text": "x"})).content == "x"

    on_a_loop(main)


# -- between -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 10 * 1024 * 1024])
def test_long_frames_pass_both_ways(size: int, tmp_path: Path) -> None:
    """Long frames pass with default settings, also from both sides at the same moment."""

    async def main() -> None:
        async with hosting() as host:
            await load(host, app_in(tmp_path))
            there, back, other = await asyncio.gather(
                host.call_tool("full.measure", {"text": "x" * size}),
                host.call_tool("full.big", {"size": size}),
                host.call_tool("full.say", {"text": "between them"}),
            )
            assert there.content == str(size)
            assert len(back.content) == size
            assert other.content == "between them"

    on_a_loop(main)


@ON_BOTH_LOOPS
def test_who_gives_up_tells_the_extension_within_a_tenth_of_a_second(loop_kind: LoopKind, tmp_path: Path) -> None:
    """A caller that times out or is cancelled sends ``$/cancel``; no other call is affected."""

    async def main() -> None:
        async with hosting() as host:
            await load(host, app_in(tmp_path))
            delays = []
            for number in range(6):
                call = host.call_tool("full.sleep", {"seconds": 30}, timeout=0.05 if number % 2 else None)
                task = asyncio.ensure_future(call)
                await asyncio.sleep(0.03)
                if number % 2:
                    with pytest.raises(RequestTimeout):
                        await task
                else:
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                gave_up = time.time()
                while len(cancelled := await seen(host, "cancelled")) <= number:
                    assert time.time() - gave_up < PATIENCE
                delays.append(cancelled[number] - gave_up)
            assert sorted(delays)[2] < 0.1
            assert host.status()[0].pending == 0

    on_a_loop(main, loop_kind)


def test_after_many_mixed_calls_every_table_is_empty_and_memory_has_not_grown(tmp_path: Path) -> None:
    """After successes, errors, time-outs, cancels and late replies the host's tables are empty."""
    calls = 100_000 if SOAK else 3_000

    async def main() -> None:
        async with hosting() as host:
            await load(host, app_in(tmp_path))

            async def one(number: int) -> None:
                match number % 5:
                    case 0 | 1:
                        assert (await host.call_tool("full.say", {"text": str(number)})).content == str(number)
                    case 2:
                        assert (await host.call_tool("full.say", {})).is_error
                    case 3:
                        with contextlib.suppress(RequestTimeout):
                            await host.call_tool("full.sleep", {"seconds": 0.002}, timeout=0.001)
                    case 4:
                        task = asyncio.ensure_future(host.call_tool("full.sleep", {"seconds": 5}, on_update=print))
                        await asyncio.sleep(0)
                        task.cancel()
                        with contextlib.suppress(asyncio.CancelledError):
                            await task

            async def many(count: int) -> None:
                for start in range(0, count, 100):
                    await asyncio.gather(*(one(number) for number in range(start, start + 100)))

            await many(1000)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            await many(calls)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 5 * 1024, f"{grown} KiB"
            extension = host._extension("full")
            await host.call_tool("full.say", {"text": "x"})
            assert host.status()[0].pending == 0
            assert not extension.calls._updates
            assert not extension.calls._events
            life = extension.lives.alive()
            assert life.peer._alarms == {}
            assert not life.peer.busy

    on_a_loop(main)


@pytest.mark.timeout(60)
def test_an_extension_that_does_not_read_holds_up_its_own_calls_alone(tmp_path: Path) -> None:
    """Senders to it wait, events are dropped and counted, and no other extension is affected."""

    async def main() -> None:
        async with hosting(restart_delays=()) as host:
            await load(host, ill(), ill("well"))
            pid = host.status()[0].pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            text = "x" * 100_000
            calls = [asyncio.ensure_future(host.call_tool("ill.echo", {"text": text})) for _ in range(100)]
            longest = 0.0
            for _ in range(100):
                for _ in range(50):
                    host.dispatch_event("turn_start", {"text": "y" * 1000})
                began = time.perf_counter()
                assert (await host.call_tool("well.echo", {"text": "x"})).content == "x"
                longest = max(longest, time.perf_counter() - began)
            assert longest < 1.0
            life = host._extension("ill").lives.alive()
            assert life.peer.transport._size < 3 * 1024 * 1024  # type: ignore[attr-defined]  # of the real transport
            os.kill(pid, signal.SIGCONT)
            assert [len(result.content) for result in await asyncio.gather(*calls)] == [100_000] * 100

    on_a_loop(main)


def test_no_public_call_raises_what_is_not_the_caller_s(tmp_path: Path) -> None:
    """A public call raises no ExceptionGroup, and no CancelledError but the caller's own."""

    async def main() -> None:
        async with hosting(restart_delays=(0.05,) * 10) as host:
            await load(host, app_in(tmp_path))
            said = [{"role": "user", "content": "a"}]

            async def stream() -> None:
                async for _ in host.complete("parrot", "grey", said, thinking="x"):
                    pass

            works: list[Callable[[], Awaitable[object]]] = [
                lambda: host.call_tool("full.sleep", {"seconds": 30}),
                lambda: host.run_hook("tool_call", {"tool": "bash", "arguments": {}}),
                lambda: host.run_command("plan"),
                lambda: host.complete_command("plan"),
                lambda: host.start_task("full", "feed", user_id="x"),
                lambda: host.oauth_login("parrot"),
                stream,
            ]
            for _ in range(3):
                await until(lambda: host.status()[0].state == "ready")
                tasks = [asyncio.ensure_future(work()) for work in works]
                await asyncio.sleep(0.001)
                pid = host.status()[0].pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(outcome, BaseException):
                        assert isinstance(outcome, ExtensionDied | ExtensionUnavailable | RpcError), repr(outcome)

    on_a_loop(main)


def test_the_store_is_an_extension_s_own(tmp_path: Path) -> None:
    """The keys are in SQLite, with a namespace for each extension, and is there when the host starts again."""
    source = """
        from sepkit import App, ToolContext
        app = App("a")

        @app.tool
        async def put(value: str, ctx: ToolContext) -> None:
            await ctx.kv.set("k", value)

        @app.tool
        async def get(ctx: ToolContext) -> str:
            return str(await ctx.kv.get("k"))
    """

    async def main() -> None:
        for first in (True, False):
            async with Host(store=tmp_path / "kv.sqlite3") as host:
                await load(host, app_in(tmp_path, "a", source), app_in(tmp_path, "b", source))
                if first:
                    await host.call_tool("a.put", {"value": "mine"})
                assert (await host.call_tool("a.get")).content == "mine"
                assert (await host.call_tool("b.get")).content == "None"

    on_a_loop(main)


@ON_BOTH_LOOPS
def test_the_log_of_a_death_has_the_last_lines_of_stderr_and_no_more(
    loop_kind: LoopKind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At most 20 lines of 200 characters, and a terminal obeys none of them; ``stderr`` of the error has more."""
    source = r"""
        import os, sys
        os.write(2, b"first\n" + b"x" * 40_000 + b"\n")
        for number in range(30):
            os.write(2, b"line %d " % number + b"y" * 500 + b" end\n\n")
        os.write(2, b"a\rb\x0bc\xe2\x80\xa8d\n")
        os.write(2, b"\x1b[2Jlast \xff words\n\n \n")
        sys.exit(3)
    """

    async def main() -> None:
        async with hosting(restart_delays=()) as host:
            (problem,) = await host.load([plain("talks", source, tmp_path)])
            died = problem.error
            assert isinstance(died, ExtensionDied)
            assert len(died.stderr) > 10_000
            for text in (str(problem), str(host.status()[0].error), caplog.records[-1].getMessage()):
                head, *lines = text.replace("\n  ", "\n").splitlines()  # a log record indents its further lines
                assert head.endswith("(exit code 3); it said last:")
                assert len(lines) == 20
                assert max(map(len, lines)) == 200
                assert lines[-1] == r"\x1b[2Jlast � words"
                assert lines[-5:-1] == ["a", "b", "c", "d"]
                assert lines[-6].startswith("line 29 yy")
                assert lines[-6].endswith("yy end")

    on_a_loop(main, loop_kind)
