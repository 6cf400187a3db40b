"""Background tasks on the wire: what a host that asked for them may ask, and what it is told."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from sepkit import App, TaskContext, ToolContext
from sepkit.wire import messages
from sepkit.wire.converter import structure_exactly
from tests.checked_host import CheckedHost
from tests.memory_host import MemoryHost, on_each_loop

TASKS: Final = {"capabilities_enabled": {"tasks": True}}


def hosting(app: App, **options: Any) -> MemoryHost:
    """A host that asks for tasks."""
    return MemoryHost(app, handshake=TASKS, **options)


def watching(**options: Any) -> App:
    """An app with a task that runs until it is stopped, and one for each user."""
    app = App("t", **options)

    @app.task(restart="on-failure", max_restarts=3, initial_delay=0.5, max_delay=2, multiplier=3)
    async def watch(ctx: TaskContext) -> None:
        """Watch.

        All day.
        """
        ctx.report_health("watching")
        await ctx.wait_stop()

    @app.task(per_user=True)
    async def feed(ctx: TaskContext) -> None:
        ctx.report_health(f"{ctx.user_id}: {ctx.payload}")
        await ctx.wait_stop()

    return app


def updates(host: MemoryHost, task_id: str | None = None) -> list[dict[str, Any]]:
    """What the host was told of tasks, each update checked."""
    told = host.told_of("task/update")
    for update in told:
        structure_exactly(update, messages.TaskHealth)
    return [update for update in told if task_id in (None, update["task_id"])]


def states(host: MemoryHost, task_id: str) -> list[str]:
    """The states that a task was told to be in, each once."""
    return [one for one, _ in itertools.groupby(update["status"] for update in updates(host, task_id))]


def updates_of(host: CheckedHost, task_id: str) -> list[messages.TaskHealth]:
    """The same of the other host, which checks them itself."""
    return [update for update in host.task_updates if update.task_id == task_id]


def states_of(host: CheckedHost, task_id: str) -> list[str]:
    """The states that a task was told to be in, each once."""
    return [one for one, _ in itertools.groupby(update.status for update in updates_of(host, task_id))]


@on_each_loop
async def test_a_host_that_asks_is_told_of_each_task_and_its_policy() -> None:
    """``registrations.tasks`` has durations in whole milliseconds. Source: docs/tasks.md, "On the wire"."""
    async with hosting(watching()) as host:
        watch, feed = host.initialized["registrations"]["tasks"]
        assert watch == {
            "name": "watch",
            "description": "Watch.\n\nAll day.",
            "per_user": False,
            "autostart": True,
            "restart_policy": {
                "type": "on-failure",
                "max_restarts": 3,
                "initial_delay_ms": 500,
                "max_delay_ms": 2000,
                "multiplier": 3,
            },
        }
        structure_exactly(watch, messages.TaskRegistration)
        assert (feed["per_user"], feed["autostart"]) == (True, False)


@pytest.mark.parametrize("said", [{}, {"capabilities_enabled": {}}, {"capabilities_enabled": {"tasks": False}}])
@on_each_loop
async def test_a_host_that_did_not_ask_is_told_of_state_changes_by_log_lines_alone(said: dict[str, Any]) -> None:
    """Nothing of the task methods is sent to it; tasks run all the same. Source: docs/tasks.md, "On the wire"."""
    app = watching()
    async with MemoryHost(app, handshake=said, log=True) as host:
        assert "tasks" not in host.initialized["registrations"]
        for method in ("task/start", "task/stop", "task/list"):
            assert (await host.refused(method, {}))["code"] == -32601
        await host.until(lambda: bool(host.told_of("log")))
        await host.ping()
        assert [task.status for task in app.tasks.status()] == ["running"]
        assert app.tasks.status()[0].last_health_status == "watching"
        said_so = [line["message"] for line in host.told_of("log")]
        assert said_so == ["task watch: running"], "health reports are no state changes"
    assert not host.told_of("task/update")


@on_each_loop
async def test_a_task_is_started_listed_and_stopped_by_the_host() -> None:
    """``task/start``, ``task/list`` and ``task/stop`` work; payload and user reach the task.

    Source: docs/tasks.md, "On the wire".
    """
    async with CheckedHost(watching()) as host:
        started = await host.start_task("feed", id="f-1", user_id="ada", payload={"n": [1]})
        assert (started.task_id, started.name, started.user_id) == ("f-1", "feed", "ada")
        assert (started.status, started.restart_count) == ("pending", 0)
        await host.until(lambda: any(update.last_health_status for update in updates_of(host, "f-1")))
        told = updates_of(host, "f-1")
        assert (told[0].status, told[0].last_health_status) == ("running", None)
        assert (told[1].status, told[1].last_health_status) == ("running", "ada: {'n': [1]}")
        assert told[1].last_health_time is not None
        assert told[1].last_health_time.endswith("Z")
        assert [(task.task_id, task.user_id, task.status) for task in await host.list_tasks()] == [
            ("watch", None, "running"),
            ("f-1", "ada", "running"),
        ]
        stopped = await host.stop_task("f-1")
        assert stopped.status == "stopped"
        assert states_of(host, "f-1") == ["running", "stopped"], "told before the answer, and once"
        assert await host.stop_task("f-1") == stopped, "stop is idempotent"
        assert states_of(host, "f-1") == ["running", "stopped"]
        again = await host.start_task("feed", id="f-1", user_id="ada")
        assert again.status == "pending"
        assert again.last_health_status is None, "a new start"
    assert states_of(host, "f-1") == ["running", "stopped", "running", "stopped"]
    assert states_of(host, "watch") == ["running", "stopped"], "the end is told, too"


@pytest.mark.parametrize(
    ("method", "params", "text", "known"),
    [
        ("task/start", {"name": "nope"}, "no task 'nope'", ["watch", "feed"]),
        ("task/start", {"name": "watch"}, "'watch' is running", None),
        ("task/start", {"name": "feed"}, "is per user", None),
        ("task/start", {"name": "feed", "user_id": ""}, "user_id must be a string that is not empty", None),
        ("task/start", {"name": "feed", "user_id": 5}, "$.user_id", None),
        ("task/start", {"name": "feed", "user_id": "u", "task_id": ""}, "id must be a string", None),
        ("task/start", {}, "a field 'name'", None),
        ("task/stop", {"task_id": "nope"}, "no task 'nope'", ["watch"]),
        ("task/stop", {}, "a field 'task_id'", None),
    ],
)
@on_each_loop
async def test_what_cannot_be_is_refused_with_what_is_known(
    method: str, params: dict[str, Any], text: str, known: list[str] | None
) -> None:
    """An unknown name or id, and the start of a running id, are -32602, and leave no trace.

    Source: docs/tasks.md, "On the wire".
    """
    app = watching()
    async with hosting(app) as host:
        await host.until(lambda: bool(updates(host)))
        before = app.tasks.status()
        error = await host.refused(method, params)
        assert error["code"] == -32602
        assert text in error["message"]
        if known is not None:
            assert error["data"] == {"known": known}
        assert [task.task_id for task in app.tasks.status()] == [task.task_id for task in before]


@on_each_loop
async def test_a_crash_is_told_by_its_type_and_its_text_stays_here(caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception may be a secret."""
    app = App("t")

    @app.task(restart="always", max_restarts=1, initial_delay=0)
    async def crash() -> None:
        raise ValueError("the secret is 42")

    async with hosting(app, log=True) as host:
        await host.until(lambda: "failed" in states(host, "crash"))
        assert [update["status"] for update in updates(host)] == ["running", "restarting", "running", "failed"]
        assert [update.get("error") for update in updates(host)] == [
            None,
            "ValueError",
            None,
            "restarts exhausted (1 of 1); the last run: ValueError",
        ]
        assert [update["restart_count"] for update in updates(host)] == [0, 1, 1, 1]
        (listed,) = (await host.ask("task/list", {}))["tasks"]
        assert listed["error"] == "restarts exhausted (1 of 1); the last run: ValueError"
        assert "the secret" in str(app.tasks.status()[0].error)
    assert not [line for line in host.lines if b"secret" in line]
    assert "the secret is 42" in caplog.text, "its traceback is in the log"


@on_each_loop
async def test_an_error_that_quotes_an_error_is_told_by_its_type_too() -> None:
    """Of the text only what the supervisor itself wrote in front of the type crosses."""
    app = App("t")

    @app.task(restart="never")
    async def outer() -> None:
        raise RuntimeError("the secret: restarts exhausted (1 of 1); the last run: ValueError")

    async with CheckedHost(app) as host:
        await host.until(lambda: "failed" in states_of(host, "outer"))
        assert host.task_updates[-1].error == "RuntimeError"


@on_each_loop
async def test_a_task_that_the_lifespan_started_is_told_of_after_the_handshake() -> None:
    """The host is told of each change of state, also of tasks that began before the handshake.

    Source: docs/tasks.md, "On the wire".
    """

    @asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        app.tasks.start("feed", user_id="ada", payload=1)
        await asyncio.sleep(0.01)
        app.tasks.start("feed", user_id="bob", payload=2)
        yield

    async with hosting(watching(lifespan=lifespan)) as host:
        await host.until(lambda: states(host, "feed:bob") == ["running"])
        assert updates(host, "feed:ada")[0]["last_health_status"] == "ada: 1"
        assert host.frames[0]["id"] == 1, "the handshake is answered first"
        assert states(host, "feed:ada") == states(host, "watch") == ["running"]


@on_each_loop
async def test_expose_errors_lets_the_text_cross() -> None:
    """``App(expose_errors=True)`` is for development."""
    app = App("t", expose_errors=True)

    @app.task(restart="never")
    async def crash() -> None:
        raise ValueError("said openly")

    async with CheckedHost(app) as host:
        await host.until(lambda: "failed" in states_of(host, "crash"))
        assert host.task_updates[-1].error == "ValueError: said openly"


@on_each_loop
async def test_while_the_host_does_not_read_only_the_newest_of_each_task_waits() -> None:
    """100,000 reports of a task that the host does not read do not take memory.

    Source: docs/tasks.md, "On the wire".
    """
    app = App("t")
    report: dict[str, Callable[[str], None]] = {}

    @app.task(autostart=False)
    async def busy(ctx: TaskContext) -> None:
        report[ctx.task_id] = ctx.report_health
        await ctx.wait_stop()

    @app.tool
    async def flood(ctx: ToolContext) -> None:
        for _ in range(60):
            ctx.update("x" * 60_000)  # past the mark: from now on the host does not keep up
        for number in range(50_000):
            for told in report.values():
                told(f"report {number}")

    async with hosting(app) as host:
        for task_id in ("a", "b"):
            await host.ask("task/start", {"name": "busy", "task_id": task_id})
        await host.until(lambda: len(updates(host)) == 2)
        host.pause_reading()
        call = host.start_tool("flood")
        stop = host.start("task/stop", {"task_id": "b"})
        for _ in range(20):
            await asyncio.sleep(0)
        host.resume_reading()
        await host.answer(call)
        await host.answer(stop)
        await host.until(lambda: states(host, "b")[-1] == "stopped")
        await host.until(lambda: updates(host, "a")[-1].get("last_health_status") == "report 49999")
        assert len(updates(host)) < 20
        assert updates(host, "b")[-1]["last_health_status"] == "report 49999"
        assert await host.ask("ping", {}) == {}


@on_each_loop
async def test_what_waits_for_the_host_is_told_before_the_end() -> None:
    """A host that reads late still learns how each task ended. Source: docs/tasks.md, "On the wire"."""
    app = watching()

    @app.tool
    async def flood(ctx: ToolContext) -> None:
        ctx.update("x" * 3_000_000)  # past the mark: from now on the host does not keep up

    async with hosting(app) as host:
        await host.until(lambda: bool(updates(host)))
        host.pause_reading()
        host.start_tool("flood")
        app.tasks.start("feed", user_id="ada")
        for _ in range(10):
            await asyncio.sleep(0)
        shutdown = host.start("shutdown", {})
        for _ in range(20):
            await asyncio.sleep(0)
        host.resume_reading()
        await host.answer(shutdown)
        assert states(host, "watch")[-1] == "stopped"
        assert states(host, "feed:ada")[-1] == "stopped"
        assert host.frames[-1].get("id") == shutdown, "the answer is the last thing that the host reads"


@on_each_loop
async def test_stopping_many_tasks_delays_no_ping(caplog: pytest.LogCaptureFixture) -> None:
    """A stop waits for the run, and nothing else waits for the stop."""
    app = App("t")
    let_go = asyncio.Event()

    @app.task(autostart=False, stop_grace=20)
    async def slow(ctx: TaskContext) -> None:
        await ctx.wait_stop()
        await let_go.wait()

    with caplog.at_level(logging.INFO):
        async with CheckedHost(app) as host:
            for number in range(50):
                await host.start_task("slow", id=f"s{number}")
            stops = [asyncio.create_task(host.stop_task(f"s{number}")) for number in range(50)]
            await asyncio.sleep(0)  # they have been sent
            await host.ping()
            assert not any(stop.done() for stop in stops)
            let_go.set()
            assert {health.status for health in await asyncio.gather(*stops)} == {"stopped"}
