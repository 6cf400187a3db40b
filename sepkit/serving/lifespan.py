"""An App's lifespan, entered before the first call and left after the last one.

Once for all connections: ``served.py`` sees to that.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextvars import Context
from typing import Any

from sepkit.app import App
from sepkit.errors import LifespanEnded
from sepkit.forks import end_if_child
from sepkit.ownlog import OwnLog
from sepkit.tracebacks import authors_part

_log = OwnLog("sepkit")


class Lifespan:
    """An app's lifespan, entered and left in one task, as task groups and cancel scopes within it need.

    Args:
        app: Whose it is.
        context: The context variables that it runs in.
        on_end: Told once if it ends before ``leave`` is called: what it yielded is closed then.
    """

    def __init__(self, app: App, context: Context, on_end: Callable[[LifespanEnded], None]) -> None:
        self._app = app
        self._context = context
        self._on_end = on_end
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def enter(self) -> Any:
        """Enter it, and return what it yields."""
        entered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(entered), name="lifespan", context=self._context)
        try:
            return await entered
        except asyncio.CancelledError:
            self._leave.set()  # one that swallows the cancellation, and is entered after all, is left at once
            self._task.cancel()  # it may not even have begun, and then nothing else would end it
            await asyncio.wait([self._task])  # a second attempt must not open what is still being closed
            raise

    async def _run(self, entered: asyncio.Future[Any]) -> None:
        assert self._app.lifespan is not None
        process = os.getpid()
        failure: BaseException | None = None
        try:
            async with self._app.lifespan(self._app) as state:
                if not entered.done():
                    entered.set_result(state)
                await self._leave.wait()
        except BaseException as error:
            end_if_child(process, error)
            failure = error
        if not entered.done():
            entered.set_exception(_startable(failure))
        elif not self._leave.is_set():
            self._ended(failure)
        elif failure is not None and not entered.cancelled():
            _log.error("the lifespan failed at its end", exc_info=failure)

    def _ended(self, failure: BaseException | None) -> None:
        what = "the lifespan has ended while the app was served, which ends the app"
        if failure is None:
            _log.error("%s: a time limit or a cancel scope around its yield has ended it", what)
        else:
            _log.error("%s", what, exc_info=(type(failure), failure, authors_part(failure)))
        error = LifespanEnded(what)
        error.__cause__ = failure
        self._on_end(error)

    async def leave(self, seconds: float) -> None:
        """Leave it; after ``seconds`` it is cancelled."""
        self._leave.set()
        if self._task is None:
            return
        _, left = await asyncio.wait([self._task], timeout=seconds)
        if left:
            _log.warning("the lifespan did not end within the grace")
            self._task.cancel()


def _startable(error: BaseException | None) -> Exception:
    if isinstance(error, Exception):
        return error
    return RuntimeError("it has ended" if error is None else f"{type(error).__name__}: {error}")
