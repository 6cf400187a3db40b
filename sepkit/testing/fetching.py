"""The network of a test host: what a test's author wants servers to answer, in the place of connections."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import orjson

from sepkit.contexts.fetching import Headers, Response
from sepkit.errors import FetchError
from sepkit.testing.scripted import FetchAnswer, FetchScript
from sepkit.testing.seen import Fetched, Seen


class ScriptedTransport(httpx.AsyncBaseTransport):
    """Answers requests from a script.

    Args:
        seen: Where it keeps the requests.
        script: How requests are answered; None where none is.
        following: Gives the next one of several answers to a request.
        unforeseen: Tells that the test must fail, and makes the error for it.
    """

    def __init__(
        self,
        seen: Seen,
        script: FetchScript,
        following: Callable[[str, str, Any], Any],
        unforeseen: Callable[[str], Exception],
    ) -> None:
        self._seen = seen
        self._script = script
        self._following = following
        self._unforeseen = unforeseen

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer a request, or refuse it as a server that is not there does."""
        url = str(request.url)
        fetched = Fetched(
            method=request.method, url=url, headers=Headers(request.headers.multi_items()), body=request.content
        )
        self._seen.fetched.append(fetched)
        answer: FetchAnswer = await self._answer(fetched)
        if isinstance(answer, Exception):
            raise answer
        return _as_httpx(answer)

    async def _answer(self, request: Fetched) -> Any:
        script, line = self._script, f"{request.method} {request.url}"
        if script is None:
            raise FetchError(f"{line}: this host reaches no server; TestHost(fetch=...) says what they answer")
        if callable(script):
            try:
                answer = script(request)
                answer = await answer if inspect.isawaitable(answer) else answer
            except FetchError:
                raise
            except Exception as error:
                raise self._failed(script, error) from None
        else:
            name = next((name for name in _names(line, request.url) if name in script), None)
            if name is None:
                raise FetchError(f"{line}: no answer; TestHost(fetch=...) has {', '.join(script) or 'none'}")
            answer = self._following("fetch", name, script[name])
        if not isinstance(answer, Response | str | bytes | Mapping | AsyncIterator | Exception):
            raise self._unforeseen(
                f"fetch answers {line!r} with {answer!r}; expected a Response, a str, bytes, a dict, an async iterator "
                "or an exception"
            )
        return answer

    def _failed(self, script: Callable[..., Any], error: Exception) -> Exception:
        return self._unforeseen(
            f"the test's {getattr(script, '__name__', 'function')} raised {type(error).__name__}: {error}"
        )


def _names(line: str, url: str) -> tuple[str, ...]:
    """What a request may be called in a script, the most exact one first."""
    return line, url, line.partition("?")[0], url.partition("?")[0]


def _as_httpx(answer: Response | str | bytes | Mapping[str, Any] | AsyncIterator[str | bytes]) -> httpx.Response:
    if isinstance(answer, Response):
        return httpx.Response(answer.status, headers=list(answer.headers.items()), stream=_Bytes(answer.body))
    if isinstance(answer, Mapping):
        json = {"content-type": "application/json"}
        return httpx.Response(200, headers=json, stream=_Bytes(orjson.dumps(answer)))
    return httpx.Response(200, stream=_Bytes(answer))


class _Bytes(httpx.AsyncByteStream):
    """A body: at once, or as an async iterator gives it."""

    def __init__(self, given: bytes | str | AsyncIterator[bytes | str]) -> None:
        self._given = given

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if isinstance(self._given, bytes | str):
            yield _encoded(self._given)
        else:
            async for chunk in self._given:
                yield _encoded(chunk)

    async def aclose(self) -> None:
        """The reader wants no more."""
        if (close := getattr(self._given, "aclose", None)) is not None:
            await close()


def _encoded(chunk: bytes | str) -> bytes:
    return chunk.encode() if isinstance(chunk, str) else chunk
