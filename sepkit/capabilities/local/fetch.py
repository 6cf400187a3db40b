"""HTTP by httpx, with one pool of connections for an app that is served.

httpx speaks HTTP and keeps the connections. Here is what it leaves open: where a redirect may lead, what goes along,
how much of an answer is taken, and that a compressed one is unpacked in pieces of a bounded size.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin

from sepkit.contexts.backend import FetchReply, FetchRequest, FetchStream
from sepkit.contexts.fetching import charset_of
from sepkit.contexts.network import Network, Place
from sepkit.errors import FetchError

if TYPE_CHECKING:
    import httpx

MOST_CONNECTIONS: Final = 64
"""So many requests are under way at once; more of them wait, and their time runs."""

_MOST_IDLE: Final = 16
_IDLE: Final = 1.5  # seconds; servers close idle connections after 2 s or more, in the moment in which they are used
_MOST_REDIRECTS: Final = 20
_MOST_HEADERS: Final = 256
_PIECE: Final = 64 * 1024  # bytes that are unpacked at once
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# What an app says to one server is not meant for another one, but for these.
_FOR_ALL: Final = frozenset({"accept", "accept-language", "content-language", "content-type", "range", "user-agent"})


# The loggers of httpx are the author's, too: only what they say of requests that are made here is dropped.
_LOGGERS: Final = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy", "httpcore.socks")
_IS_OURS: Final[ContextVar[bool]] = ContextVar("sepkit_fetching", default=False)


def _is_theirs(record: logging.LogRecord) -> bool:
    return not _IS_OURS.get()


class LocalFetcher:
    """Sends requests from this process.

    Args:
        network: Where they may go.
        transport: What takes the place of the network.
    """

    def __init__(self, network: Network, transport: Callable[[], httpx.AsyncBaseTransport] | None = None) -> None:
        self._network = network
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._making = asyncio.Lock()
        self._closed = False

    async def fetch(self, request: FetchRequest) -> FetchReply:
        """Send a request; its answer, read to its end."""
        async with self._answer(request) as (response, place):
            body = _Body(response, request, place)
            length = response.headers.get("content-length", "")
            if request.method != "HEAD" and length.isdigit() and int(length) > request.max_bytes:
                raise _too_long(request, place)
            content = bytearray()
            async for piece in body:
                content += piece
                if len(content) > request.max_bytes:
                    raise _too_long(request, place)
            headers = response.headers.multi_items()
            return FetchReply(status=response.status_code, headers=headers, content=bytes(content), url=place.url)

    @asynccontextmanager
    async def stream(self, request: FetchRequest) -> AsyncIterator[FetchStream]:
        """Send a request; its answer, as it is read."""
        async with self._answer(request) as (response, place):
            _hold_back(response)
            charset = charset_of(response.headers.get("content-type", ""))
            yield FetchStream(response.status_code, charset, _Body(response, request, place))

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    @asynccontextmanager
    async def _answer(self, request: FetchRequest) -> AsyncIterator[tuple[httpx.Response, Place]]:
        place = self._network.checked(request.url)  # before httpx is imported: a refusal needs none of it
        client = await self._ready()
        response, place = await self._followed(client, request, place)
        try:
            yield response, place
        finally:
            await response.aclose()

    async def _followed(
        self, client: httpx.AsyncClient, request: FetchRequest, place: Place
    ) -> tuple[httpx.Response, Place]:
        method, headers, body = request.method, dict(request.headers), request.body
        for _ in range(_MOST_REDIRECTS + 1):
            with _said(request, place):
                sent = client.build_request(method, place.url, headers=headers, content=body)
                if (sent.url.scheme, sent.url.host) != (place.scheme, place.host.strip("[]")):
                    raise FetchError(f"{place.shown}: its host is read in two ways")
                response = await client.send(sent, stream=True)
            try:
                if len(response.headers.raw) > _MOST_HEADERS:
                    raise FetchError(f"{request.method} {place.shown}: the answer has over {_MOST_HEADERS} headers")
                target = response.headers.get("location") if response.status_code in _REDIRECTS else None
                if target is None:
                    return response, place
                before, place = place, self._redirected(request, place, target)
            except BaseException:
                await response.aclose()
                raise
            await response.aclose()
            if place.origin != before.origin:
                headers = {name: value for name, value in headers.items() if name.lower() in _FOR_ALL}
            status = response.status_code
            if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
                method, body = "GET", None
                headers = {name: value for name, value in headers.items() if not name.lower().startswith("content-")}
        raise FetchError(f"{request.method} {place.shown}: more than {_MOST_REDIRECTS} redirects")

    def _redirected(self, request: FetchRequest, place: Place, target: str) -> Place:
        try:
            return self._network.checked(urljoin(place.url, target))
        except ValueError:  # of urljoin
            raise FetchError(f"{request.method} {place.shown}: it redirects to what is not a URL") from None
        except FetchError as error:
            raise FetchError(f"{request.method} {place.shown}: it redirects elsewhere; {error}") from None

    async def _ready(self) -> httpx.AsyncClient:
        async with self._making:
            if self._closed:
                raise FetchError("nothing is fetched any more: the app has ended")
            if self._client is None:
                # In a thread: to import httpx and to read the system's certificates takes a tenth of a second.
                self._client = await asyncio.get_running_loop().run_in_executor(None, self._made)
            return self._client

    def _made(self) -> httpx.AsyncClient:
        try:
            import httpx
        except ImportError:
            raise FetchError(
                "ctx.fetch needs httpx, which is not installed: python -m pip install 'sepkit[fetch]'"
            ) from None
        from http.cookiejar import CookieJar, DefaultCookiePolicy

        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_is_theirs)  # once, however often it is added
        transport = None if self._transport is None else self._transport()
        try:
            return httpx.AsyncClient(
                transport=transport,
                trust_env=transport is None,  # proxies of the environment, and SSL_CERT_FILE
                follow_redirects=False,
                timeout=None,
                limits=httpx.Limits(
                    max_connections=MOST_CONNECTIONS, max_keepalive_connections=_MOST_IDLE, keepalive_expiry=_IDLE
                ),
                # Calls share the client, and may be made for different users: it keeps no cookies.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                headers={"User-Agent": "sepkit", "Accept-Encoding": "gzip"},
            )
        except Exception as error:  # a proxy or a file of the environment, a package that a proxy needs
            raise FetchError(f"the HTTP client cannot be made: {type(error).__name__}: {str(error)[:500]}") from None


def _hold_back(response: httpx.Response) -> None:
    """Keep what the system takes in ahead small, and with it what a loop may take from there at once.

    The buffer of a socket grows to megabytes where its peer is fast. uvloop empties it, and goes on as long as more
    comes in meanwhile, unless it finds less than 250 KiB there.
    """
    network = response.extensions.get("network_stream")
    found = None if network is None else network.get_extra_info("socket")
    if found is not None:
        with contextlib.suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE)


class _Body:
    """What an answer holds, unpacked, in pieces of at most 64 KiB or as much as came at once."""

    def __init__(self, response: httpx.Response, request: FetchRequest, place: Place) -> None:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip"):
            raise FetchError(
                f"{request.method} {place.shown}: the answer is packed with {encoding[:40]!a}, which was not asked for"
            )
        self._raw = response.aiter_raw()
        self._request = request
        self._place = place
        self._unpacker = zlib.decompressobj(wbits=31) if "gzip" in encoding else None
        self._packed = b""
        self._began = False
        self._tls = _tls_that_ends(response)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if self._packed and (piece := self._unpacked()):
                await asyncio.sleep(0)  # a few bytes may unpack to megabytes, and others want to run
                return piece
            if self._packed:
                continue
            with _said(self._request, self._place):
                try:
                    raw = await anext(self._raw)
                except StopAsyncIteration:
                    raw = b""
            if not raw:
                is_cut = self._began and self._unpacker is not None and not self._unpacker.eof
                if is_cut or (self._tls is not None and not _has_closed(self._tls)):
                    raise FetchError(f"{self._request.method} {self._place.shown}: the answer has broken off")
                raise StopAsyncIteration
            self._began = True
            if self._unpacker is None:
                return raw
            self._packed = raw

    def _unpacked(self) -> bytes:
        assert self._unpacker is not None
        if self._unpacker.eof:
            self._packed = self._packed.lstrip(b"\0")  # some pad what they have packed
            if not self._packed:
                return b""
            self._unpacker = zlib.decompressobj(wbits=31)  # another member, as gzip has them
        try:
            piece = self._unpacker.decompress(self._packed, _PIECE)
        except zlib.error:
            raise FetchError(f"{self._request.method} {self._place.shown}: the answer is not valid gzip") from None
        self._packed = self._unpacker.unused_data if self._unpacker.eof else self._unpacker.unconsumed_tail
        return piece


def _tls_that_ends(response: httpx.Response) -> ssl.SSLObject | None:
    """The TLS whose end is the end of the answer, as no length and no last chunk says where that is."""
    has_no_body = response.request.method == "HEAD" or response.status_code in (204, 304)
    if has_no_body or "content-length" in response.headers or "transfer-encoding" in response.headers:
        return None
    network = response.extensions.get("network_stream")
    found = None if network is None else network.get_extra_info("ssl_object")
    return found if isinstance(found, ssl.SSLObject) else None


def _has_closed(tls: ssl.SSLObject) -> bool:
    """Whether the server has said that it sends no more; else anyone may have cut the connection."""
    try:
        return tls.read(1) == b""
    except ssl.SSLZeroReturnError:
        return True
    except (ssl.SSLError, ValueError):
        return False


class _said:  # noqa: N801  (it reads as a function)
    """Makes a ``FetchError`` of what httpx raises, and keeps httpx from logging the URL: its query may hold a key."""

    def __init__(self, request: FetchRequest, place: Place) -> None:
        self._request = request
        self._place = place

    def __enter__(self) -> None:
        self._token = _IS_OURS.set(True)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        import httpx

        _IS_OURS.reset(self._token)
        known = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError)
        if isinstance(error, known) and not isinstance(error, FetchError):
            why = f"{type(error).__name__}: {str(error)[:500]}" if str(error) else type(error).__name__
            raise FetchError(f"{self._request.method} {self._place.shown}: {why}") from None


def _too_long(request: FetchRequest, place: Place) -> FetchError:
    return FetchError(
        f"{request.method} {place.shown}: the answer has more than {request.max_bytes} bytes; take it in chunks, with "
        "ctx.fetch_stream, or give max_bytes="
    )
