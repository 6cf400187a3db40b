"""A run of a task stands alone: it inherits nothing, leaves nothing behind, and what it raises is told in short."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import textwrap
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from sepkit import App, TaskContext
from sepkit.faces.runner import LoopKind, new_loop
from sepkit.host import Host, KvStore, Manifest
from sepkit.host.manifest import GROUPS, Capabilities
from sepkit.host.manifest import Run as Command
from sepkit.serving.logs import StderrHandler
from sepkit.tasks import Supervisor, TaskHealth, TaskRun
from sepkit.tracebacks import Told
from tests.memory_host import MemoryHost, on_each_loop
from tests.test_tasks import Desk, exact, finish, spec, virtual

WHOSE: Final[contextvars.ContextVar[str]] = contextvars.ContextVar("whose", default="no caller's")
MIB: Final = 1024 * 1024


async def turns(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# -- a context of its own ----------------------------------------------------------------------------------------------


@virtual
async def test_a_run_inherits_nothing_from_what_started_it_and_neither_do_its_restarts() -> None:
    """Neither the first run, nor a restart, nor the next start; nor does one run see what another has set."""
    seen: list[str] = []

    async def body(run: TaskRun) -> None:
        seen.append(WHOSE.get())
        WHOSE.set(f"run {run.number}'s")
        if run.number < 3:
            raise ValueError

    desk = Desk()
    WHOSE.set("the caller's")
    task = spec(body, policy=exact(type="on-failure"))
    await desk.supervisor.start(task).join()
    WHOSE.set("another caller's")
    await desk.supervisor.start(task).join()
    assert seen == ["no caller's"] * 6


@virtual
async def test_what_is_told_of_a_run_is_told_in_no_callers_context() -> None:
    """A change of state that a timer brings about, too."""
    seen: list[str] = []

    def changed(health: TaskHealth) -> None:
        seen.append(WHOSE.get())

    async def launch(task: object, run: TaskRun) -> None:
        raise ValueError

    WHOSE.set("the caller's")
    room = Supervisor(launch, on_change=changed)
    await room.start(spec(finish, policy=exact(max_restarts=2))).join()
    assert set(seen) == {"no caller's"}


@on_each_loop
async def test_a_task_that_a_tool_starts_has_no_value_of_that_call() -> None:
    """The tool's context variables stay with the call, over each restart."""
    app = App("t")
    seen: list[str] = []

    @app.task(restart="on-failure", initial_delay=0, jitter=0, autostart=False)
    async def work(ctx: TaskContext) -> None:
        seen.append(WHOSE.get())
        if len(seen) < 3:
            raise ValueError

    @app.tool
    async def begin() -> None:
        WHOSE.set("the call's")
        await app.tasks.start(work).join()

    async with MemoryHost(app) as host:
        await host.tool("begin")
    assert seen == ["no caller's"] * 3


# -- what it raises ----------------------------------------------------------------------------------------------------


class Slow(Exception):
    """Whose text is expensive."""

    asked = 0

    def __str__(self) -> str:
        type(self).asked += 1
        return "x" * (50 * MIB)


async def error_of(error: BaseException) -> str:
    async def body(run: TaskRun) -> None:
        raise error

    health = await Desk().supervisor.start(spec(body, policy=exact(type="never"))).join()
    assert health.error is not None
    return health.error


@virtual
async def test_an_exception_group_is_told_by_its_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """A task group that failed: what failed in it, however deep it is, and not "2 sub-exceptions"."""
    deep = ExceptionGroup("outer", [ValueError("a"), ExceptionGroup("inner", [OSError("b"), ValueError("c")])])
    assert await error_of(deep) == "ValueError, OSError: a; b; c"
    assert "test_task_leftovers.py" in caplog.text
    for leaf in ("ValueError: a", "OSError: b", "ValueError: c"):
        assert leaf in caplog.text
    assert await error_of(ExceptionGroup("g", [ValueError()])) == "ValueError"

    async def fails(text: str) -> None:
        raise LookupError(text)

    async def body(run: TaskRun) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails("first"))
            group.create_task(fails("second"))

    health = await Desk().supervisor.start(spec(body, policy=exact(type="never"))).join()
    assert health.error == "LookupError: first; second"
    assert "in fails" in caplog.text


@virtual
async def test_a_group_without_end_is_told_in_part() -> None:
    """100,000 leaves, or 100,000 groups in each other: some of them are told, and that there are more."""
    wide = ExceptionGroup("wide", [ValueError(str(number)) for number in range(100_000)])
    assert await error_of(wide) == "ValueError: " + "; ".join(map(str, range(15))) + "; and more"
    deep: Exception = ValueError("at the bottom")
    for _ in range(100_000):
        deep = ExceptionGroup("g", [deep])
    assert await error_of(deep) == "ValueError: at the bottom"
    while isinstance(deep, ExceptionGroup):  # freed one by one: Python would free them recursively
        (deep,) = deep.exceptions


@virtual
async def test_the_text_of_an_exception_is_taken_once_and_cut(caplog: pytest.LogCaptureFixture) -> None:
    """50 MB: the state has its beginning, and so has the log, wherever that goes."""
    for error in (Slow(), ExceptionGroup("g", [Slow()])):
        Slow.asked = 0
        caplog.clear()
        said = await error_of(error)
        assert Slow.asked == 1
        assert said.startswith("Slow: xxx")
        assert len(said) < 2_100
        (record,) = caplog.records
        for formatter in (logging.Formatter(), logging.Formatter("%(message)s")):
            text = formatter.format(record)
            assert "more characters)" in text
            assert len(text) < 30_000
        assert Slow.asked == 1


@pytest.mark.parametrize("where", ["cause", "context", "note"])
def test_what_hangs_on_an_exception_is_cut_too(where: str) -> None:
    """Its cause, what it was raised in, and its notes."""
    long = ValueError("y" * MIB)
    error = LookupError("short")
    if where == "cause":
        error.__cause__ = long
    elif where == "context":
        error.__context__ = long
    else:
        error.add_note("y" * MIB)
    said = Told(error)
    assert said.line == "LookupError: short"
    assert 20_000 < len(said.traceback()) < 25_000


def test_short_tracebacks_are_those_of_python() -> None:
    """Cutting changes nothing else: causes, notes and carets are there."""
    try:
        try:
            int("x")
        except ValueError as error:
            error.add_note("a note")
            raise KeyError("k") from error
    except KeyError as error:
        found = error
    assert Told(found).traceback() == "".join(traceback.format_exception(found)).rstrip("\n")


def test_stderr_has_no_text_of_50_mb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever logs it: ``logging.exception`` of an author, and a tool that raised."""
    handler = StderrHandler()
    record = logging.makeLogRecord({"msg": "failed", "exc_info": (Slow, Slow(), None)})
    assert len(handler.format(record)) < 25_000


# -- what it leaves behind ---------------------------------------------------------------------------------------------


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "left" in record.getMessage()]


async def returns(run: TaskRun) -> None:
    return None


async def raises(run: TaskRun) -> None:
    raise ValueError


async def is_stopped(run: TaskRun) -> None:
    await run.wait_stop()


async def is_cancelled(run: TaskRun) -> None:
    await asyncio.sleep(1000)


@pytest.mark.parametrize("end", [returns, raises, is_stopped, is_cancelled])
@pytest.mark.parametrize("how", ["create_task", "ensure_future", "a task of a task", "a callback"])
@on_each_loop
async def test_what_a_run_has_started_and_left_behind_ends_with_it_and_is_named(
    how: str, end: Callable[[TaskRun], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """However it was started, and however the run ends."""
    started: list[asyncio.Task[None]] = []

    async def poll() -> None:
        started.append(asyncio.current_task())  # type: ignore[arg-type]
        await asyncio.sleep(3600)

    async def begin() -> None:
        asyncio.create_task(poll(), name="the poller")  # noqa: RUF006

    async def body(run: TaskRun) -> None:
        match how:
            case "create_task":
                asyncio.create_task(poll(), name="the poller")  # noqa: RUF006
            case "ensure_future":
                asyncio.ensure_future(poll()).set_name("the poller")
            case "a task of a task":
                asyncio.create_task(begin())  # noqa: RUF006
            case "a callback":
                asyncio.get_running_loop().call_soon(lambda: asyncio.create_task(poll(), name="the poller"))
        await turns(3)
        await end(run)

    desk = Desk()
    handle = desk.supervisor.start(spec(body, policy=exact(type="never"), stop_grace=0))
    await turns(8)
    await handle.stop()
    await turns()
    assert [task.cancelled() for task in started] == [True]
    (said,) = messages(caplog)
    assert said.startswith("task 'watch': run 1 has left asyncio tasks behind, which are cancelled: the poller (")
    assert said.endswith("poll)")


@virtual
async def test_each_run_ends_what_it_has_left_before_the_next_one_begins(caplog: pytest.LogCaptureFixture) -> None:
    """A task that fails and is started again does not gather pollers."""
    living = 0

    async def poll() -> None:
        nonlocal living
        living += 1
        try:
            await asyncio.sleep(3600)
        finally:
            living -= 1

    async def body(run: TaskRun) -> None:
        assert living == 0
        asyncio.create_task(poll())  # noqa: RUF006
        await asyncio.sleep(0.01)
        raise ValueError

    await Desk().supervisor.start(spec(body, policy=exact(max_restarts=5))).join()
    await turns()
    assert living == 0
    assert len(messages(caplog)) == 6


@virtual
async def test_what_ignores_its_cancellation_is_named_again(caplog: pytest.LogCaptureFixture) -> None:
    """It cannot be ended; that it still runs is said as an error."""
    go_on = asyncio.Event()

    async def stubborn() -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    async def body(run: TaskRun) -> None:
        asyncio.create_task(stubborn(), name="deaf")  # noqa: RUF006
        await turns(2)

    await Desk().supervisor.start(spec(body, policy=exact(type="never"))).join()
    await asyncio.sleep(10)
    first, second = messages(caplog)
    assert "which are cancelled: deaf" in first
    assert "has left tasks that ignore their cancellation: deaf" in second
    go_on.set()
    await turns()


@virtual
async def test_what_belongs_to_others_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Another run's, the program's, a task that was started on purpose beside the run, and what the run awaited."""
    others: list[asyncio.Task[None]] = []

    async def wait() -> None:
        await asyncio.sleep(3600)

    async def longer(run: TaskRun) -> None:
        others.append(asyncio.create_task(wait()))
        await run.wait_stop()

    async def body(run: TaskRun) -> None:
        others.append(asyncio.create_task(wait(), context=contextvars.Context()))
        handles.append(desk.supervisor.start(spec(longer, "by the run")))
        await asyncio.create_task(asyncio.sleep(0.1))
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.1))

    desk = Desk()
    others.append(asyncio.create_task(wait()))
    handles = [desk.supervisor.start(spec(longer, "before"))]
    await desk.supervisor.start(spec(body, policy=exact(type="never"))).join()
    await asyncio.sleep(1)
    assert len(others) == 4
    assert not any(task.done() for task in others)
    assert messages(caplog) == []
    await desk.supervisor.aclose()
    await turns()
    assert [task.cancelled() for task in others].count(True) == 2
    for task in others:
        task.cancel()


@virtual
async def test_the_end_of_all_tasks_ends_what_they_have_left(caplog: pytest.LogCaptureFixture) -> None:
    """When ``aclose`` returns it has ended."""
    left: list[asyncio.Task[None]] = []

    async def body(run: TaskRun) -> None:
        left.append(asyncio.create_task(asyncio.sleep(3600)))
        await run.wait_stop()

    desk = Desk()
    for number in range(20):
        desk.supervisor.start(spec(body, f"t{number}"))
    await turns()
    await desk.supervisor.aclose()
    assert [task.cancelled() for task in left] == [True] * 20
    assert len(messages(caplog)) == 20


@virtual
async def test_runs_that_leave_nothing_cost_no_look_at_all_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or 10,000 of them would look 10,000 times at 10,000; where all of them leave something, few looks find it."""
    looks = 0
    real = asyncio.all_tasks

    def counted(loop: asyncio.AbstractEventLoop | None = None) -> set[asyncio.Task[Any]]:
        nonlocal looks
        looks += 1
        return real(loop)

    async def quick(run: TaskRun) -> None:
        await run.sleep(1 + run.payload / 1000)

    async def leaves(run: TaskRun) -> None:
        asyncio.create_task(asyncio.sleep(3600))  # noqa: RUF006
        await quick(run)

    monkeypatch.setattr(asyncio, "all_tasks", counted)
    desk = Desk()
    for body, most in ((quick, 0), (leaves, 40)):
        looks = 0
        for number in range(2_000):
            desk.supervisor.start(spec(body, f"t{number}", policy=exact(type="never")), payload=number)
        await asyncio.sleep(5)
        assert not desk.supervisor.busy
        assert looks <= most + 2_000 * (body is leaves), looks


APP: Final = """
    import asyncio
    from sepkit import App, TaskContext

    app = App("leaves")
    ended = []

    async def poll():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("poll")
            raise

    @app.task(restart="never", autostart=False)
    async def work(ctx: TaskContext) -> None:
        asyncio.create_task(poll(), name="poller")
        ctx.report_health("working")
        await ctx.wait_stop()

    @app.tool
    async def look() -> list[str]:
        return ended
"""


def test_over_a_real_process_what_a_task_has_left_ends_with_its_stop(loop_kind: LoopKind, tmp_path: Path) -> None:
    """A host stops a task: the log of the extension names what was left, and it has ended."""
    (tmp_path / "app.py").write_text(textwrap.dedent(APP))
    run = Command(sys.executable, ["-m", "sepkit", "run", "app:app", "--loop", loop_kind])
    granted = Capabilities(**dict.fromkeys(GROUPS, True))  # type: ignore[arg-type]  # `events` is no group
    manifest = Manifest("leaves", "1", tmp_path, run, capabilities=granted)

    async def main() -> None:
        async with Host(store=KvStore()) as host:
            assert await host.load([manifest]) == []
            await host.start_task("leaves", "work")
            while not any(task.last_health_status for task in host.tasks()["leaves"]):
                await asyncio.sleep(0.005)
            await host.stop_task("leaves", "work")
            async with asyncio.timeout(20):
                while (await host.call_tool("leaves.look")).details != ["poll"]:
                    await asyncio.sleep(0.005)
                while "left asyncio tasks behind, which are cancelled: poller (poll)" not in host.status()[0].stderr:
                    await asyncio.sleep(0.005)

    with asyncio.Runner(loop_factory=lambda: new_loop(loop_kind)) as runner:
        runner.run(main())
