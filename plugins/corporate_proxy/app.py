"""Models behind a server that speaks the OpenAI-compatible chat API, streamed as server-sent events.

What goes wrong reaches the host as an error with data to act on, and without the key in it. It is no gateway: it counts
nobody's budget, keeps no answer, and a stream that broke off is an error and never a short answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import random
import re
import ssl
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

import httpx
import orjson

from sepkit import (
    App,
    CommandContext,
    Credentials,
    Delta,
    Done,
    Model,
    ModelUsed,
    OAuthParams,
    ProviderContext,
    ProviderRequest,
    Reasoning,
    RpcError,
    StreamEvent,
    ToolCallArgumentsDelta,
    ToolCallStart,
    ToolError,
    Usage,
)

PROVIDER: Final = "corporate-proxy"
VERSION: Final = "0.1.0"

URL: Final = "CORPORATE_PROXY_URL"
KEY: Final = "CORPORATE_PROXY_KEY"
MODELS: Final = "CORPORATE_PROXY_MODELS"
CLIENT_ID: Final = "CORPORATE_PROXY_CLIENT_ID"
CA: Final = "CORPORATE_PROXY_CA"
TIMEOUT: Final = "CORPORATE_PROXY_TIMEOUT"

ATTEMPTS: Final = 3
RETRIED: Final = (429, 500, 502, 503)  # not 504: the model has worked for a long time by then
BACK_OFF: Final = 0.25  # seconds before the second attempt, at most; twice that before the third
PATIENCE: Final = 5.0  # seconds; to wait out a longer Retry-After is for the host, which can tell its user
SILENCE: Final = 120.0  # seconds without a byte after which a stream is given up
TAIL: Final = 5.0  # seconds that a finished answer waits in all for its usage and its [DONE]
MAX_EVENT: Final = 32 * 1024 * 1024  # bytes
BLANK: Final = b"\xef\xbb\xbf \t\r\n"  # the bytes of a BOM and of white space, which may stand before a body
MAX_REFUSAL: Final = 64 * 1024  # bytes that are read of an answer that is no success
LOGIN_LIMIT: Final = 290.0  # seconds; hosts wait 300
WEEK: Final = 7 * 86_400.0

# They would log each request in the host's log, and with `--log-level debug` what the server sets as cookies.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


# -- errors ------------------------------------------------------------------------------------------------------------


def failure(kind: str, message: str, *, retryable: bool = False, **facts: Any) -> RpcError:
    """An error whose ``data`` a host can act on: ``{"kind", "retryable", …}``."""
    told = {name: fact for name, fact in facts.items() if fact is not None}
    return RpcError(message, data={"kind": kind, "retryable": retryable, **told})


def retry_after(value: str | None, now: float) -> float | None:
    """The seconds that a ``Retry-After`` asks for, in seconds or as a date; None where it cannot be read."""
    value = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        seconds = float(value)
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), WEEK)


# -- server-sent events ------------------------------------------------------------------------------------------------


class EventStream:
    """Takes the bytes of an event stream in whatever pieces they come, and gives the name and data of each event."""

    def __init__(self) -> None:
        self._held: list[bytes] = []  # of a line whose end has not come
        self._size = 0  # bytes held, of the line and of the event
        self._name = b""
        self._data: list[bytes] = []
        self._after_cr = False  # a line feed that comes now belongs to the line end before it
        self._begun = False

    def feed(self, piece: bytes) -> list[tuple[bytes, bytes]]:
        """Take some bytes.

        Raises:
            ValueError: An event is too long.
        """
        found: list[tuple[bytes, bytes]] = []
        if not piece:
            return found
        if self._after_cr and piece[:1] == b"\n":
            piece = piece[1:]
        self._after_cr = piece[-1:] == b"\r"
        for line in piece.splitlines(keepends=True):
            self._held.append(line)
            self._size += len(line)
            if self._size > MAX_EVENT:
                raise ValueError(f"an event is longer than {MAX_EVENT} bytes")
            if line.endswith((b"\r", b"\n")):
                self._take_line(found)
        return found

    def end(self) -> list[tuple[bytes, bytes]]:
        """The stream is over; the last event where its end is missing, which may be a part of one."""
        found: list[tuple[bytes, bytes]] = []
        self._take_line(found)
        self._take_line(found)
        return found

    def _take_line(self, found: list[tuple[bytes, bytes]]) -> None:
        whole = b"".join(self._held)
        self._held.clear()
        line = whole.rstrip(b"\r\n")
        if not self._begun:
            self._begun = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            if self._data:
                found.append((self._name, b"\n".join(self._data)))
            self._name, self._data, self._size = b"", [], 0
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value
        else:  # a comment, or a field that says nothing here
            self._size -= len(whole)


# -- what is asked -----------------------------------------------------------------------------------------------------


def chat_request(request: ProviderRequest) -> dict[str, Any]:
    """The body of ``POST /chat/completions``. It always asks for a stream: the host's result is folded from it."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_chat_message(message) for message in request.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.tools:
        body["tools"] = [_chat_tool(tool) for tool in request.tools]
    if request.response_format is not None:
        body["response_format"] = request.response_format
    if request.thinking and request.thinking != "off":
        body["reasoning_effort"] = request.thinking
    return body


def _chat_message(message: dict[str, Any]) -> dict[str, Any]:
    written = {name: value for name, value in message.items() if value is not None or name == "content"}
    calls = written.pop("tool_calls", None)
    if calls:  # an empty list is refused upstream
        written["tool_calls"] = [_chat_tool_call(call) if isinstance(call, dict) else call for call in calls]
    return written


def _chat_tool_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict):  # SEP's own form: {id, name, arguments}, the arguments as parsed JSON
        function = {"name": call.get("name", ""), "arguments": call.get("arguments", {})}
    return {
        "id": call.get("id", ""),
        "type": "function",
        "function": {**function, "arguments": _as_json_text(function.get("arguments", {}))},
    }


def _as_json_text(arguments: object) -> str:
    if isinstance(arguments, str):
        with contextlib.suppress(orjson.JSONDecodeError):
            orjson.loads(arguments)
            return arguments
    return orjson.dumps(arguments).decode()


def _chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    return tool if isinstance(tool.get("function"), dict) else {"type": "function", "function": tool}


# -- what is answered --------------------------------------------------------------------------------------------------


class Answer:
    """Makes stream events of the chunks of one completion, and knows whether it has come to its end."""

    def __init__(self) -> None:
        self.over = False
        self.received = 0  # characters of text, reasoning and arguments
        self._model = ""
        self._finish = ""
        self._calls = _Calls()

    def take(self, chunk: dict[str, Any]) -> Iterator[StreamEvent]:
        """The events of a chunk."""
        model = chunk.get("model")
        if isinstance(model, str) and model and not self._model:
            self._model = model
            yield ModelUsed(model)
        for choice in _choices(chunk):
            if _index(choice, "choice"):  # only one was asked for
                continue
            delta = choice.get("delta")
            # Beside a delta, even an empty one, the message is what has been told already.
            for event in self._take_delta(delta if isinstance(delta, dict) else _object(choice.get("message"))):
                self.received += len(_text_of(event))
                yield event
            finish = choice.get("finish_reason")
            if isinstance(finish, str) and finish:
                self._finish, self.over = finish, True
        usage = _object(chunk.get("usage"))
        if usage:
            yield _usage(usage)

    def _take_delta(self, delta: dict[str, Any]) -> Iterator[StreamEvent]:
        for name in ("reasoning_content", "reasoning"):  # it has no one name
            thought = delta.get(name)
            if isinstance(thought, str) and thought:
                yield Reasoning(thought)
                break
        for text in (_plain(delta.get("content")), _plain(delta.get("refusal"))):
            if text:
                yield Delta(text)
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            yield from self._calls.take(_object(call))

    def end(self) -> StreamEvent:
        """The last event.

        Raises:
            RpcError: The answer was cut off, or it holds a tool call that nobody can make.
        """
        if not self.over:
            raise failure(
                "cut",
                "the upstream closed the stream before the answer was complete; ask again",
                retryable=True,
                received=self.received,
            )
        self._calls.check(self._finish)
        return Done(self._finish or ("tool_calls" if self._calls else "stop"))


class _Calls:
    """The tool calls of an answer, by the index that they are given here.

    Upstreams differ: some leave out the index or give 0 to each, some leave out the id, some repeat id and name with
    each piece, some send the arguments as an object.
    """

    def __init__(self) -> None:
        self._calls: dict[int, _Call] = {}
        self._latest: dict[int | None, _Call] = {}  # by the upstream's index

    def __len__(self) -> int:
        return len(self._calls)

    def take(self, piece: dict[str, Any]) -> Iterator[StreamEvent]:
        index, upstream_id = _index(piece, "tool call"), piece.get("id")
        function = _object(piece.get("function"))
        call = self._find(index, upstream_id if isinstance(upstream_id, str) else "")
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and name and not call.name:
            call.name = name
            yield ToolCallStart(call.index, call.id or f"call_{uuid.uuid4().hex}", name)
            if call.pieces:
                yield ToolCallArgumentsDelta(call.index, "".join(call.pieces))
        if arguments is not None and not isinstance(arguments, str):
            arguments = orjson.dumps(arguments).decode()
        if arguments:
            call.pieces.append(arguments)
            if call.name:
                yield ToolCallArgumentsDelta(call.index, arguments)

    def _find(self, index: int | None, upstream_id: str) -> _Call:
        if upstream_id:
            for call in self._calls.values():
                if call.id == upstream_id:
                    return call
        latest = self._latest.get(index)
        if latest is not None and not (upstream_id and (latest.id or latest.name)):
            latest.id = latest.id or upstream_id
            return latest
        free = max(self._calls, default=-1) + 1
        if index is not None and 0 <= index < 2**31 and index not in self._calls:
            free = index
        call = self._calls[free] = self._latest[index] = _Call(free, upstream_id)
        return call

    def check(self, finish: str) -> None:
        for call in self._calls.values():
            text = "".join(call.pieces)
            try:
                whole = bool(call.name) and (not text.strip() or orjson.loads(text) is not ...)
            except orjson.JSONDecodeError:
                whole = False
            if not whole:
                why = "the answer reached its limit of tokens" if finish == "length" else "the model wrote no JSON"
                raise failure(
                    "bad_tool_call",
                    f"the arguments of the tool call {call.name or call.index!r} are not complete: {why}",
                    tool=call.name or None,
                    finish_reason=finish or None,
                )


class _Call:
    def __init__(self, index: int, upstream_id: str) -> None:
        self.index = index
        self.id = upstream_id
        self.name = ""
        self.pieces: list[str] = []


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _choices(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    choices = chunk.get("choices")
    return [_object(choice) for choice in choices] if isinstance(choices, list) else []


def _index(part: dict[str, Any], what: str) -> int | None:
    """Where a part of the answer belongs; None where it does not say.

    Raises:
        RpcError: It says so in a way that nobody can read, and a guess might put it into another one.
    """
    index = part.get("index")
    if index is None or type(index) is int:
        return index
    raise failure("bad_answer", f"the upstream does not answer as the API does: the index of a {what} is no integer")


def _plain(content: object) -> str:
    """Text, which some send as a list of parts."""
    if isinstance(content, list):
        texts = [_object(part).get("text") for part in content]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _text_of(event: StreamEvent) -> str:
    match event:
        case Delta() | Reasoning():
            return event.content
        case ToolCallArgumentsDelta():
            return event.arguments_chunk
        case _:
            return ""


def _usage(said: dict[str, Any]) -> Usage:
    def count(value: object) -> int | None:
        return value if type(value) is int and value >= 0 else None

    counted = ("prompt_tokens", "completion_tokens", "total_tokens")
    more = {k: v for k, v in said.items() if k not in (*counted, "type") and type(v) in (int, float)}
    reasoning = count(_object(said.get("completion_tokens_details")).get("reasoning_tokens"))
    if reasoning is not None:
        more["reasoning_tokens"] = reasoning
    cached = count(more.pop("cached_tokens", None))
    detailed = count(_object(said.get("prompt_tokens_details")).get("cached_tokens"))
    return Usage(
        prompt_tokens=count(said.get("prompt_tokens")),
        completion_tokens=count(said.get("completion_tokens")),
        total_tokens=count(said.get("total_tokens")),
        cached_tokens=cached if detailed is None else detailed,
        extra=more,
    )


# -- the upstream ------------------------------------------------------------------------------------------------------


class Upstream:
    """The server: where it is, what is shown to it, and what its refusals mean.

    Args:
        client: How it is reached.
        environ: Where URL, key and client id stand. A manifest passes on what is not set as "".
    """

    def __init__(self, client: httpx.AsyncClient, environ: Mapping[str, str]) -> None:
        self._client = client
        self._base = environ.get(URL, "").strip().rstrip("/")
        self._key = environ.get(KEY, "").strip()
        self._client_id = environ.get(CLIENT_ID, "").strip() or "sepkit-corporate-proxy"
        self._token = ""
        self._refresh_token = ""
        self.expires_at: int | None = None
        self.running = 0

    # -- where it is, and as whom --------------------------------------------------------------------------------------

    @property
    def credential(self) -> str:
        """What is shown to it: ``"login"``, ``"key"`` or ``"none"``."""
        return "login" if self._token else "key" if self._key else "none"

    @property
    def origin(self) -> str:
        """Where it is, as scheme, host and port.

        Raises:
            RpcError: The URL is missing, or is none.
        """
        url = self._url()
        port = "" if url.port is None else f":{url.port}"
        return f"{url.scheme}://{url.host}{port}"

    def _url(self) -> httpx.URL:
        if not self._base:
            raise failure("not_configured", f"{URL} is not set; set it to the server's address, as https://…/v1")
        try:
            url = httpx.URL(self._base)
        except httpx.InvalidURL:
            url = httpx.URL()
        # The value is not quoted: it may hold a password.
        if url.userinfo:
            raise failure("not_configured", f"{URL} holds a name or a password; put what is secret into {KEY}")
        if url.scheme not in ("http", "https") or not url.host:
            raise failure("not_configured", f"{URL} is no address of a server; write it as https://host/v1")
        return url

    def _headers(self) -> dict[str, str]:
        shown = self._token or self._key
        if not shown:
            return {}
        # Said here, because h11 would quote the whole header in its error.
        if not re.fullmatch(r"[!-~]+", shown):
            name = "the login's token" if self._token else KEY
            raise failure("not_configured", f"{name} has characters that cannot stand in a header; set it anew")
        return {"Authorization": f"Bearer {shown}"}

    def _sayable(self, text: object) -> str | None:
        """What the upstream said, cut short, and without the secrets that it may have quoted."""
        if not isinstance(text, str) or not text.strip():
            return None
        for secret in (self._key, self._token, self._refresh_token):
            if len(secret) > 3:
                text = text.replace(secret, "…")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= 300 else text[:299] + "…"

    # -- asking --------------------------------------------------------------------------------------------------------

    async def complete(self, body: dict[str, Any]) -> httpx.Response:
        """Ask for a completion; its answer, with the body unread. A failure that may pass is tried again.

        Raises:
            RpcError: It cannot be reached, or refuses.
        """
        content = orjson.dumps(body)
        attempt = 1
        while True:
            headers = {**self._headers(), "Content-Type": "application/json", "Accept": "text/event-stream"}
            url = f"{self._url()}/chat/completions"
            back_off = BACK_OFF * 2 ** (attempt - 1) * random.uniform(0.5, 1)
            try:
                request = self._client.build_request("POST", url, content=content, headers=headers)
                response = await self._client.send(request, stream=True)
            except httpx.RequestError as error:
                refusal = self.broken(error)
                # After a time-out it may be at work on the request, and a second one would cost as much again.
                again = back_off if refusal.data["kind"] == "unreachable" else None
            else:
                if response.status_code == 200:
                    return response
                refusal = await self._refusal(response)
                asked = refusal.data.get("retry_after", 0)
                again = None if response.status_code not in RETRIED or asked > PATIENCE else max(asked, back_off)
            if again is None or attempt == ATTEMPTS:
                refusal.data["attempts"] = attempt
                raise refusal from None
            attempt += 1
            await asyncio.sleep(again)

    def broken(self, error: httpx.RequestError, received: int | None = None) -> RpcError:
        """What it means that a request failed on its way; ``received`` characters had come of an answer."""
        why = self._sayable(str(error)) or type(error).__name__
        if received is not None and not isinstance(error, httpx.TimeoutException):
            return failure(
                "cut", f"the stream from {self.origin} broke off ({why}); ask again", retryable=True, received=received
            )
        if isinstance(error, httpx.ConnectTimeout) or not isinstance(error, httpx.TimeoutException):
            if "CERTIFICATE_VERIFY_FAILED" in why:
                return failure(
                    "untrusted", f"the certificate of {self.origin} is not trusted; put its CA's file into {CA} ({why})"
                )
            return failure(
                "unreachable", f"{self.origin} cannot be reached ({why}); check {URL} and the network", retryable=True
            )
        return failure(
            "timeout",
            f"nothing came from {self.origin} for {_seconds_allowed(error):g} s; ask again, or raise {TIMEOUT}",
            retryable=True,
            received=received,
        )

    async def _refusal(self, response: httpx.Response) -> RpcError:
        """The error that a status other than 200 means; the response is closed."""
        status = response.status_code
        said = await self._read_refusal(response)
        more: dict[str, Any] = {"status": status, "request_id": self._sayable(response.headers.get("x-request-id"))}
        if status in (401, 403):
            # Its text is left out: servers like to quote the key, or parts of it.
            kind = "unauthorized" if status == 401 else "forbidden"
            return failure(kind, f"{self.origin}: {self._advice(status)}", credential=self.credential, **more)
        about = f": {said}" if said else ""
        if 300 <= status < 400:
            return failure(
                "refused",
                f"{self.origin} sends elsewhere ({status}), where the key does not go; check {URL}",
                **more,
            )
        asked = retry_after(response.headers.get("Retry-After"), time.time())
        wait = None if asked is None else math.ceil(asked)
        if status == 429:
            when = "later" if wait is None else f"in {wait} s"
            message = f"{self.origin} has had too many requests; ask again {when}{about}"
            return failure("rate_limited", message, retryable=True, retry_after=wait, **more)
        if status >= 500 or status == 408:
            message = f"{self.origin} failed ({status}); ask again later{about}"
            return failure("upstream_failed", message, retryable=True, retry_after=wait, **more)
        return failure("refused", f"{self.origin} refused the request ({status}){about}", **more)

    def _advice(self, status: int) -> str:
        if self.credential == "none":
            return f"it wants to know who asks ({status}); set {KEY}, or log in"
        if status == 403:
            what = "login" if self.credential == "login" else "key"
            return f"the {what} may not use this model (403); ask who runs the server for access"
        if self.credential == "login":
            return "the login is not valid any more (401); refresh it (provider/oauth_refresh), or log in again"
        return f"the key is not valid (401); set {KEY} to one that is, and restart the extension"

    async def _read_refusal(self, response: httpx.Response) -> str | None:
        """The text of a refusal, where it has one that says something."""
        body = bytearray()
        try:
            async with asyncio.timeout(10), _pieces(response) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > MAX_REFUSAL:
                        break
        except (httpx.RequestError, TimeoutError):
            pass
        finally:
            await response.aclose()
        try:
            return self.text_of(orjson.loads(bytes(body)))
        except orjson.JSONDecodeError:
            kind = _media_type(response)
            return f"a page ({kind}) in place of an answer of the API" if kind == "text/html" else None

    def text_of(self, said: object) -> str | None:
        """The text of an error as servers write it: ``{"error": {"message"}}``, ``{"error"}`` or ``{"message"}``."""
        error = _object(said).get("error", said)
        for name in ("message", "detail", "error_description"):
            if text := self._sayable(_object(error).get(name)):
                return text
        return self._sayable(error)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[dict[str, Any] | None, None]:
        """The chunks of an answer; None is the upstream's word that it is complete.

        Raises:
            RpcError: The upstream says that it failed, or what it sends is no answer.
            httpx.RequestError: The connection broke.
        """
        kind = _media_type(response)
        events = EventStream()
        whole = bytearray()
        first = b"<" if kind == "text/html" else b""
        async with _pieces(response) as pieces:
            async for piece in pieces:
                # But for a page's, the type is not believed: gateways put that of a stream on JSON, and the other way.
                first = first or piece.lstrip(BLANK)[:1]
                if first == b"<":
                    about = f" ({kind})" if kind else ""
                    raise failure(
                        "bad_answer", f"{self.origin} answers with a page{about}, not with the API; is {URL} right?"
                    )
                if first in (b"{", b"["):  # it does not stream, and sends the answer as one
                    whole += piece
                    if len(whole) > MAX_EVENT:
                        raise self._bad_answer(f"it is longer than {MAX_EVENT} bytes")
                    continue
                try:
                    found = events.feed(piece)
                except ValueError as error:
                    raise self._bad_answer(str(error)) from None
                for name, data in found:
                    if _is_done(data):
                        yield None
                        await _read_to_the_end(pieces)
                        return
                    if data.strip() or name == b"error":  # else a sign of life
                        yield self._chunk(name, data)
        if whole:
            chunk = self._chunk(b"", bytes(whole.lstrip(BLANK)))
            if not chunk.get("choices"):
                raise self._bad_answer(self.text_of(chunk) or "it holds no answer")
            yield chunk
        for name, data in events.end():
            if _is_done(data):
                yield None
            else:
                with contextlib.suppress(orjson.JSONDecodeError):  # a part of one: that the answer is cut is said later
                    orjson.loads(data)
                    yield self._chunk(name, data)

    def _chunk(self, name: bytes, data: bytes) -> dict[str, Any]:
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            if name == b"error":
                raise self._failed_within(data.decode(errors="replace")) from None
            raise self._bad_answer(f"a chunk is no JSON ({error})") from None
        # By its event's name, or as vLLM and its like write it.
        if name == b"error" or _object(chunk).get("object") == "error":
            raise self._failed_within(chunk)
        if not isinstance(chunk, dict):
            raise self._bad_answer("a chunk is no JSON object")
        for part in (chunk, *_choices(chunk)):
            if part.get("error"):
                raise self._failed_within(part)
        return chunk

    def _failed_within(self, said: object) -> RpcError:
        text = self.text_of(said)
        about = f": {text}" if text else ""
        return failure("upstream_failed", f"{self.origin} failed within its answer{about}", retryable=True)

    def _bad_answer(self, why: str) -> RpcError:
        return failure("bad_answer", f"{self.origin} does not answer as the API does: {why}")

    # -- models and logins ---------------------------------------------------------------------------------------------

    async def models(self) -> list[str]:
        """The models that it has, by name.

        Raises:
            RpcError: It cannot be reached, or refuses.
        """
        said = await self._ask("GET", f"{self._url()}/models", headers=self._headers())
        listed = said.get("data")
        return sorted({_plain(_object(model).get("id")) for model in listed} - {""}) if isinstance(listed, list) else []

    async def oauth(self, path: str, **form: str) -> dict[str, Any]:
        """Ask its OAuth endpoints; a refusal is an answer too, with ``error`` in it.

        Raises:
            RpcError: It cannot be reached, or has no such endpoint.
        """
        url = self._url().join(f"/oauth/{path}")
        return await self._ask("POST", url, data={"client_id": self._client_id, **form}, refusals=(400, 401, 403))

    async def _ask(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        headers: dict[str, str] | None = None,
        data: dict[str, str] | None = None,
        refusals: tuple[int, ...] = (),
    ) -> dict[str, Any]:
        try:
            request = self._client.build_request(method, url, headers=headers, data=data, timeout=10)
            response = await self._client.send(request, stream=True)
            if response.status_code != 200 and response.status_code not in refusals:
                raise await self._refusal(response)
            async with aclosing(response):
                await response.aread()
        except httpx.RequestError as error:
            raise self.broken(error) from None
        try:
            said = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            said = None
        if not isinstance(said, dict) or (response.status_code != 200 and not isinstance(said.get("error"), str)):
            raise self._bad_answer("it sends no JSON object")
        return said

    def logged_in(self, said: dict[str, Any]) -> Credentials:
        """Take over what a login brought; from now on it is shown in place of the key."""
        token, refresh_token, seconds = said.get("access_token"), said.get("refresh_token"), said.get("expires_in")
        if not isinstance(token, str) or not token:
            raise self._bad_answer("the login brought no token")
        self._token = token
        # One that is not renewed stays valid.
        self._refresh_token = refresh_token if isinstance(refresh_token, str) and refresh_token else self._refresh_token
        self.expires_at = None
        if isinstance(seconds, int | float) and 0 <= seconds < 1e10:
            self.expires_at = int(time.time() + seconds)
        return Credentials(access_token=token, refresh_token=self._refresh_token or None, expires_at=self.expires_at)

    def refreshing(self, refresh_token: str) -> None:
        """From now on this is a secret."""
        self._refresh_token = refresh_token


def _pieces(response: httpx.Response) -> aclosing[AsyncGenerator[bytes, None]]:
    """The bytes of a response, as they come."""
    return aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_bytes()))


def _is_done(data: bytes) -> bool:
    return data.strip() == b"[DONE]"


async def _read_to_the_end(pieces: AsyncIterator[bytes]) -> None:
    """Read what ends the response, so that its connection serves the next request; not where it takes its time."""
    with contextlib.suppress(httpx.RequestError, TimeoutError):
        async with asyncio.timeout(0.1):
            async for _ in pieces:
                pass


def _seconds_allowed(error: httpx.RequestError) -> float:
    limits = error.request.extensions["timeout"]
    return float(limits["write" if isinstance(error, httpx.WriteTimeout) else "read"])


def _media_type(response: httpx.Response) -> str:
    kind: str = response.headers.get("Content-Type", "")
    return kind.partition(";")[0].strip().lower()


# -- the extension -----------------------------------------------------------------------------------------------------


def make_client(environ: Mapping[str, str]) -> httpx.AsyncClient:
    """A client that trusts what the system trusts, and ``CORPORATE_PROXY_CA``; proxies as httpx finds them."""
    trusted = ssl.create_default_context()
    if ca := environ.get(CA, "").strip():
        try:
            trusted.load_verify_locations(ca)
        except OSError as error:
            raise ValueError(f"{CA}: no certificates can be read from {ca}: {error}") from None
    said = environ.get(TIMEOUT, "").strip()
    silence = float(said) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", said) and float(said) > 0 else SILENCE
    return httpx.AsyncClient(
        verify=trusted,
        timeout=httpx.Timeout(silence, connect=10.0, write=30.0, pool=None),
        # How many streams run is bounded by sepkit.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        # A server that packs its stream holds pieces back until there is enough to pack.
        headers={"User-Agent": f"{PROVIDER}/{VERSION}", "Accept-Encoding": "identity"},
    )


@asynccontextmanager
async def connected(app: App) -> AsyncIterator[Upstream]:
    async with make_client(os.environ) as client:
        yield Upstream(client, os.environ)


app = App(PROVIDER, version=VERSION, lifespan=connected)


def named_models(names: str) -> list[Model]:
    """The models of a list with commas."""
    return [Model(name) for name in dict.fromkeys(map(str.strip, names.split(","))) if name]


@app.provider(PROVIDER, models=named_models(os.environ.get(MODELS, "")), api_key_env=KEY)
async def complete(request: ProviderRequest, ctx: ProviderContext) -> AsyncIterator[StreamEvent]:
    upstream: Upstream = ctx.state
    answer = Answer()
    upstream.running += 1
    try:
        response = await upstream.complete(chat_request(request))
        async with aclosing(response), aclosing(upstream.chunks(response)) as chunks:
            deadline: float | None = None
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        chunk = await anext(chunks)
                except (StopAsyncIteration, TimeoutError):
                    break
                except httpx.RequestError as error:
                    if answer.over:
                        break
                    raise upstream.broken(error, answer.received) from None
                if chunk is None:
                    answer.over = True
                    continue
                over, received = answer.over, answer.received
                for event in answer.take(chunk):
                    yield event
                if not over and answer.over:
                    deadline = asyncio.get_running_loop().time() + TAIL
                elif answer.received > received:
                    # Some give a reason with each chunk; theirs tells nothing of the end, and to guess it would cut.
                    deadline = None
        yield answer.end()
    finally:
        upstream.running -= 1


@app.oauth_login(PROVIDER)
async def log_in(ctx: ProviderContext) -> Credentials:
    upstream: Upstream = ctx.state
    grant = await upstream.oauth("device/code")
    device_code, code, address = (grant.get(name) for name in ("device_code", "user_code", "verification_uri"))
    if not (isinstance(device_code, str) and isinstance(code, str) and isinstance(address, str)):
        raise failure("login_failed", f"{upstream.origin} began no login: {upstream.text_of(grant)}")
    await ctx.ui.notify(f"To log in to {upstream.origin}, open {address} and enter the code {code}")
    pause = _seconds(grant.get("interval"), 5.0)
    try:
        async with asyncio.timeout(min(_seconds(grant.get("expires_in"), LOGIN_LIMIT), LOGIN_LIMIT)):
            while True:
                await asyncio.sleep(max(pause, 0.05))
                try:
                    said = await upstream.oauth(
                        "token", grant_type="urn:ietf:params:oauth:grant-type:device_code", device_code=device_code
                    )
                except RpcError as error:
                    if not error.data["retryable"]:
                        raise
                    continue
                if "error" not in said:
                    return upstream.logged_in(said)
                if said["error"] == "slow_down":
                    pause += 5
                elif said["error"] != "authorization_pending":
                    break
    except TimeoutError:
        raise failure("login_failed", f"nobody entered the code {code} in time; log in again") from None
    if said["error"] == "access_denied":
        raise failure("login_failed", "the login was denied")
    raise failure("login_failed", f"the login failed ({upstream.text_of(said)}); log in again")


@app.oauth_refresh(PROVIDER)
async def refresh(params: OAuthParams, ctx: ProviderContext) -> Credentials:
    upstream: Upstream = ctx.state
    if not params.refresh_token:
        raise failure("login_failed", "there is no refresh_token to renew the login with; log in again")
    upstream.refreshing(params.refresh_token)
    said = await upstream.oauth("token", grant_type="refresh_token", refresh_token=params.refresh_token)
    if "error" in said:
        raise failure("login_failed", f"the login cannot be renewed ({upstream.text_of(said)}); log in again")
    return upstream.logged_in(said)


def _seconds(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < WEEK else otherwise


@app.command(name="proxy-status")
async def proxy_status(ctx: CommandContext) -> str:
    """Tell which server is asked, as whom, and how many streams run."""
    upstream: Upstream = ctx.state
    try:
        where = upstream.origin
    except RpcError as error:
        return error.message
    whose = {"key": f"with the key in {KEY}", "none": f"without a key: set {KEY}, or log in", "login": "logged in"}
    until = ""
    if upstream.credential == "login" and upstream.expires_at is not None:
        left = upstream.expires_at - time.time()
        until = f" for {left:.0f} s more" if left > 0 else ", but the login has expired"
    return f"{where}, {whose[upstream.credential]}{until}; {upstream.running} streams running"


@app.command(name="proxy-models")
async def proxy_models(ctx: CommandContext) -> str:
    """Ask the server which models it has, and offer those from now on."""
    upstream: Upstream = ctx.state
    try:
        names = await upstream.models()
    except RpcError as error:
        raise ToolError(error.message) from None
    app.add_provider(complete, PROVIDER, models=[Model(name) for name in names], api_key_env=KEY, replace=True)
    return f"{len(names)} models: {', '.join(names)}" if names else f"{upstream.origin} lists no models"
