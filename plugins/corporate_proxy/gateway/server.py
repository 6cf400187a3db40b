"""The server: what it is shown and asked, how often, and what its refusals mean.

What an answer says is read in ``answer.py``. No secret leaves this module: each text of the server is cleaned of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import re
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, Self, cast

import attrs
import httpx
import orjson

from gateway.answer import choices
from gateway.events import MAX_EVENT, EventStream, is_done, parsed
from gateway.failures import (
    as_object,
    asked_wait,
    bad_answer,
    failure,
    is_error,
    is_out_of_quota,
    sounds_failed,
    text_of,
)
from gateway.memory import Memory
from gateway.network import WebProxy, make_client, proxy_for
from gateway.question import Habits, chat_request
from gateway.settings import CA, CLIENT_CERT, KEY, SIGNS_OF_LIFE, TIMEOUT, URL, Settings
from sepkit import Credentials, ProviderRequest, RpcError

ATTEMPTS: Final = 3
RETRIED: Final = (429, 500, 502, 503, 529)  # not 504: the model has worked for a long time by then
RETRIED_IF_ASKED: Final = (408, 409, 425)  # and all from 500, where the server says when
BACK_OFF: Final = 0.25  # seconds before the second attempt, at most; twice that before the third
PATIENCE: Final = 5.0  # seconds; to wait out a longer Retry-After is for the host, which can tell its user
BLANK: Final = b"\xef\xbb\xbf \t\r\n"  # the bytes of a BOM and of white space, which may stand before a body
MAX_REFUSAL: Final = 64 * 1024  # bytes that are read of an answer that is no success
MAX_MODELS: Final = 1_000  # whose habits are kept

_log = logging.getLogger("corporate_proxy")


@attrs.frozen
class _Refusal:
    """What a request came to that was not answered with success."""

    error: RpcError
    again: float | None
    """The seconds after which it may be asked again; None where that is of no use."""
    status: int = 0
    text: str = ""
    """All that the server says of it, for programs only: it may hold secrets."""


class Upstream:
    """The server, with its connections, for as long as the block lasts.

    Args:
        environ: The environment. A setting that cannot be used is told by each request.
        agent: What this program is called.
    """

    def __init__(self, environ: Mapping[str, str], agent: str) -> None:
        self.settings: Final = Settings(environ)
        self.memory: Final = Memory()
        self._agent = agent
        self._client: httpx.AsyncClient | None = None
        self._proxy: WebProxy | None = None
        self._fault: RpcError | None = None
        self._habits: dict[str, Habits] = {}  # by model
        self._token = ""
        self._refresh_token = ""
        self.expires_at: int | None = None
        self.running = 0

    async def __aenter__(self) -> Self:
        try:
            self._proxy = proxy_for(self.settings.url, self.settings.environ)
            self._client = make_client(self.settings, self._proxy, self._agent)
        except RpcError as error:
            self._fault = error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()

    # -- where it is, and as whom --------------------------------------------------------------------------------------

    @property
    def credential(self) -> str:
        """What is shown to it: ``"login"``, ``"key"`` or ``"none"``."""
        return "login" if self._token else "key" if self.settings.key else "none"

    @property
    def origin(self) -> str:
        """Where it is, as scheme, host and port.

        Raises:
            RpcError: A setting cannot be used.
        """
        self._reached()
        url = self.settings.url
        return f"{url.scheme}://{url.netloc.decode('ascii')}"

    def _reached(self) -> httpx.AsyncClient:
        if self._client is None:
            assert self._fault is not None
            raise RpcError(self._fault.message, data={**self._fault.data})
        return self._client

    def _headers(self) -> dict[str, str]:
        shown = self._token or self.settings.key
        if not shown:
            return {}
        # Said here, because h11 would quote the whole header in its error.
        if not re.fullmatch(r"[!-~]+", shown):
            name = "the login's token" if self._token else KEY
            raise failure("not_configured", f"{name} has characters that cannot stand in a header; set it anew")
        header = "Authorization" if self._token else self.settings.key_header
        return {header: f"Bearer {shown}" if header.lower() == "authorization" else shown}

    def _sayable(self, text: object) -> str | None:
        """What the upstream said, cut short, and without the secrets that it may have quoted."""
        if not isinstance(text, str) or not text.strip():
            return None
        through = ("", "") if self._proxy is None else (self._proxy.url.password, self._proxy.url.userinfo.decode())
        for secret in (self.settings.key, self._token, self._refresh_token, *through):
            if len(secret) > 3:
                text = text.replace(secret, "…")
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= 300 else text[:299] + "…"

    # -- asking --------------------------------------------------------------------------------------------------------

    async def complete(self, request: ProviderRequest) -> httpx.Response:
        """Ask for a completion; its answer, with the body unread. A failure that may pass is tried again.

        A field that this server does not take is left out at once, and from then on.

        Raises:
            RpcError: It cannot be reached, or refuses.
        """
        habits = self._habits.get(request.model, Habits(self.settings.left_out))
        attempt = 1
        while True:
            body = chat_request(request, habits, self.memory)
            outcome = await self._post(body, BACK_OFF * 2 ** (attempt - 1) * random.uniform(0.5, 1))
            if isinstance(outcome, httpx.Response):
                self._keep_habits(request.model, habits)
                return outcome
            others = habits.after(outcome.status, outcome.text, body) if outcome.status else habits
            if others != habits:
                habits = others
                continue
            if outcome.again is None or attempt == ATTEMPTS:
                outcome.error.data["attempts"] = attempt
                raise outcome.error
            attempt += 1
            await asyncio.sleep(outcome.again)

    async def _post(self, body: dict[str, Any], back_off: float) -> httpx.Response | _Refusal:
        client = self._reached()
        headers = {**self._headers(), "Content-Type": "application/json", "Accept": "text/event-stream"}
        url = self.settings.endpoint("/chat/completions")
        request = client.build_request("POST", url, content=orjson.dumps(body), headers=headers)
        try:
            async with asyncio.timeout(self.patience):
                with _as_request_errors():
                    response = await client.send(request, stream=True)
        except TimeoutError:
            return _Refusal(self.lifeless(None), None)
        except httpx.RequestError as error:
            refusal = self.broken(error)
            # After a time-out it may be at work on the request, and a second one would cost as much again.
            return _Refusal(refusal, back_off if refusal.data["kind"] == "unreachable" else None)
        return response if response.status_code == 200 else await self._refusal(response, back_off)

    def _keep_habits(self, model: str, habits: Habits) -> None:
        if habits == self._habits.get(model, Habits(self.settings.left_out)):
            return
        if len(self._habits) >= MAX_MODELS:
            self._habits.clear()
        self._habits[model] = habits
        _log.info("the model %s is asked without: %s", model, ", ".join(sorted(habits.left_out)) or "-")

    # -- what went wrong -----------------------------------------------------------------------------------------------

    @property
    def patience(self) -> float:
        """The seconds for which it may send what says nothing."""
        return self.settings.silence * SIGNS_OF_LIFE

    def lifeless(self, received: int | None) -> RpcError:
        """The error for an answer that does not go on; ``received`` characters had come of it."""
        return failure(
            "timeout",
            f"{self.origin} sent nothing but signs of life for {self.patience:g} s; ask again, or raise {TIMEOUT}",
            retryable=True,
            received=received,
        )

    def broken(self, error: httpx.RequestError, received: int | None = None) -> RpcError:
        """What it means that a request failed on its way; ``received`` characters had come of an answer."""
        why = self._sayable(str(error)) or type(error).__name__
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return failure(
                "timeout",
                f"nothing came from {self.origin} for {_seconds_allowed(error):g} s; ask again, or raise {TIMEOUT}",
                retryable=True,
                received=received,
            )
        if (alert := _alert(error)) is not None and ("HANDSHAKE" not in alert or not self._shows):
            return failure(
                "untrusted",
                f"{self.origin} does not take the certificate of this client ({alert}); put the file of one that it "
                f"takes into {CLIENT_CERT}",
            )
        if received is not None:
            return failure(
                "cut", f"the stream from {self.origin} broke off ({why}); ask again", retryable=True, received=received
            )
        if "CERTIFICATE_VERIFY_FAILED" in why:
            return failure(
                "untrusted", f"the certificate of {self.origin} is not trusted; put its CA's file into {CA} ({why})"
            )
        if self._proxy is not None and isinstance(error, httpx.ProxyError | httpx.ConnectError | httpx.ConnectTimeout):
            return self._lost_at_proxy(self._proxy, why, is_answer=isinstance(error, httpx.ProxyError))
        # What a server says of a missing certificate may be lost with the connection.
        is_perhaps = self.origin.startswith("https:") and not self._shows and _began(error)
        hint = f"; if it wants a certificate of its clients, set {CLIENT_CERT}" if is_perhaps else ""
        return failure(
            "unreachable",
            f"{self.origin} cannot be reached ({why}); check {URL} and the network{hint}",
            retryable=True,
        )

    @property
    def _shows(self) -> bool:
        """Whether a certificate of this client is set."""
        return bool(self.settings.text(CLIENT_CERT))

    def _lost_at_proxy(self, proxy: WebProxy, why: str, *, is_answer: bool) -> RpcError:
        """What it means that a request did not come through the proxy: the proxy's answer, or that there was none."""
        where = f"the proxy {proxy.address}"
        if not is_answer:
            return failure(
                "unreachable",
                f"{where}, on the way to {self.origin}, cannot be reached ({why}); check {proxy.variable}",
                retryable=True,
            )
        status = int(found[0]) if (found := re.match(r"[1-5][0-9]{2}\b", why)) else None
        wants_name = re.search(r"username|password|auth", why, re.IGNORECASE)
        if status == 407 or (status is None and wants_name):
            return self._unknown_to_proxy(proxy, why)
        if status is not None and status < 500:
            return failure(
                "proxy_refused",
                f"{where} lets nothing through to {self.origin} ({why}); ask who runs it, or set NO_PROXY",
                status=status,
            )
        return failure(
            "unreachable", f"{where} cannot reach {self.origin} ({why}); check {URL} and the network", retryable=True
        )

    @staticmethod
    def _unknown_to_proxy(proxy: WebProxy, why: str) -> RpcError:
        scheme = proxy.url.scheme
        return failure(
            "proxy_refused",
            f"the proxy {proxy.address} wants another name and password ({why}); write them into {proxy.variable}, as "
            f"{scheme}://name:password@host:port",
            status=407,
        )

    async def _refusal(self, response: httpx.Response, back_off: float) -> _Refusal:
        """What a status other than 200 means; the response is closed."""
        status, headers = response.status_code, response.headers
        body = await self._read_refusal(response)
        said, text = self._said(body, _media_type(response))
        wait = asked_wait(headers, said, time.time())
        is_over = is_out_of_quota(said)
        error = self._refused(status, headers, None if wait is None else math.ceil(wait), text, is_over)
        again = None if is_over else self._again(status, headers.get("x-should-retry", "").lower(), wait, back_off)
        return _Refusal(error, again, status, body.decode(errors="replace"))

    @staticmethod
    def _again(status: int, should: str, wait: float | None, back_off: float) -> float | None:
        """When a refused request is asked again: as the server says, where it says so."""
        asked_for = wait is not None and (status >= 500 or status in RETRIED_IF_ASKED)
        is_worth_it = should == "true" or (should != "false" and (status in RETRIED or asked_for))
        if not is_worth_it or (wait or 0) > PATIENCE:
            return None
        return max(wait or 0, back_off)

    def _refused(
        self, status: int, headers: httpx.Headers, wait: int | None, text: str | None, is_over: bool
    ) -> RpcError:
        more: dict[str, Any] = {"status": status, "request_id": self._sayable(headers.get("x-request-id"))}
        if status == 407 and self._proxy is not None:
            return self._unknown_to_proxy(self._proxy, "407")
        if status in (401, 403):
            # Its text is left out: servers like to quote the key, or parts of it.
            kind = "unauthorized" if status == 401 else "forbidden"
            return failure(kind, f"{self.origin}: {self._advice(status)}", credential=self.credential, **more)
        about = f": {text}" if text else ""
        if 300 <= status < 400:
            return failure(
                "refused",
                f"{self.origin} sends elsewhere ({status}), where the key does not go; check {URL}",
                **more,
            )
        if is_over or status == 402:
            return failure("out_of_quota", f"{self.origin} wants to be paid first ({status}){about}", **more)
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

    async def _read_refusal(self, response: httpx.Response) -> bytes:
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
        return bytes(body)

    def _said(self, body: bytes, kind: str) -> tuple[object, str | None]:
        """What a refusal says, as JSON where it is any, and as text for people."""
        text = body.strip(BLANK).decode(errors="replace")
        if text.startswith("<") or kind == "text/html":
            if kind == "text/html" or not re.search(r"\bxml\b", kind):
                return None, f"a page ({kind or 'of no type'}) in place of an answer of the API"
            return None, self._sayable(re.sub(r"<[^>]*>", " ", text))
        for event in (text, *re.findall(r"^data:(.*)$", text, re.MULTILINE)):
            with contextlib.suppress(ValueError):
                said = parsed(event.encode())
                return said, self._sayable(text_of(said)) or self._sayable(text)
        return None, self._sayable(text)

    # -- reading -------------------------------------------------------------------------------------------------------

    async def chunks(self, response: httpx.Response) -> AsyncGenerator[dict[str, Any] | None, None]:
        """The chunks of an answer; None is the upstream's word that it is complete.

        Raises:
            RpcError: The upstream says that it failed, or what it sends is no answer.
            httpx.RequestError: The connection broke.
        """
        kind = _media_type(response)
        events = EventStream()
        body = bytearray()
        first = b"<" if kind == "text/html" else b""
        count = 0
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
                    body += piece
                    if len(body) > MAX_EVENT:
                        raise self._bad_answer(f"it is longer than {MAX_EVENT} bytes")
                    continue
                for name, data in self._fed(events, piece):
                    count += 1
                    if is_done(data):
                        yield None
                        await _read_to_the_end(pieces)
                        return
                    if data.strip() or name == b"error":  # else a sign of life
                        yield self._chunk(name, data)
        if body:
            for chunk in self._as_one(bytes(body.lstrip(BLANK)), events):
                yield chunk
            return
        for name, data in events.end():
            count += 1
            if is_done(data):
                yield None
            else:
                with contextlib.suppress(ValueError):  # a part of one: that the answer is cut is said later
                    parsed(data)
                    yield self._chunk(name, data)
        if not count and (text := self._sayable(events.stray)):
            raise self._bad_answer(f"it says: {text}")

    def _fed(self, events: EventStream, piece: bytes) -> list[tuple[bytes, bytes]]:
        try:
            return events.feed(piece)
        except ValueError as error:
            raise self._bad_answer(str(error)) from None

    def _as_one(self, body: bytes, events: EventStream) -> list[dict[str, Any] | None]:
        """The chunks of a body that begins as JSON does: one, unless events stand behind it, or one in each line."""
        try:
            parsed(body)
        except ValueError:
            found = [(name, data) for name, data in [*self._fed(events, body), *events.end()] if data.strip()]
            if any(is_done(data) or b'"choices"' in data or name for name, data in found):
                return [None if is_done(data) else self._chunk(name, data) for name, data in found]
        chunk = self._chunk(b"", body, streamed=False)
        if not chunk.get("choices"):
            raise self._bad_answer(self._sayable(text_of(chunk)) or "it holds no answer")
        return [chunk]

    def _chunk(self, name: bytes, data: bytes, *, streamed: bool = True) -> dict[str, Any]:
        try:
            chunk = parsed(data)
        except ValueError as error:
            if name == b"error":
                raise self._failed_within(data.decode(errors="replace")) from None
            raise self._bad_answer(f"a chunk is no JSON ({error})") from None
        listed = [as_object(one) for one in chunk] if isinstance(chunk, list) else []
        if name == b"error" or any(map(is_error, listed)):
            raise self._failed_within(chunk)
        if not isinstance(chunk, dict):
            raise self._bad_answer("a chunk is no JSON object")
        failed = next((part for part in (chunk, *choices(chunk)) if is_error(part)), None)
        if failed is not None or (streamed and sounds_failed(chunk)):
            raise self._failed_within(failed or chunk)
        return chunk

    def _failed_within(self, said: object) -> RpcError:
        text = self._sayable(text_of(said))
        about = f": {text}" if text else ""
        if is_out_of_quota(said):
            return failure("out_of_quota", f"{self.origin} wants to be paid first{about}")
        return failure("upstream_failed", f"{self.origin} failed within its answer{about}", retryable=True)

    def _bad_answer(self, why: str) -> RpcError:
        return bad_answer(why, self.origin)

    # -- models and logins ---------------------------------------------------------------------------------------------

    async def models(self) -> list[str]:
        """The models that it has, by name.

        Raises:
            RpcError: It cannot be reached, or refuses.
        """
        said = await self._ask("GET", self.settings.endpoint("/models"), headers=self._headers())
        listed = said.get("data")
        names = [as_object(model).get("id") for model in listed] if isinstance(listed, list) else []
        return sorted({name for name in names if isinstance(name, str) and name})

    async def oauth(self, path: str, **form: str) -> dict[str, Any]:
        """Ask its OAuth endpoints; a refusal is an answer too, with ``error`` in it.

        Raises:
            RpcError: It cannot be reached, or has no such endpoint.
        """
        form = {"client_id": self.settings.client_id, **form}
        url = self.settings.url.copy_with(raw_path=f"/oauth/{path}".encode())
        return await self._ask("POST", url, data=form, refusals=(400, 401, 403))

    def text_of(self, said: dict[str, Any]) -> str | None:
        """What a refusal says that is an answer."""
        return self._sayable(text_of({**said, "error": said.get("error_description") or said.get("error")}))

    async def _ask(
        self,
        method: str,
        url: httpx.URL,
        *,
        headers: dict[str, str] | None = None,
        data: dict[str, str] | None = None,
        refusals: tuple[int, ...] = (),
    ) -> dict[str, Any]:
        client = self._reached()
        try:
            request = client.build_request(method, url, headers=headers, data=data, timeout=10)
            async with asyncio.timeout(30):  # in all: the other limit is that of a silence
                with _as_request_errors():
                    response = await client.send(request, stream=True)
                if response.status_code != 200 and response.status_code not in refusals:
                    raise (await self._refusal(response, 0)).error
                async with aclosing(response):
                    with _as_request_errors():
                        await response.aread()
        except httpx.RequestError as error:
            raise self.broken(error) from None
        except TimeoutError:
            raise self.lifeless(None) from None
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

    async def read() -> AsyncGenerator[bytes, None]:
        with _as_request_errors():
            async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_bytes())) as pieces:
                async for piece in pieces:
                    yield piece

    return aclosing(read())


@contextlib.contextmanager
def _as_request_errors() -> Iterator[None]:
    """What httpx does not wrap, as if it did: errors of TLS after the handshake, and those of its SOCKS package."""
    try:
        yield
    except OSError as error:
        raise httpx.ReadError(str(error)) from error
    except Exception as error:
        if not type(error).__module__.startswith("socksio"):
            raise
        raise httpx.ConnectError(f"it does not speak SOCKS ({type(error).__name__})") from error


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


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _began(error: httpx.RequestError) -> bool:
    """Whether the server was there, and the connection was lost after that."""
    return not isinstance(error, httpx.ConnectError) or any(isinstance(one, ssl.SSLError) for one in _causes(error))


def _alert(error: BaseException) -> str | None:
    """The alert with which a server refuses what the client shows of itself; None where there was none."""
    for one in _causes(error):
        reason = (one.reason or "") if isinstance(one, ssl.SSLError) else ""
        if re.search("ALERT.*(CERTIFICATE|UNKNOWN_CA|HANDSHAKE_FAILURE)", reason):
            return reason
    return None
