"""One server and one process of the plugin for the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from driving import KEY, Proxy, Upstream
from tests.conftest import loop_kind  # noqa: F401  (the fixture of the tests that run on each loop)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    yield server
    server.end()


@pytest.fixture(scope="module")
def shared(upstream: Upstream) -> Iterator[Proxy]:
    with Proxy({"CORPORATE_PROXY_URL": upstream.url, "CORPORATE_PROXY_KEY": KEY}) as proxy:
        yield proxy


@pytest.fixture
def proxy(shared: Proxy) -> Proxy:
    """One process for most tests: that it is none the worse for any of them is a part of what they show."""
    shared.kept()
    return shared


_numbers = iter(range(1, 1_000_000))


@pytest.fixture
def unique() -> Callable[[str], str]:
    """A script as the name of a model that no other test has asked."""
    return lambda script: f"{script}{'&' if '?' in script else '?'}n={next(_numbers)}"
