"""The pytest plugin: there wherever sepkit is installed, beside pytest-asyncio, anyio's plugin, or neither.

The fixture ``sepkit_host`` makes hosts that are closed at the end of the test::

    async def test_greets(sepkit_host):
        host = await sepkit_host(app, ui={"confirm": True})      # TestHost(app, ui=…), in this test's loop

    def test_greets_too(sepkit_host):
        host = sepkit_host(app).blocking()                       # the same without a loop, and without `await`

The marker ``virtual_clock`` runs an ``async def`` test on a clock that jumps: an hour of timers takes milliseconds.
Nothing of it is imported before it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sepkit.testing.host import TestHost


@pytest.fixture
def sepkit_host() -> Iterator[type[TestHost]]:
    """``TestHost``, whose hosts are closed at the end of the test.

    ``await sepkit_host(app, …)`` begins one in the running loop, ``sepkit_host(app, …).blocking()`` one for a test that
    is no coroutine; ``with`` and ``async with`` work as well. Annotate it as ``type[TestHost]``.
    """
    from sepkit.testing.closing import closing_hosts

    with closing_hosts() as hosts:
        yield hosts


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "virtual_clock: run this async test on sepkit's virtual clock, whose time jumps to the next timer"
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Close the hosts of a test within its loop, which may be closed once the test has ended."""
    if not isinstance(item, pytest.Function) or "sepkit_host" not in item.funcargs:
        return (yield)
    from sepkit.testing.closing import closing

    hosts: Any = item.funcargs["sepkit_host"]
    test = item.obj
    item.obj = closing(test, hosts)
    try:
        return (yield)
    finally:
        item.obj = test


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """Run the tests that are marked with ``virtual_clock``."""
    if pyfuncitem.get_closest_marker("virtual_clock") is None:
        return None
    # pytest-asyncio has wrapped the tests that it takes for its own, in a function that runs them in its loop.
    test: Any = inspect.unwrap(pyfuncitem.obj, stop=inspect.iscoroutinefunction)
    if not inspect.iscoroutinefunction(test):
        pytest.fail(f"{pyfuncitem.name} is marked with virtual_clock, and is no `async def`", pytrace=False)
    from sepkit.testing.clock import run_virtual

    names = pyfuncitem._fixtureinfo.argnames
    run_virtual(test(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
