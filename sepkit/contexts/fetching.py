"""``ctx.fetch`` and ``ctx.fetch_stream``: what a request may be, and its answer. Imported when one is first made.

Who sends it is the backend: the host, or ``capabilities/local/fetch``.
"""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, TypeVar, overload

from sepkit.contexts.backend import FetchBackend, FetchRequest, FetchStream
from sepkit.errors import Fault, FetchError, HttpError, InvalidData
from sepkit.schema import compile_type

T = TypeVar("T")

MOST_BYTES: Final = 64 * 1024 * 1024
"""Of the answer to ``ctx.fetch``, where it does not say."""

_LONGEST_TIME: Final = 24 * 3600.0
_MOST_HEADERS: Final = 100
_LONGEST_VALUE: Final = 64 * 1024
_EXCERPT: Final = 1024  # characters of an answer, in an HttpError

# Python has other encodings, too: of text as Python writes it, of bytes as bytes, of hosts.
_CHARSETS: Final = ("ascii", "big5", "cp", "euc", "gb", "iso", "koi8", "mac", "shift_jis", "tis", "utf")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_METHODS: Final = frozenset({"CONNECT", "TRACE", "TRACK"})
# Said by what sends the request: a second say would end one request, and begin another that was not checked.
_SAID: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "upgrade", "te", "trailer", "expect"}
)


class Headers(Mapping[str, str]):
    """Headers by their names, in any case; the values of one that came several times are joined by a comma."""

    __slots__ = ("_found",)

    def __init__(self, headers: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self._found: dict[str, str] = {}
        for name, value in headers.items() if isinstance(headers, Mapping) else headers:
            known = self._found.get(name.lower())
            self._found[name.lower()] = value if known is None else f"{known}, {value}"

    def __getitem__(self, name: str) -> str:
        return self._found[name.lower()]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"Headers({self._found!r})"


class Response:
    """The answer to a request, whatever its status.

    Args:
        status: The status code.
        headers: By name.
        content: The body: bytes, or a text.
        url: Where it came from in the end.
    """

    __slots__ = ("body", "headers", "status", "url")

    def __init__(
        self,
        status: int = 200,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        content: bytes | str = b"",
        *,
        url: str = "",
    ) -> None:
        self.status: Final = status
        """The status code: 200, 404, …"""
        self.headers: Final = Headers(headers)
        """By name, in any case."""
        self.url: Final = url
        """Where the answer came from, after all redirects."""
        self.body: Final = content
        """The body as the host handed it on: bytes, or a text."""

    @property
    def ok(self) -> bool:
        """Whether the status is one of success, 200 to 299."""
        return 200 <= self.status < 300

    @property
    def content(self) -> bytes:
        """The body, as it came.

        Raises:
            FetchError: The host hands on text only.
        """
        if isinstance(self.body, str):
            raise FetchError("this host hands on texts only; use .text or .json()")
        return self.body

    @property
    def text(self) -> str:
        """The body as a text, in the charset that the answer names, else in UTF-8; what does not fit it is U+FFFD."""
        if isinstance(self.body, str):
            return self.body
        return self.body.decode(charset_of(self.headers.get("content-type", "")), "replace")

    @overload
    def json(self) -> Any: ...
    @overload
    def json(self, type: type[T]) -> T: ...
    def json(self, type: Any = Any) -> Any:  # noqa: A002  (as in ctx.kv.get)
        """The body as JSON, structured into ``type``; any type that a tool's argument may have.

        Fields that a class does not name are dropped: servers add some.

        Raises:
            InvalidData: It is not JSON, or does not fit ``type``.
            RegistrationError: ``type`` has no form in JSON.
        """
        import orjson

        convert = compile_type(type, what="Response.json", extra="ignore")
        try:
            data = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise InvalidData([Fault("$", "JSON", f"{str(error)[:200]}")]) from None
        return convert(data)

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} {'bytes' if isinstance(self.body, bytes) else 'chars'})"


def checked_request(
    url: str,
    *,
    method: object,
    headers: object,
    body: object,
    timeout: object,
    binary: bool = False,
    max_bytes: object = MOST_BYTES,
) -> FetchRequest:
    """A request, of which all but the URL has been checked: that the backend does.

    Raises:
        ValueError: An option cannot be sent, or is out of its range; says what to write instead.
    """
    if not isinstance(method, str) or not _TOKEN.fullmatch(method) or method.upper() in _METHODS:
        raise ValueError(f"method={method!r:.100}: write GET, POST, PUT, PATCH, DELETE, HEAD or OPTIONS")
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= _LONGEST_TIME:
        raise ValueError(f"timeout is in seconds, above 0 and at most {_LONGEST_TIME:.0f}, not {timeout!r:.100}")
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
        raise ValueError(f"max_bytes is a number of bytes above 0, not {max_bytes!r:.100}")
    if body is not None and not isinstance(body, str | bytes):
        raise ValueError(f"body is a str, bytes or None, not {type(body).__name__}; of data, write orjson.dumps(data)")
    try:
        sent = body.encode() if isinstance(body, str) else body
    except UnicodeEncodeError:
        raise ValueError("body holds half a character, which UTF-8 cannot write") from None
    return FetchRequest(
        url=url,
        method=method.upper(),
        headers=_checked_headers({} if headers is None else headers),
        body=sent,
        timeout=timeout,
        binary=binary,
        max_bytes=max_bytes,
    )


def _checked_headers(headers: object) -> dict[str, str]:
    if not isinstance(headers, Mapping):
        raise ValueError(f"headers is a dict of texts, not {type(headers).__name__}")
    if len(headers) > _MOST_HEADERS:
        raise ValueError(f"headers has {len(headers)} entries; at most {_MOST_HEADERS} are sent")
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ValueError(f"headers: {name!r:.100} is not the name of a header")
        if name.lower() in _SAID or name.lower().startswith("proxy-"):
            raise ValueError(f"headers: {name} is sent by the client itself; leave it out")
        # The value is not quoted: it may be a secret.
        if not isinstance(value, str) or not _VALUE.fullmatch(value) or len(value) > _LONGEST_VALUE:
            raise ValueError(f"headers: the value of {name} is not a text of printable ASCII in one line")
        checked[name] = value
    return checked


async def fetch(backend: FetchBackend, request: FetchRequest) -> Response:
    """Send a request; its answer, read to its end.

    Raises:
        FetchError: See ``Context.fetch``.
    """
    async with _within(request):
        reply = await backend.fetch(request)
    return Response(reply.status, reply.headers, reply.content, url=reply.url)


@asynccontextmanager
async def fetch_stream(backend: FetchBackend, request: FetchRequest) -> AsyncIterator[AsyncIterator[Any]]:
    """Send a request; the chunks of its answer, taken from the network as they are taken here.

    Raises:
        FetchError: See ``Context.fetch_stream``.
    """
    async with AsyncExitStack() as stack:
        async with _within(request):
            found = await stack.enter_async_context(backend.stream(request))
            if not 200 <= found.status < 300:
                raise await _refusal(found, request)
        chunks = _Chunks(found, request)
        stack.callback(chunks.end, "the stream is read after the end of its block")
        yield chunks


@asynccontextmanager
async def _within(request: FetchRequest) -> AsyncIterator[None]:
    limit = asyncio.timeout(request.timeout)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        shown = request.url.partition("?")[0][:200]
        raise FetchError(f"{request.method} {shown}: no answer within {request.timeout:g} s") from None


async def _refusal(found: FetchStream, request: FetchRequest) -> HttpError:
    """What a status means to a stream that expects another one, with the beginning of what the server says."""
    text = ""
    async for chunk in _texts(found):
        text += chunk
        if len(text) >= _EXCERPT:
            break
    said = f": {text[:_EXCERPT]}" if text else ""
    shown = request.url.partition("?")[0][:200]
    return HttpError(f"{request.method} {shown}: HTTP {found.status}{said}", found.status)


class _Chunks:
    """The chunks of an answer. One that has broken off raises for ever after, and never just ends."""

    def __init__(self, found: FetchStream, request: FetchRequest) -> None:
        self._chunks = found.chunks if request.binary else _texts(found)
        self._request = request
        self._over = False
        self._why = ""

    def end(self, why: str) -> None:
        """Give no more chunks."""
        self._why = self._why or why

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> bytes | str:
        if self._why:
            raise FetchError(self._why)
        if self._over:
            raise StopAsyncIteration
        try:
            async with _within(self._request):
                return await anext(self._chunks)
        except StopAsyncIteration:
            self._over = True
            raise
        except BaseException as error:  # also where its reader was cancelled: what comes then has a gap
            self.end(str(error) or "a chunk was cancelled while it came")
            raise


async def _texts(found: FetchStream) -> AsyncIterator[str]:
    """Chunks as texts; a character that is cut in two goes with the second one."""
    decoder = codecs.getincrementaldecoder(found.charset)("replace")
    async for chunk in found.chunks:
        if text := chunk if isinstance(chunk, str) else decoder.decode(chunk):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text


def charset_of(content_type: str) -> str:
    """The charset that a Content-Type names; UTF-8 where it names none, or one that Python does not know."""
    found = re.search(r"charset\s*=\s*[\"']?([A-Za-z0-9_.:-]{1,40})", content_type, re.IGNORECASE)
    try:
        name = codecs.lookup(found[1] if found else "utf-8").name
    except LookupError:
        return "utf-8"
    return name if name.startswith(_CHARSETS) else "utf-8"
