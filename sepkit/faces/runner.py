"""Runs an App in this process, over this process's stdin and stdout, until its host ends it.

Not ``asyncio.run``: that waits without a limit for tasks that swallow their cancellation, and for threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Literal

from sepkit import forks
from sepkit.app import App
from sepkit.concurrency.cancelling import cancel
from sepkit.contexts.backend import FLAG, Backend, Hidden
from sepkit.errors import BadSettings, LifespanEnded
from sepkit.faces.connection import Connection
from sepkit.forks import end_child, end_children, end_if_child, let_go_in_children
from sepkit.ownlog import OwnLog
from sepkit.serving.logs import StderrHandler, attach
from sepkit.serving.served import GRACE, MAX_CONCURRENCY, Served
from sepkit.tracebacks import authors_part
from sepkit.transports.base import Transport
from sepkit.transports.stdio import stdio_transport
from sepkit.wire.frames import MAX_FRAME_BYTES

if TYPE_CHECKING:
    from sepkit.contexts.settings import Texts

Face = Callable[[Served, Transport, float], Connection]
"""Makes the connection to the host behind a transport; the number is the grace, in seconds."""
LoopKind = Literal["auto", "uvloop", "asyncio"]

_SWITCH_SECONDS = 0.001
_EXIT_SECONDS = 1.0  # what interpreter exit may take after everything has ended: a stuck thread is left behind

_log = OwnLog("sepkit")


def new_loop(kind: LoopKind = "auto") -> asyncio.AbstractEventLoop:
    """A loop: uvloop's where it is installed, else asyncio's."""
    if kind != "asyncio":
        try:
            import uvloop
        except ImportError:
            if kind == "uvloop":
                raise
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def install_stderr_log(level: int) -> StderrHandler:
    """Have ``logging`` write to stderr without ever waiting for whoever reads it."""
    # `logging` itself prints to stderr when a handler fails; that stderr may be gone, or never read.
    logging.raiseExceptions = False
    handler = StderrHandler()
    attach(handler)
    logging.getLogger().setLevel(level)
    return handler


def run(
    app: App,
    *,
    stderr: StderrHandler,
    face: Face | None = None,
    loop_kind: LoopKind = "auto",
    max_concurrency: int = MAX_CONCURRENCY,
    max_frame_bytes: int = MAX_FRAME_BYTES,
    grace: float = GRACE,
    flags: Mapping[str, str] | None = None,
    secrets: Hidden | None = None,
) -> int:
    """Serve ``app`` over stdin and stdout; the exit code, 0 for an orderly end. Call it in the main thread.

    Args:
        app: What is served.
        stderr: Where ``logging`` is written to.
        face: Says to which kind of host; to one of SEP by default.
        loop_kind: Which loop runs it.
        max_concurrency: How many tool and provider calls run at once.
        max_frame_bytes: How long a line may be.
        grace: Seconds that accepted calls have to finish at the end.
        flags: What the command line sets flags to, as text.
        secrets: By variable, those that were in the environment.

    Raises:
        BadSettings: What flags and settings are set to does not fit; it has been said.
        LifespanEnded: The app's lifespan has ended while it was served. All has ended, and it has been said.
    """
    # A `def` handler that computes would have the loop wait 5 ms for each system call; here it is 1 ms.
    sys.setswitchinterval(_SWITCH_SECONDS)
    before = _pollers()
    loop = new_loop(loop_kind)
    asyncio.set_event_loop(loop)
    loop.set_default_executor(_Executor(thread_name_prefix="asyncio"))
    process = _Process(loop, _pollers() - before)
    transport = stdio_transport(max_frame_bytes=max_frame_bytes)

    async def serve() -> None:
        served = Served(app, max_concurrency=max_concurrency, backend=lambda: _local(app, secrets), texts=_texts(flags))
        connection = (face or _sep)(served, transport, grace)
        process.end_on_signals(connection)
        await connection.serve()

    code = 0
    failure: LifespanEnded | BadSettings | None = None
    serving = loop.create_task(serve(), name="sepkit")
    try:
        _run_to_the_end(loop, serving)
    except LifespanEnded as error:
        failure = error
    except BadSettings as error:
        _log.error("the app's flags and settings do not fit: %s", error)
        failure = error
    except Exception as error:
        _log.error("ended: %s: %s", type(error).__name__, error)
        code = 1
    process.pollers.clear()  # their numbers are free once the loop is closed
    _close(loop)
    stderr.flush_within(0.5)
    if failure is not None:
        raise failure
    return code


def _sep(served: Served, transport: Transport, grace: float) -> Connection:
    from sepkit.faces.log import WireHandler
    from sepkit.faces.sep.dispatcher import Dispatcher

    return Dispatcher(
        served,
        transport,
        grace=grace,
        # Not before the handshake: a host waits for one answer then, and for nothing else.
        on_ready=lambda link: attach(WireHandler(link, min(logging.getLogger().level, logging.ERROR))),
    )


def _local(app: App, secrets: Hidden | None) -> Backend:
    from sepkit.capabilities.local.backend import LocalBackend, data_folder  # only for apps that use it

    return LocalBackend(app.name, data_folder(app.name), needs=app.needs, given=secrets)


def _texts(line: Mapping[str, str] | None) -> Texts | None:
    """What the command line and the environment set flags to; None where they say nothing."""
    environ = {name: text for name, text in os.environ.items() if name.startswith(FLAG)}
    if not line and not environ:
        return None
    from sepkit.contexts.settings import Texts  # only where it is needed: a host waits

    return Texts(line or {}, environ)


def _run_to_the_end(loop: asyncio.AbstractEventLoop, serving: asyncio.Task[None]) -> None:
    """Run ``serving`` to its end, whatever is raised beside it.

    What handlers and tasks raise is caught where they are called. But asyncio ends the loop for ``SystemExit`` and
    ``KeyboardInterrupt`` out of asyncio tasks and callbacks of the author's own, too. Whoever awaits such a task still
    gets the exception.
    """
    process = os.getpid()
    while True:
        try:
            return loop.run_until_complete(serving)
        except (SystemExit, KeyboardInterrupt) as error:
            end_if_child(process, error)
            if serving.done():
                raise
            what = (type(error), error, authors_part(error))
            _log.error("an asyncio task or callback raised %s; going on", type(error).__name__, exc_info=what)


class _Process:
    """What this process has for itself: its signals, and what its loop polls. A forked child lets go of them.

    Args:
        loop: Runs in this thread.
        pollers: The descriptors that it polls by.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, pollers: set[int]) -> None:
        self.pollers = pollers
        self._loop = loop
        self._thread = threading.get_ident()
        self._handlers: dict[int, Any] = {}  # of signals, as they were before
        self._asked = False
        _processes.append(self)
        let_go_in_children(self)

    def end_on_signals(self, connection: Connection) -> None:
        """The first SIGINT or SIGTERM ends as end-of-file does; a second one ends at once."""
        self._connection = connection
        for number in (signal.SIGINT, signal.SIGTERM):
            self._handlers[number] = signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked or self._loop.is_closed():  # all has ended then, but for a thread of the author's
            end_children()
            os._exit(128 + number)
        self._asked = True
        self._loop.call_soon_threadsafe(self._connection.stop)

    def let_go(self) -> None:
        """In a forked child: signals do what they did before, and the loop has nothing to poll."""
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals():
            handler = signal.getsignal(number)
            if handler == self._on_signal:
                signal.signal(number, self._handlers[number] or signal.SIG_DFL)
            elif getattr(handler, "__module__", "").startswith(_LOOPS):  # they do nothing, for loops have no need of it
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        for fd in self.pollers:
            # An epoll is shared with the parent: what the child takes out of it, if only by a destructor, the parent
            # would not hear of any more. An empty one in its place keeps the loop's own code from failing.
            with select.epoll() as empty:
                os.dup2(empty.fileno(), fd, inheritable=False)
        if sys.version_info < (3, 12):  # later ones do this by themselves
            asyncio.set_event_loop_policy(type(asyncio.get_event_loop_policy())())
        if threading.get_ident() == self._thread and not self._loop.is_closed():
            # For a child whose code returns to the loop. In the turn after the next: uvloop makes one more when a
            # SystemExit comes out of a task, which has an exit code of its own.
            self._loop.call_soon(lambda: self._loop.call_soon(end_child))


class _Executor(ThreadPoolExecutor):
    """The loop's own threads, as of ``asyncio.to_thread``. A child that is forked there ends with what forked it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(forks.call, fn, *args, **kwargs)


_processes: list[_Process] = []  # kept alive for as long as children may be forked
_LOOPS: Final = ("asyncio.", "uvloop")


def _pollers() -> set[int]:
    """The descriptors of this process that are an epoll. Elsewhere than on Linux there are none that a fork shares."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventpoll]":
                    found.add(int(name))
    return found


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left, give it a moment, and close the loop whatever became of it."""
    left = asyncio.all_tasks(loop)
    for task in left:
        cancel(task)
    if left:
        _, stuck = loop.run_until_complete(asyncio.wait(left, timeout=0.2))
        for task in stuck:
            _log.warning("left behind: %s ignores its cancellation", task.get_name())
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # said already
    loop.run_until_complete(_bounded(loop.shutdown_asyncgens()))
    loop.close()


async def _bounded(work: Any) -> None:
    await asyncio.wait([asyncio.ensure_future(work)], timeout=0.2)


def exit_soon(code: int) -> None:
    """See to it that the interpreter, which exits now, has ended within a second: it waits for the author's threads."""
    threading.Thread(target=_exit_anyway, args=(code,), name="sepkit-exit", daemon=True).start()


def _exit_anyway(code: int) -> None:
    time.sleep(_EXIT_SECONDS)
    sys.stderr.flush()
    end_children()
    os._exit(code)
