"""What the tests of fetch share: requests to a backend, as ``ctx.fetch`` makes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sepkit.contexts.backend import Backend
from sepkit.contexts.fetching import Response, checked_request, fetch, fetch_stream
from tests.http_server import ok


async def get(backend: Backend, url: str, **options: Any) -> Response:
    """Fetch a URL."""
    options = {"method": "GET", "headers": None, "body": None, "timeout": 30, **options}
    return await fetch(backend.fetcher, checked_request(url, **options))


@asynccontextmanager
async def streamed(backend: Backend, url: str, **options: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """Stream a URL, as bytes."""
    options = {"method": "GET", "headers": None, "body": None, "timeout": 30, "binary": True, **options}
    async with fetch_stream(backend.fetcher, checked_request(url, **options)) as chunks:
        yield chunks


async def drained(backend: Backend, url: str, **options: Any) -> bytes:
    """Stream a URL, and read it to its end."""
    async with streamed(backend, url, **options) as chunks:
        return b"".join([chunk async for chunk in chunks])


@asynccontextmanager
async def closing(backend: Backend) -> AsyncIterator[None]:
    """Close a backend at the end."""
    try:
        yield
    finally:
        await backend.aclose()


def redirect(target: str, status: str = "302 Found") -> bytes:
    """An answer that leads elsewhere."""
    return ok(b"moved", f"Location: {target}", status=status)
