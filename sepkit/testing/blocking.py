"""The same host for tests that are no coroutines: the loop runs in a thread of its own, and each method waits.

No method has a body here: each is the coroutine of :class:`~sepkit.testing.life.AsyncHost`, awaited over there.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, TypeVar, overload

from sepkit.app import App
from sepkit.faces.runner import _close, new_loop
from sepkit.testing.life import AsyncHost
from sepkit.testing.seen import Seen
from sepkit.wire import messages

P = ParamSpec("P")
R = TypeVar("R")

_JOIN_SECONDS: Final = 10.0


class _Blocking(Generic[P, R]):
    """A method of the host, that waits for its coroutine."""

    def __init__(self, method: Callable[Concatenate[AsyncHost, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> _Blocking[P, R]: ...
    @overload
    def __get__(self, instance: BlockingTestHost, owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: BlockingTestHost | None, owner: type) -> Any:
        if instance is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return instance._run(self._method(instance._host, *args, **kwargs))

        return call


class BlockingTestHost(Seen):
    """A ``TestHost`` whose methods wait; made by ``with TestHost(app) as host``, or by ``TestHost(app).blocking()``.

    The App, the functions given as ``ui`` and ``exec``, and callbacks such as ``on_update`` run in the loop's thread.
    """

    def __init__(self, host: AsyncHost) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise RuntimeError("a loop runs here, and would stand still: write `async with TestHost(app) as host`")
        self._host = host
        self._loop = new_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sepkit-test-host", daemon=True)
        self._thread.start()
        self._closed = False
        try:
            self._run(host.__aenter__())
        except BaseException:
            self._stop()
            raise

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # What Seen declares is the host's.
            if name.startswith("_") or name not in vars(self._host):
                raise AttributeError(f"BlockingTestHost has no {name!r}")
            return getattr(self._host, name)

    @property
    def app(self) -> App:
        """What is served."""
        return self._host.app

    @property
    def now(self) -> datetime:
        """What the wall's clock shows here, in UTC."""
        return self._host.now

    @property
    def extension(self) -> messages.ExtensionInfo:
        """The extension's name and version."""
        return self._host.extension

    @property
    def user(self) -> str | None:
        """Whom calls are made for, by id. Another one may be put here between calls."""
        return self._host.user

    @user.setter
    def user(self, user: str | None) -> None:
        self._host.user = user

    call_tool = _Blocking(AsyncHost.call_tool)
    call_hook = _Blocking(AsyncHost.call_hook)
    run_command = _Blocking(AsyncHost.run_command)
    complete_command = _Blocking(AsyncHost.complete_command)
    read_resource = _Blocking(AsyncHost.read_resource)
    get_prompt = _Blocking(AsyncHost.get_prompt)
    complete = _Blocking(AsyncHost.complete)
    oauth_login = _Blocking(AsyncHost.oauth_login)
    oauth_refresh = _Blocking(AsyncHost.oauth_refresh)
    start_task = _Blocking(AsyncHost.start_task)
    stop_task = _Blocking(AsyncHost.stop_task)
    list_tasks = _Blocking(AsyncHost.list_tasks)
    run_job = _Blocking(AsyncHost.run_job)
    advance = _Blocking(AsyncHost.advance)
    send_event = _Blocking(AsyncHost.send_event)
    press_key = _Blocking(AsyncHost.press_key)
    publish = _Blocking(AsyncHost.publish)
    until = _Blocking(AsyncHost.until)
    ping = _Blocking(AsyncHost.ping)
    shutdown = _Blocking(AsyncHost.shutdown)

    def __enter__(self) -> BlockingTestHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._closed:
            return
        try:
            self._run(self._host.__aexit__(kind, error, traceback))
        finally:
            self._closed = True
            self._stop()

    def close(self) -> None:
        """Shut the App down, as the end of the block does. A second time nothing happens."""
        self.__exit__(None, None, None)

    def _run(self, work: Coroutine[Any, Any, R]) -> R:
        if self._closed or threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "this host has been closed"
                if self._closed
                else "a blocking method in the loop's own thread would wait for itself; callbacks and scripts run there"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # where Ctrl+C or a time-out of the test's has ended the wait

    def _stop(self) -> None:
        self._host._unlog()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():  # else a handler blocks the loop, and both are left behind
            _close(self._loop)
