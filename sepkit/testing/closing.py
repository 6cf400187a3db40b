"""Hosts that are closed at the end of a test, in its own loop; the fixture ``sepkit_host`` gives them out.

A test is wrapped so that its hosts end in its own loop, before that loop is closed. What is left then, as
after a set-up that failed, ends with the fixture.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any, ClassVar

from sepkit.testing.host import TestHost


class ClosedTestHost(TestHost):
    """A ``TestHost`` that is closed at the end of the test."""

    made: ClassVar[list[ClosedTestHost]]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.made.append(self)

    def close_outside(self) -> None:
        """Close it where its loop does not run."""
        if self._blocking is not None:
            self._blocking.close()
        elif self._peer is not None and not self._loop.is_closed():
            self._loop.run_until_complete(self.aclose())
        elif self._peer is not None:
            # The loop was closed with the tasks in it cancelled, which has ended the App.
            self._unlog()
            self._faults.tell(None)


@contextmanager
def closing_hosts() -> Iterator[type[TestHost]]:
    """``TestHost``, whose hosts end with the block at the latest: the last first, and all, whatever one raises."""
    made: list[ClosedTestHost] = []
    yield type("TestHost", (ClosedTestHost,), {"made": made})
    with ExitStack() as left:
        for host in made:
            left.callback(host.close_outside)


def closing(test: Callable[..., Any], hosts: type[ClosedTestHost]) -> Callable[..., Any]:
    """``test``, that closes its hosts when it ends; what it raises goes before what they find."""
    if not inspect.iscoroutinefunction(test):

        @functools.wraps(test)
        def closed(**arguments: Any) -> None:
            with ExitStack() as at_end:
                at_end.push(functools.partial(_close_blocking, hosts))
                test(**arguments)

        return closed

    @functools.wraps(test)
    async def closed_in_its_loop(**arguments: Any) -> None:
        async with AsyncExitStack() as at_end:
            at_end.push_async_exit(functools.partial(_close_in_loop, hosts))
            await test(**arguments)

    return closed_in_its_loop


# Two steps each, since a test may make hosts until its end.
def _close_blocking(hosts: type[ClosedTestHost], kind: object, error: BaseException | None, traceback: object) -> None:
    with ExitStack() as each:
        for host in hosts.made:
            if host._blocking is not None:
                each.push(host._blocking)
        if error is not None:
            raise error


async def _close_in_loop(
    hosts: type[ClosedTestHost], kind: object, error: BaseException | None, traceback: object
) -> None:
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as each:
        for host in hosts.made:
            if host._peer is not None and host._blocking is None and host._loop is loop:
                each.push_async_exit(host)
        if error is not None:
            raise error
