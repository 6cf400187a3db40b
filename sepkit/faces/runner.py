"""Runs an App in this process, over this process's stdin and stdout, until its host ends it.

Not ``asyncio.run``: that waits without a limit for tasks that swallow their cancellation, and for threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Literal

from sepkit.app import App
from sepkit.faces.sep.dispatcher import Dispatcher
from sepkit.faces.sep.log import WireHandler
from sepkit.serving.logs import StderrHandler
from sepkit.serving.served import GRACE, MAX_CONCURRENCY, Served
from sepkit.tracebacks import authors_part
from sepkit.transports.stdio import stdio_transport
from sepkit.wire.frames import MAX_FRAME_BYTES

LoopKind = Literal["auto", "uvloop", "asyncio"]

_SWITCH_SECONDS = 0.001
_EXIT_SECONDS = 1.0  # what interpreter exit may take after everything has ended: a stuck thread is left behind

_log = logging.getLogger("sepkit")


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
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    return handler


def run(
    app: App,
    *,
    stderr: StderrHandler,
    loop_kind: LoopKind = "auto",
    max_concurrency: int = MAX_CONCURRENCY,
    max_frame_bytes: int = MAX_FRAME_BYTES,
    grace: float = GRACE,
) -> int:
    """Serve ``app`` over stdin and stdout; the exit code, 0 for an orderly end. Call it in the main thread."""
    # A `def` handler that computes would have the loop wait 5 ms for each system call; here it is 1 ms.
    sys.setswitchinterval(_SWITCH_SECONDS)
    loop = new_loop(loop_kind)
    asyncio.set_event_loop(loop)
    transport = stdio_transport(max_frame_bytes=max_frame_bytes)

    async def serve() -> None:
        dispatcher = Dispatcher(
            Served(app, max_concurrency=max_concurrency),
            transport,
            grace=grace,
            # Not before the handshake: a host waits for one answer then, and for nothing else.
            on_ready=lambda link: logging.getLogger().addHandler(WireHandler(link, logging.getLogger().level)),
        )
        _end_on_signals(loop, dispatcher)
        await dispatcher.serve()

    code = 0
    serving = loop.create_task(serve(), name="sepkit")
    try:
        _run_to_the_end(loop, serving)
    except Exception as error:
        _log.error("ended: %s: %s", type(error).__name__, error)
        code = 1
    _close(loop)
    stderr.flush_within(0.5)
    return code


def _run_to_the_end(loop: asyncio.AbstractEventLoop, serving: asyncio.Task[None]) -> None:
    """Run ``serving`` to its end, whatever is raised beside it.

    What handlers and tasks raise is caught where they are called. But asyncio ends the loop for ``SystemExit`` and
    ``KeyboardInterrupt`` out of asyncio tasks and callbacks of the author's own, too. Whoever awaits such a task still
    gets the exception.
    """
    while True:
        try:
            return loop.run_until_complete(serving)
        except (SystemExit, KeyboardInterrupt) as error:
            if serving.done():
                raise
            what = (type(error), error, authors_part(error))
            _log.error("an asyncio task or callback raised %s; going on", type(error).__name__, exc_info=what)


def _end_on_signals(loop: asyncio.AbstractEventLoop, dispatcher: Dispatcher) -> None:
    """The first SIGINT or SIGTERM ends as end-of-file does; a second one ends at once."""
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked or loop.is_closed():  # all has ended then, but for a thread of the author's
            os._exit(128 + number)
        asked = True
        loop.call_soon_threadsafe(dispatcher.stop)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left, give it a moment, and close the loop whatever became of it."""
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
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
    os._exit(code)
