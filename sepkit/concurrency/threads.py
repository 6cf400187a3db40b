"""Where ``def`` handlers run: threads that may be left behind when the process ends.

Not ``concurrent.futures``' pool: the interpreter joins its threads at exit, and a tool in ``time.sleep(3600)`` would
keep the process for an hour.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import inspect
import queue
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from sepkit import forks

R = TypeVar("R")

_IDLE_SECONDS: Final = 10.0

_Job = Callable[[], None]


class _Call:
    """A function that runs in a thread for a task of the loop.

    ``waits`` holds what it waits for in the loop; all of it is cancelled when its task is.
    """

    __slots__ = ("answer", "is_cancelled", "waits")

    def __init__(self, answer: asyncio.Future[Any]) -> None:
        self.answer = answer
        self.is_cancelled = False
        self.waits: set[concurrent.futures.Future[Any]] = set()

    def cancel(self) -> None:
        self.is_cancelled = True
        for wait in list(self.waits):
            wait.cancel()


_CALL: Final[contextvars.ContextVar[_Call | None]] = contextvars.ContextVar("sepkit_thread_call", default=None)


def wait_in_thread(awaitable: Awaitable[R], loop: asyncio.AbstractEventLoop) -> R:
    """Await ``awaitable`` in ``loop``, which runs in another thread, and return its value or raise what it raises.

    Raises:
        RuntimeError: This is the loop's own thread, which would wait for itself; or the loop has been closed.
        CancelledError: The call that this thread works for was cancelled, or what it waits for.
    """
    if not inspect.isawaitable(awaitable):
        raise TypeError(f"wait() takes an awaitable, such as ctx.kv.get(key), not {type(awaitable).__name__}")
    call = _CALL.get()

    async def work() -> R:
        # A loop whose clock is not the wall's (sepkit.testing) counts the thread among those that it waits for.
        release, expect = (getattr(loop, name, None) for name in ("release_from_thread", "expect_from_thread"))
        if call is None or release is None or expect is None:
            return await awaitable
        release(call.answer)
        try:
            return await awaitable
        finally:
            if not call.answer.done():
                expect(call.answer)

    if _running_loop() is loop:
        _drop(awaitable)
        raise RuntimeError("wait() would stop the very loop that it waits for: this is its thread. Write `await` here")
    coroutine = work()
    try:
        waiting = asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:  # it has been closed
        coroutine.close()
        _drop(awaitable)
        raise
    if call is not None:
        call.waits.add(waiting)
        if call.is_cancelled:
            waiting.cancel()
    try:
        return waiting.result()
    except concurrent.futures.CancelledError:
        raise asyncio.CancelledError from None
    finally:
        if call is not None:
            call.waits.discard(waiting)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _drop(awaitable: Awaitable[object]) -> None:
    """Have Python not complain of a coroutine that was never awaited: what is raised says more."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


class DaemonThreads:
    """Up to ``size`` daemon threads, made as needed and ended after 10 idle seconds."""

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0  # threads that wait for a job, less the jobs that wait for a thread
        self._count = 0
        self._running: dict[int, str] = {}  # by thread

    async def run(self, function: Callable[..., R], /, **arguments: Any) -> R:
        """Call ``function`` in a thread, with this task's context variables.

        A cancelled caller goes on at once; its thread cannot be stopped, and what it returns is dropped. Where none has
        begun with it yet, none will. What the thread waits for in the loop (``wait_in_thread``) is cancelled.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        # A loop whose clock is not the wall's (sepkit.testing) must not run ahead of the thread.
        if (expect := getattr(loop, "expect_from_thread", None)) is not None:
            expect(answer)
        call = _Call(answer)
        context = contextvars.copy_context()
        context.run(_CALL.set, call)

        def settle(result: R | None, error: BaseException | None) -> None:
            if answer.done():
                if asyncio.iscoroutine(result):  # too late to be awaited
                    result.close()
                return
            if error is not None:
                # A StopIteration cannot be raised into a coroutine.
                answer.set_exception(RuntimeError("StopIteration") if isinstance(error, StopIteration) else error)
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        def job() -> None:
            if answer.cancelled():
                return
            result, failure = None, None
            thread = threading.get_ident()
            self._running[thread] = getattr(function, "__name__", repr(function))
            try:
                result = context.run(forks.call, function, **arguments)
            except BaseException as error:
                failure = error
            del self._running[thread]
            try:
                loop.call_soon_threadsafe(settle, result, failure)
            except RuntimeError:  # the loop has been closed: nobody waits any more
                return

        self._submit(job)
        try:
            return await answer
        except asyncio.CancelledError:
            call.cancel()
            raise

    @property
    def running(self) -> list[str]:
        """The names of the functions that run now."""
        return list(self._running.values())

    def _submit(self, job: _Job) -> None:
        with self._lock:
            self._idle -= 1
            if self._idle < 0 and self._count < self._size:
                name = f"sepkit-handler-{self._count + 1}"
                try:
                    threading.Thread(target=self._work, name=name, daemon=True).start()
                except RuntimeError:  # the system has no more
                    if self._count == 0:  # else one of those there are will take it
                        self._idle += 1
                        raise
                else:
                    self._count += 1
                    self._idle += 1
        self._jobs.put(job)

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._idle > 0:  # else a job has just been given, and counts on this thread
                        self._idle -= 1
                        self._count -= 1
                        return
                continue
            job()
            del job
            with self._lock:
                self._idle += 1
