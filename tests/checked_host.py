"""``TestHost``, as sepkit's own tests use it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from sepkit import App
from sepkit.errors import RpcError
from sepkit.testing import TestHost


class CheckedHost(TestHost):
    """A ``TestHost`` that fails the test where an exception was caught only by the loop, or a task outlives the App."""

    def __init__(self, app: App, **options: Any) -> None:
        super().__init__(app, **options)
        self._uncaught: list[dict[str, Any]] = []

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self._uncaught.append(context))
        self._not_ours = asyncio.all_tasks()
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, traceback)
        if kind is not None:
            return
        for _ in range(3):
            await asyncio.sleep(0)
        assert not self._uncaught, self._uncaught
        left = asyncio.all_tasks() - self._not_ours
        assert not left, f"still running: {left}"

    @property
    def token(self) -> str:
        """The token of the contexts that it gives out."""
        return self._token


async def refused(asked: Coroutine[Any, Any, object]) -> RpcError:
    """Wait for what must be answered with an error; the error."""
    try:
        answer = await asked
    except RpcError as error:
        return error
    raise AssertionError(f"it was answered with {answer}")
