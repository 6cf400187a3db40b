"""A test client of the Model Context Protocol, in both of its eras: in memory over an App, or over any command.

::

    async with McpClient(app, forms={"confirm": True}) as client:
        result = await client.call_tool("greet", {"name": "Ada"})
    assert result.text == "Hello, Ada!"
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TypeVar, cast

import orjson

from sepkit import __version__
from sepkit.app import App
from sepkit.capabilities.local.backend import LocalBackend
from sepkit.capabilities.store import KvStore
from sepkit.errors import ConnectionClosed, FrameError, InternalError
from sepkit.faces.mcp.dispatcher import Dispatcher
from sepkit.faces.mcp.protocol import (
    CANCELLING,
    CAPABILITIES,
    CLIENT,
    DETAILS,
    LEGACY,
    LOG_LEVEL,
    MODERN,
    NEWEST_LEGACY,
    PAGES,
    SERVER,
    VERSION,
)
from sepkit.peer import Peer
from sepkit.serving.served import GRACE, MAX_CONCURRENCY, Served
from sepkit.testing.clock import VirtualClockLoop
from sepkit.testing.logs import LogToHost
from sepkit.transports.base import Receiver, Transport
from sepkit.transports.memory import MemoryTransport, memory_pair
from sepkit.transports.process import ChildProcess

C = TypeVar("C", bound="McpClient")

Era = Literal["legacy", "modern"]
FormAnswer = str | bool | int | float | Mapping[str, Any] | None
"""A value of a form's one field, or its whole content; None where it was dismissed.

A mapping that has an ``action`` is the client's whole answer.
"""
Forms = (
    Mapping[str, FormAnswer | Sequence[FormAnswer]]
    | Callable[[dict[str, Any]], FormAnswer | Awaitable[FormAnswer]]
    | None
)
"""How questions are answered: by message, by kind (``confirm``, ``input``, ``select``, ``form``, ``open_url``), or by a
function of the params."""
OnProgress = Callable[[dict[str, Any]], object]
Direction = Literal["sent", "received"]

_MOST_ROUNDS: Final = 10
_END_SECONDS: Final = 20.0


class McpResult:
    """The result of a tool's call.

    Attributes:
        raw: As it came.
    """

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    @property
    def content(self) -> list[dict[str, Any]]:
        """The blocks of content."""
        return list(self.raw["content"])

    @property
    def text(self) -> str:
        """The text of all blocks that are text, a line for each."""
        return "\n".join(block["text"] for block in self.content if block["type"] == "text")

    @property
    def structured(self) -> Any:
        """The structured content; None where there is none."""
        return self.raw.get("structuredContent")

    @property
    def is_error(self) -> bool:
        """Whether the call failed."""
        return bool(self.raw.get("isError"))

    @property
    def details(self) -> Any:
        """The details of a ``ToolResult``; None where there are none."""
        return self.raw.get("_meta", {}).get(DETAILS)

    def __repr__(self) -> str:
        return f"McpResult({self.raw!r})"


class McpClient:
    """An MCP client. Within the block the server has been greeted; at its end the server has ended.

    Args:
        server: An App, which is served in memory; or a command, whose process is started.
        era: ``"modern"``: revision 2026-07-28, without a handshake; ``"legacy"``: one with a handshake.
        version: Which of those; the newest by default.
        forms: How the server's questions are answered; with None the client says that it cannot ask.
        capabilities: What else the client says that it can do.
        flags: The values of the App's flags.
        timeout: Seconds for each request.
        max_concurrency: Calls at once, of an App.
        grace: Seconds for the App to end in.
        cwd: Where the command starts.
        env: The command's environment; this process's by default.
        on_frame: Called with each frame, and whether it was sent or received.
    """

    def __init__(
        self,
        server: App | Sequence[str],
        *,
        era: Era = "modern",
        version: str | None = None,
        forms: Forms = None,
        capabilities: Mapping[str, Any] | None = None,
        flags: Mapping[str, Any] | None = None,
        timeout: float = 120.0,
        max_concurrency: int = MAX_CONCURRENCY,
        grace: float = GRACE,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        on_frame: Callable[[Direction, dict[str, Any]], object] | None = None,
    ) -> None:
        known = {"legacy": LEGACY, "modern": (MODERN,)}
        version = version or {"legacy": NEWEST_LEGACY, "modern": MODERN}[era]
        if version not in known[era]:
            raise ValueError(f"version={version!r}: the {era} ones are {', '.join(known[era])}")
        self.version: Final = version
        self.era: Final = era
        self.app = server if isinstance(server, App) else None
        self.notifications: list[tuple[str, dict[str, Any]]] = []
        """Method and params of each notification that has come."""
        self.asked: list[dict[str, Any]] = []
        """The params of each form that the server has asked for."""
        self.server: dict[str, Any] = {}
        """The server's name and version."""
        self.server_capabilities: dict[str, Any] = {}
        """What the server said that it can do."""
        self.instructions: str | None = None
        """What the server tells models of itself."""
        self.dispatcher: Dispatcher | None = None
        """What serves the App; None for a command."""
        self.exit_code: int | None = None
        """How the command's process has ended."""
        self._command = None if isinstance(server, App) else list(server)
        self._forms = forms
        self._capabilities = dict(capabilities or {})
        if forms is not None:
            self._capabilities.setdefault("elicitation", {"form": {}, "url": {}} if version in PAGES else {})
        self._flags = flags
        self._timeout = timeout
        self._options: dict[str, Any] = {"max_concurrency": max_concurrency}
        self._grace = grace
        self._cwd, self._env = cwd, env
        self._on_frame = on_frame
        self._log_level: str | None = None
        answers: Mapping[str, Any] = forms if isinstance(forms, Mapping) else {}
        self._scripts = {key: iter(value) for key, value in answers.items() if _is_list(value)}
        self._tokens = itertools.count(1)
        self._progress: dict[str | int, OnProgress] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._faults: list[BaseException] = []
        self._listening: list[asyncio.Task[Any]] = []
        self._peer: Peer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._theirs: MemoryTransport | None = None
        self._child: ChildProcess | None = None
        self._log: LogToHost | None = None

    # -- the life ------------------------------------------------------------------------------------------------------

    async def __aenter__(self: C) -> C:
        if self._peer is not None:
            raise RuntimeError("an McpClient lives once; make another one")
        self._peer = Peer(
            _Tapped(self._connect(), self._seen, self._sent),
            routes={"elicitation/create": self._elicit, "ping": _pong},
            cancelling=CANCELLING,
            answers_unreadable=False,
        )
        self._peer.start()
        try:
            await (self._initialize() if self.era == "legacy" else self._discover())
        except BaseException:
            await self._close()
            raise
        return self

    def _connect(self) -> Transport:
        if self._command is not None:
            self._child = ChildProcess(self._command, cwd=self._cwd, env=self._env)
            return self._child.transport
        assert self.app is not None
        app = self.app
        loop = asyncio.get_running_loop()
        ours, theirs = memory_pair()
        self._theirs = theirs
        served = Served(app, backend=lambda: LocalBackend(app.name, None), **self._options)
        dispatcher = Dispatcher(
            served, theirs, store=lambda: KvStore(None), flags=self._flags, root=os.getcwd(), grace=self._grace
        )
        if isinstance(loop, VirtualClockLoop):
            served.watch.stop()  # it beats on the loop's clock, which would never stand still
        self.dispatcher = dispatcher
        self._log = LogToHost(dispatcher.link, logging.INFO, all_that_is_made=True)
        self._serving = loop.create_task(dispatcher.serve(), name="sepkit mcp test client")
        self._serving.add_done_callback(lambda _: self._look())
        return ours

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()
        if self._serving is not None and self._serving.done() and (failure := self._serving.exception()) is not None:
            self._faults.append(failure)
        if error is None and self._faults:
            raise self._faults[0]

    async def _close(self) -> None:
        assert self._peer is not None
        try:
            await self._end()
        finally:
            for task in self._listening:
                task.cancel()
            if self._log is not None:
                self._log.close()
                self._log = None

    async def _end(self) -> None:
        """End the server as clients do: by end-of-file, and wait until it has ended."""
        assert self._peer is not None
        if self._child is not None:
            self.exit_code = await self._child.stop(grace=_END_SECONDS)
            return
        if self._serving is not None and self._theirs is not None:
            for _ in range(3):  # what has been sent comes first
                await asyncio.sleep(0)
            self._theirs.end_input()
            _, left = await asyncio.wait([self._serving], timeout=self._grace + _END_SECONDS)
            if left:
                self._serving.cancel()
                raise InternalError(f"the server has not ended within {self._grace + _END_SECONDS:g} s of end-of-file")
        await self._peer.aclose()

    async def _initialize(self) -> None:
        result = await self.request(
            "initialize",
            {
                "protocolVersion": self.version,
                "capabilities": self._capabilities,
                "clientInfo": {"name": "sepkit.testing", "version": __version__},
            },
        )
        self._take_greeting(result, result["serverInfo"])
        self.notify("notifications/initialized")

    async def _discover(self) -> None:
        result = await self.request("server/discover")
        self._take_greeting(result, result["_meta"][SERVER])

    def _take_greeting(self, result: dict[str, Any], server: dict[str, Any]) -> None:
        self.server = server
        self.server_capabilities = result["capabilities"]
        self.instructions = result.get("instructions")

    # -- asking --------------------------------------------------------------------------------------------------------

    async def request(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Send a request; its result, as it came. Cancelled, it tells the server so.

        Args:
            method: The method.
            params: Its params; what revision 2026-07-28 wants in ``_meta`` is added, unless it is there.
            on_progress: Told of the request's progress: the params of each notification.
            timeout: Seconds until it is given up.

        Raises:
            RpcError: The server answered with an error.
            RequestTimeout: It did not answer in time.
        """
        sent = dict(params or {})
        meta = {**self._meta(), **sent.get("_meta", {})}
        token = None
        if on_progress is not None:
            token = meta["progressToken"] = f"t{next(self._tokens)}"
            self._progress[token] = on_progress
        if meta:
            sent["_meta"] = meta
        try:
            found = await self._alive().request(method, sent, timeout=self._timeout if timeout is None else timeout)
        finally:
            if token is not None:
                del self._progress[token]
        result: dict[str, Any] = found
        return result

    def _meta(self) -> dict[str, Any]:
        if self.era == "legacy":
            return {}
        meta: dict[str, Any] = {
            VERSION: self.version,
            CAPABILITIES: self._capabilities,
            CLIENT: {"name": "sepkit.testing", "version": __version__},
        }
        if self._log_level is not None:
            meta[LOG_LEVEL] = self._log_level
        return meta

    def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification."""
        self._alive().notify(method, dict(params or {}))

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        on_progress: OnProgress | None = None,
        timeout: float | None = None,
    ) -> McpResult:
        """Call a tool, and answer what it asks on the way.

        Raises:
            RpcError: There is no such tool, or the request was refused.
        """
        params = {"name": name, "arguments": dict(arguments or {})}
        return McpResult(await self._rounds("tools/call", params, on_progress, timeout))

    async def get_prompt(self, name: str, arguments: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """The messages of a prompt: a role and content each."""
        params = {"name": name, "arguments": dict(arguments or {})}
        result = await self._rounds("prompts/get", params, None, None)
        return list(result["messages"])

    async def _rounds(
        self, method: str, params: dict[str, Any], on_progress: OnProgress | None, timeout: float | None
    ) -> dict[str, Any]:
        sent = params
        for _ in range(_MOST_ROUNDS):
            result = await self.request(method, sent, on_progress=on_progress, timeout=timeout)
            if result.get("resultType") != "input_required":
                return result
            asked = result.get("inputRequests", {})
            answers = await asyncio.gather(*(self._elicit(one["params"]) for one in asked.values()))
            sent = {**params, "inputResponses": dict(zip(asked, answers, strict=True))}
            if "requestState" in result:
                sent["requestState"] = result["requestState"]
        raise InternalError(f"{method}: the server still asks after {_MOST_ROUNDS} rounds")

    async def list_tools(self) -> list[dict[str, Any]]:
        """The tools, as they are listed."""
        return await self._list("tools/list", "tools")

    async def list_prompts(self) -> list[dict[str, Any]]:
        """The prompts, as they are listed."""
        return await self._list("prompts/list", "prompts")

    async def list_resources(self) -> list[dict[str, Any]]:
        """The resources, as they are listed."""
        return await self._list("resources/list", "resources")

    async def list_resource_templates(self) -> list[dict[str, Any]]:
        """The templates of resources, as they are listed."""
        return await self._list("resources/templates/list", "resourceTemplates")

    async def _list(self, method: str, member: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {}
        while True:
            result = await self.request(method, params)
            found += result[member]
            if "nextCursor" not in result:
                return found
            params = {"cursor": result["nextCursor"]}

    async def read_resource(self, uri: str) -> list[dict[str, Any]]:
        """The contents of a resource."""
        return list((await self._rounds("resources/read", {"uri": uri}, None, None))["contents"])

    async def complete(self, prompt: str, argument: str, value: str) -> list[str]:
        """What completes an argument of a prompt."""
        params = {"ref": {"type": "ref/prompt", "name": prompt}, "argument": {"name": argument, "value": value}}
        return list((await self.request("completion/complete", params))["completion"]["values"])

    async def set_log_level(self, level: str) -> None:
        """Have the server send log messages from this level on: all of them, or those of the requests that follow."""
        if self.era == "legacy":
            await self.request("logging/setLevel", {"level": level})
        else:
            self._log_level = level

    async def listen(
        self, *, tools: bool = False, prompts: bool = False, resources: bool = False, uris: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Open a stream of changes until the block ends (modern); what the server honours of it."""
        wanted: dict[str, Any] = {}
        if tools:
            wanted["toolsListChanged"] = True
        if prompts:
            wanted["promptsListChanged"] = True
        if resources:
            wanted["resourcesListChanged"] = True
        if uris:
            wanted["resourceSubscriptions"] = list(uris)
        before = len(self.told("notifications/subscriptions/acknowledged"))
        work = self.request("subscriptions/listen", {"notifications": wanted}, timeout=86_400)
        task = asyncio.get_running_loop().create_task(work)
        self._listening.append(task)
        task.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        await self.until(lambda: len(self.told("notifications/subscriptions/acknowledged")) > before or task.done())
        if task.done():
            await task
        found: dict[str, Any] = self.told("notifications/subscriptions/acknowledged")[-1]["notifications"]
        return found

    # -- what comes ----------------------------------------------------------------------------------------------------

    def told(self, method: str) -> list[dict[str, Any]]:
        """The params of the notifications with this method, so far."""
        return [params for name, params in self.notifications if name == method]

    async def until(self, found: Callable[[], object], *, timeout: float | None = None) -> None:
        """Wait until ``found()`` is true; it is asked now, and again whenever something has come from the server.

        Raises:
            TimeoutError: It was not, within ``timeout`` seconds.
            ConnectionClosed: The server has ended first.
        """
        async with asyncio.timeout(self._timeout if timeout is None else timeout):
            while not found():
                if self._serving is not None and self._serving.done():
                    raise ConnectionClosed("the server has ended, and nothing more will come from it")
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(waiter)
                await waiter

    def _alive(self) -> Peer:
        if self._peer is None:
            raise RuntimeError("this McpClient has not begun; write `async with McpClient(app) as client`")
        return self._peer

    def _show(self, direction: Direction, frame: dict[str, Any]) -> None:
        if self._on_frame is not None:
            try:
                self._on_frame(direction, frame)
            except Exception as error:
                self._faults.append(error)

    def _sent(self, data: bytes) -> None:
        for line in data.splitlines():
            self._show("sent", orjson.loads(line))

    def _seen(self, line: bytes) -> None:
        found = orjson.loads(line)
        for frame in found if isinstance(found, list) else [found]:
            self._show("received", frame)
            if "method" in frame and "id" not in frame:
                params = frame.get("params", {})
                self.notifications.append((frame["method"], params))
                if frame["method"] == "notifications/progress":
                    told = self._progress.get(params["progressToken"])
                    if told is not None:
                        told(params)
        asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def _elicit(self, params: dict[str, Any]) -> dict[str, Any]:
        """The client's answer to a form."""
        self.asked.append(params)
        try:
            answer = await self._answer(params)
        except Exception as error:
            self._faults.append(error)
            answer = None
        if isinstance(answer, Mapping):
            return dict(answer) if "action" in answer else {"action": "accept", "content": dict(answer)}
        if params.get("mode") == "url":
            return {"action": "accept" if answer else "decline" if answer is False else "cancel"}
        return {"action": "cancel"} if answer is None else {"action": "accept", "content": {"value": answer}}

    async def _answer(self, params: dict[str, Any]) -> FormAnswer:
        if callable(self._forms):
            answer = self._forms(params)
            return await answer if inspect.isawaitable(answer) else answer
        kind = _kind(params)
        for key in (params["message"], kind):
            if key in self._scripts:
                try:
                    return cast("FormAnswer", next(self._scripts[key]))
                except StopIteration:
                    raise LookupError(f"forms=: there is no answer left for {key!r}") from None
            if self._forms is not None and key in self._forms:
                return cast("FormAnswer", self._forms[key])  # a sequence is in the scripts
        raise LookupError(f"forms=: nothing answers {params['message']!r}, nor {kind!r}")


def _kind(params: Mapping[str, Any]) -> str:
    if params.get("mode") == "url":
        return "open_url"
    fields = list(params["requestedSchema"]["properties"].values())
    if len(fields) != 1:
        return "form"
    return "confirm" if fields[0]["type"] == "boolean" else "select" if "enum" in fields[0] else "input"


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


async def _pong(params: dict[str, Any]) -> object:
    return {}


class _Tapped:
    """A transport and its receiver, with a look at what goes out and comes in."""

    def __init__(self, inner: Transport, seen: Callable[[bytes], None], sent: Callable[[bytes], None]) -> None:
        self._inner = inner
        self._seen = seen
        self._sent = sent
        self.drain = inner.drain
        self.aclose = inner.aclose

    @property
    def congested(self) -> bool:
        return self._inner.congested

    @congested.setter
    def congested(self, value: bool) -> None:
        raise AttributeError("congested is the transport's own")

    def write(self, data: bytes) -> None:
        self._sent(data)
        self._inner.write(data)

    def write_long(self, parts: Sequence[bytes]) -> None:
        self.write(b"".join(parts))

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._inner.start(self)

    def frames_received(self, lines: list[bytes | FrameError]) -> None:
        for line in lines:
            if isinstance(line, bytes) and line.strip():
                self._seen(line)
        self._receiver.frames_received(lines)

    def input_ended(self) -> None:
        self._receiver.input_ended()

    def connection_lost(self, error: Exception | None) -> None:
        self._receiver.connection_lost(error)
