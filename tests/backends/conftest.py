"""The contract suite: whatever implements a part of the Backend passes the same tests."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from sepkit.capabilities.local.backend import LocalBackend
from sepkit.contexts.backend import Backend


class Slow:
    """A part of a backend, or all of it, whose answers come late: other coroutines run meanwhile."""

    def __init__(self, behind: Any) -> None:
        self._behind = behind

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._behind, name)
        if not inspect.iscoroutinefunction(found):
            return Slow(found) if type(found).__module__.startswith("sepkit.") else found

        async def late(*args: Any, **options: Any) -> Any:
            for _ in range(20):
                await asyncio.sleep(0)
            result = await found(*args, **options)
            for _ in range(20):
                await asyncio.sleep(0)
            return result

        return late


NEEDS = ["network:localhost"]

MAKERS: dict[str, Callable[[Path], Any]] = {
    "local": lambda folder: LocalBackend("contract", folder, needs=NEEDS),
    "memory": lambda folder: LocalBackend("contract", None, needs=NEEDS),
    "slow": lambda folder: Slow(LocalBackend("contract", folder, needs=NEEDS)),
}


@pytest.fixture(params=MAKERS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each kind of backend. A test closes it: ``await backend.aclose()``."""
    return cast("Backend", MAKERS[request.param](tmp_path / "data"))
