"""How a test host begins and ends: in which tasks, whatever is raised; and what it leaves behind, which is nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import anyio
import pytest

from sepkit import App
from sepkit.errors import InternalError
from sepkit.faces.log import WireHandler
from sepkit.testing import ProtocolViolation, TestHost
from tests.memory_host import on_each_loop
from tests.testing.sample import diary, is_alive, sample


def write(host: TestHost, *lines: bytes) -> None:
    """Send bytes as the extension."""
    host._dispatcher.peer.transport.write(b"".join(line + b"\n" for line in lines))


async def others() -> set[asyncio.Task[Any]]:
    """The tasks beside this one, after those have gone that are about to."""
    for _ in range(5):
        await asyncio.sleep(0)
    return asyncio.all_tasks() - {asyncio.current_task()}


@on_each_loop
async def test_the_app_is_served_within_the_block_and_ended_with_it() -> None:
    """Handshake and shutdown; and again with the same app, as the tests of one module do.

    Source: docs/protocol.md, section 2.
    """
    app = sample()
    before = await others()
    for _ in range(2):
        async with TestHost(app) as host:
            assert is_alive(app)
            await host.ping()
        assert not is_alive(app)
        assert await others() == before


@on_each_loop
async def test_it_may_begin_and_end_in_different_tasks() -> None:
    """A pytest fixture is set up and torn down in tasks of its own; nothing may be bound to one of them."""

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:  # left in the task that entered it, or anyio raises
            group.start_soon(anyio.sleep_forever)
            yield
            group.cancel_scope.cancel()

    app = App("t", lifespan=lifespan)

    async def begin() -> TestHost:
        return await TestHost(app)

    loop = asyncio.get_running_loop()
    host = await loop.create_task(begin())
    await loop.create_task(host.ping())
    await loop.create_task(host.aclose())
    await host.aclose()  # a second time nothing happens


@on_each_loop
async def test_what_the_block_raises_is_not_replaced() -> None:
    """It is replaced neither by an error of the extension nor by a group; additions are notes."""
    raised = KeyError("mine")

    async def block() -> None:
        async with TestHost(sample()) as host:
            write(host, b"nonsense")
            await host.ping()
            raise raised

    with pytest.raises(KeyError) as caught:
        await block()
    assert caught.value is raised
    assert "The TestHost adds: the extension broke the protocol" in caught.value.__notes__[0]


@on_each_loop
async def test_of_several_faults_the_first_is_raised_with_the_others() -> None:
    """The caller gets no ExceptionGroup."""

    async def block() -> None:
        async with TestHost(sample()) as host:
            write(host, b"one", b"two")
            await host.ping()

    with pytest.raises(ProtocolViolation, match="one") as caught:
        await block()
    assert "two" in caught.value.__notes__[0]


@on_each_loop
async def test_a_lifespan_that_fails_is_the_cause() -> None:
    """The extension's error crosses as a fixed text; a test wants to see what was raised."""

    @contextlib.asynccontextmanager
    async def lifespan(app: App) -> AsyncIterator[None]:
        if app.name:
            raise KeyError("no database")
        yield

    before = await others()
    with pytest.raises(InternalError, match="lifespan failed") as caught:
        async with TestHost(App("t", lifespan=lifespan)):
            pytest.fail("it never began")
    assert isinstance(caught.value.__cause__, KeyError)
    assert await others() == before


@on_each_loop
async def test_a_block_that_is_cancelled_still_ends_the_app() -> None:
    """The cancellation is the caller's own and goes through."""
    app = sample()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), TestHost(app) as host:
            await host.call_tool("forever")
    assert not is_alive(app)
    assert diary(app) == ["cancelled"]


@on_each_loop
async def test_a_scope_that_cancels_again_and_again_still_ends_the_app() -> None:
    """The scopes of anyio cancel at every await: the end goes on without whoever waited for it."""
    app = sample()
    before = set(logging.getLogger().handlers)
    with anyio.move_on_after(0.05) as scope:
        async with TestHost(app) as host:
            await host.call_tool("forever")
    assert scope.cancelled_caught
    async with asyncio.timeout(20):
        while is_alive(app) or any(isinstance(one, WireHandler) for one in set(logging.getLogger().handlers) - before):
            await asyncio.sleep(0.01)


@on_each_loop
async def test_a_call_that_is_left_behind_ends_with_the_grace() -> None:
    """Accepted calls finish within the grace, then they are cancelled."""
    app = sample()
    async with TestHost(app, grace=0.1) as host:
        left = asyncio.ensure_future(host.call_tool("forever"))
        await host.ping()
    with pytest.raises(Exception, match="cancelled"):
        await left
    assert diary(app) == ["cancelled"]


# ------------------------------------------------------------------------------------------------------------- logging
@pytest.fixture
def at_warning() -> Any:
    """The root logger as Python makes it."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.WARNING)
    yield
    root.setLevel(before)


def state() -> tuple[int, list[logging.Handler], bool]:
    root = logging.getLogger()
    return root.level, list(root.handlers), logging.raiseExceptions


@pytest.mark.usefixtures("at_warning")
def test_logging_reaches_the_host_and_is_left_as_it_was() -> None:
    """As under ``sepkit run``: the app's logger and any other, from the level of information on."""
    before = state()
    with TestHost(sample()) as host:
        logging.getLogger("somebody").info("heard", extra={"n": 1})
        logging.getLogger("somebody").debug("unheard")
        host.ping()
        (line,) = [line for line in host.logs if line.fields["logger"] == "somebody"]
        assert (line.level, line.message, line.fields["n"]) == ("info", "heard", 1)
    assert state() == before


@pytest.mark.usefixtures("at_warning")
def test_hosts_may_end_in_any_order() -> None:
    """The root logger has its level back after the last of them."""
    before = state()
    first, second = TestHost(sample()).blocking(), TestHost(sample()).blocking()
    first.close()
    assert logging.getLogger().level == logging.INFO
    second.close()
    assert state() == before


@pytest.mark.usefixtures("at_warning")
def test_a_test_says_from_which_level_on_it_listens() -> None:
    """Each host for itself, in any order; the wire's word for what is below ``DEBUG`` is ``trace``."""
    before = state()
    all_of_it, half = (
        TestHost(sample(), log_level=5).blocking(),
        TestHost(sample(), log_level=logging.WARNING).blocking(),
    )
    for level in (5, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger("somebody").log(level, "heard")
    for host, levels in ((all_of_it, ["trace", "debug", "info", "warn", "error"]), (half, ["warn", "error"])):
        host.ping()
        assert [line.level for line in host.logs if line.fields["logger"] == "somebody"] == levels
    all_of_it.close()
    half.close()
    assert state() == before


@pytest.mark.usefixtures("at_warning")
def test_a_level_that_the_test_sets_is_its_own() -> None:
    with TestHost(sample()):
        logging.getLogger().setLevel(logging.ERROR)
    assert logging.getLogger().level == logging.ERROR


@pytest.mark.usefixtures("at_warning")
def test_a_start_that_fails_leaves_logging_as_it_was() -> None:
    before = state()
    with pytest.raises(Exception, match="mode"):
        TestHost(sample(), mode=5).blocking()  # type: ignore[arg-type]
    assert state() == before


# ---------------------------------------------------------------------------------------------------------- other loops
def test_without_a_loop_of_asyncio_it_says_what_to_do() -> None:
    """Under trio no asyncio loop runs, and the message is all that its user sees."""
    work: Coroutine[Any, Any, TestHost] = TestHost(sample()).__aenter__()
    with pytest.raises(RuntimeError, match=r"asyncio backend.*`with TestHost\(app\) as host`"):
        work.send(None)


@on_each_loop
async def test_event_handlers_that_do_not_end_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that is cancelled at the end of the grace is not cut in silence."""
    app = App("t")

    @app.on("turn_start")
    async def slow(payload: dict[str, Any]) -> None:
        await asyncio.sleep(3600)

    async with TestHost(app, grace=0.1) as host:
        await host.send_event("turn_start", {}, wait=False)
        await host.ping()
    assert "still handling events at the end of the grace, cancelled: turn_start handler slow" in caplog.text
