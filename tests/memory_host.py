"""A host in memory: an App behind a real Dispatcher, with lines of bytes between them.

Whatever a test is about, the host fails it where an id is answered twice or was never asked, where a line is no frame,
where the loop hears of an exception that nobody caught, and where a task outlives the connection.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Any, Final

import orjson

from sepkit import App
from sepkit.errors import FrameError, RpcError
from sepkit.faces.log import WireHandler
from sepkit.faces.runner import LoopKind, new_loop
from sepkit.faces.sep.dispatcher import Dispatcher
from sepkit.faces.sep.link import SepLink
from sepkit.serving.served import GRACE, Served
from sepkit.transports.memory import memory_pair
from sepkit.wire import frames

CONTEXT: Final = {"token": "epoch-1", "tier": "command"}
EVENT_CONTEXT: Final = {"token": "epoch-1", "tier": "event"}
HANDSHAKE: Final[dict[str, Any]] = {
    "protocol_version": 1,
    "host": {"name": "memory", "version": "1"},
    "workspace": {"root": "/", "trusted": True},
    "mode": "cli",
}
PATIENCE: Final = 20.0  # seconds; the machine may be busy with something else

SILENT: Final = object()
"""In the table of answers: the request is never answered."""


class Malformed:
    """In the table of answers: a response with these fields beside its id, whatever they are."""

    def __init__(self, **fields: object) -> None:
        self.fields = fields


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of an ``async def``, that runs on each kind of loop."""

    @functools.wraps(test)
    def on_a_loop(*args: Any, loop_kind: LoopKind, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=lambda: new_loop(loop_kind)) as runner:
            runner.run(asyncio.wait_for(test(*args, **kwargs), 2 * PATIENCE))

    signature = inspect.signature(test)
    loop = inspect.Parameter("loop_kind", inspect.Parameter.KEYWORD_ONLY)
    on_a_loop.__signature__ = signature.replace(  # type: ignore[attr-defined]  # how pytest learns of the fixture
        parameters=[*signature.parameters.values(), loop]
    )
    return on_a_loop


class MemoryHost:
    """The host of one App. Within the block it has shaken hands; at its end the App has ended.

    Args:
        app: What is served.
        answers: What each method is answered with: a result, an ``RpcError``, ``Malformed``, ``SILENT``, or a function
            of the params (a coroutine function, too) that gives one. What is not in it is answered with -32601.
        handshake: What differs from the usual ``initialize``; None leaves it to the test.
        log: Whether ``logging`` reaches the host, as under ``sepkit run``.
        served: How it is served already, by other connections; None: by this one alone.
        grace: Of the Dispatcher.
        options: Of the Served.
    """

    def __init__(
        self,
        app: App,
        answers: Mapping[str, object] | None = None,
        *,
        handshake: Mapping[str, Any] | None = HANDSHAKE,
        log: bool = False,
        served: Served | None = None,
        grace: float = GRACE,
        **options: Any,
    ) -> None:
        self.answers: dict[str, object] = dict(answers or {})
        self.lines: list[bytes] = []
        """Each line that the extension wrote."""
        self.frames: list[frames.Frame] = []
        """The same, decoded."""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        """The requests of the extension."""
        self.told: list[tuple[str, dict[str, Any]]] = []
        """The notifications of the extension."""
        self.errors: list[dict[str, Any]] = []
        """The errors without an id."""
        self.initialized: dict[str, Any] = {}
        """The result of ``initialize``."""
        self._handshake = None if handshake is None else {**HANDSHAKE, **handshake}
        self._log = log
        self._log_handler: WireHandler | None = None
        self._log_level = 0
        self._next_id = 0
        self._answers: dict[frames.Id, asyncio.Future[frames.Frame]] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._uncaught: list[dict[str, Any]] = []
        self._answering: set[asyncio.Task[None]] = set()
        self._looked_at_end = False
        self._ours, self._theirs = memory_pair()
        self.served = served or Served(app, **options)
        self.dispatcher = Dispatcher(self.served, self._theirs, grace=grace, on_ready=self._ready)

    # -- the life ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> MemoryHost:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self._uncaught.append(context))
        self._not_ours = asyncio.all_tasks()
        self._ours.start(self)
        self._serving = self._loop.create_task(self.dispatcher.serve())
        if self._handshake is not None:
            self.initialized = await self.ask("initialize", self._handshake)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._theirs.end_input()
        await asyncio.wait([self._serving], timeout=PATIENCE)
        await self._ours.aclose()
        for task in self._answering:
            task.cancel()
        if self._log_handler is not None:
            logging.getLogger().removeHandler(self._log_handler)
            logging.getLogger().setLevel(self._log_level)
        if kind is not None:
            return
        assert self._serving.done(), "the extension did not end"
        if not self._looked_at_end and (failure := self._serving.exception()) is not None:
            raise failure
        for _ in range(3):
            await asyncio.sleep(0)
        assert not self._uncaught, self._uncaught
        left = asyncio.all_tasks() - self._not_ours
        assert not left, f"still running: {left}"

    async def end(self) -> Exception | None:
        """Wait until the extension has ended, by itself or because it was asked to; what ``serve`` raised."""
        self._looked_at_end = True
        await asyncio.wait([self._serving], timeout=PATIENCE)
        failure = self._serving.exception()
        assert failure is None or isinstance(failure, Exception)
        return failure

    def pause_reading(self) -> None:
        """Take nothing more from the extension."""
        self._ours.pause_reading()

    def resume_reading(self) -> None:
        """Take what waits, and go on."""
        self._ours.resume_reading()

    def end_input(self) -> None:
        """Send end-of-file."""
        self._theirs.end_input()

    def _ready(self, link: SepLink) -> None:
        if self._log:
            root = logging.getLogger()
            self._log_handler, self._log_level = WireHandler(link), root.level
            root.addHandler(self._log_handler)
            root.setLevel(logging.INFO)

    # -- in: the receiver of the transport -----------------------------------------------------------------------------

    def frames_received(self, lines: list[bytes | FrameError]) -> None:
        for line in lines:
            assert isinstance(line, bytes), line
            frame = frames.decode(line)
            self.lines.append(line)
            self.frames.append(frame)
            if "method" not in frame:
                self._answered(frame)
            elif "id" in frame:
                self.asked.append((frame["method"], frame["params"]))
                self._scripted(frame["id"], frame["method"], frame["params"])
            else:
                self.told.append((frame["method"], frame["params"]))
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    def input_ended(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None: ...

    def _answered(self, frame: frames.Frame) -> None:
        rid = frame["id"]
        if rid is None:
            self.errors.append(frame["error"])
            return
        assert rid in self._answers, f"an answer to what was never asked: {frame}"
        assert not self._answers[rid].done(), f"a second answer: {frame}"
        self._answers[rid].set_result(frame)

    def _scripted(self, rid: frames.Id, method: str, params: dict[str, Any]) -> None:
        answer = self.answers.get(method, RpcError(f"no method {method!r}", code=-32601))
        try:
            if callable(answer):
                answer = answer(params)
        except RpcError as error:
            answer = error
        if inspect.iscoroutine(answer):
            task = self._loop.create_task(self._reply_later(rid, answer))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        else:
            self._reply(rid, answer)

    async def _reply_later(self, rid: frames.Id, answer: Coroutine[Any, Any, object]) -> None:
        try:
            self._reply(rid, await answer)
        except RpcError as error:
            self._reply(rid, error)

    def _reply(self, rid: frames.Id, answer: object) -> None:
        if isinstance(answer, RpcError):
            self._ours.write(frames.encode_error(rid, answer.code, answer.message, answer.data))
        elif isinstance(answer, Malformed):
            self.send({"jsonrpc": "2.0", "id": rid, **answer.fields})
        elif answer is not SILENT:
            self._ours.write(frames.encode_result(rid, answer))

    # -- out -----------------------------------------------------------------------------------------------------------

    def send(self, *sent: object) -> None:
        """Send frames, all in one piece."""
        for frame in sent:
            if isinstance(frame, dict) and "method" in frame and "id" in frame:
                self._answers[frame["id"]] = self._loop.create_future()
        self._ours.write(b"".join(orjson.dumps(frame) + b"\n" for frame in sent))

    def frame(self, method: str, params: object) -> dict[str, Any]:
        """A request with an id of its own, to be sent."""
        self._next_id += 1
        return {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params}

    def start(self, method: str, params: object) -> int:
        """Send a request; its id."""
        frame = self.frame(method, params)
        self.send(frame)
        return self._next_id

    def notify(self, method: str, params: object) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def cancel(self, rid: int) -> None:
        """Cancel a request."""
        self.notify("$/cancel", {"id": rid})

    async def answer(self, rid: int) -> frames.Frame:
        """The answer to a request."""
        return await asyncio.wait_for(asyncio.shield(self._answers[rid]), PATIENCE)

    def is_answered(self, rid: int) -> bool:
        """Whether the answer to a request has come."""
        return self._answers[rid].done()

    async def ask(self, method: str, params: object) -> Any:
        """Send a request; its result. An error fails the test."""
        answer = await self.answer(self.start(method, params))
        assert "result" in answer, f"{method} was answered with {answer['error']}"
        return answer["result"]

    async def refused(self, method: str, params: object) -> dict[str, Any]:
        """Send a request that must be answered with an error; the error."""
        answer = await self.answer(self.start(method, params))
        assert "error" in answer, f"{method} was answered with {answer['result']}"
        error: dict[str, Any] = answer["error"]
        return error

    def start_tool(self, tool: str, /, **arguments: object) -> int:
        """Call a tool; the request's id. Its ``call_id`` is ``call-<id>``."""
        call_id = f"call-{self._next_id + 1}"
        params = {"call_id": call_id, "tool": tool, "arguments": arguments, "context": CONTEXT}
        return self.start("tool/execute", params)

    async def tool(self, tool: str, /, **arguments: object) -> dict[str, Any]:
        """Call a tool; its result."""
        answer = await self.answer(self.start_tool(tool, **arguments))
        assert "result" in answer, f"the tool {tool} was answered with {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def event(self, event: str, payload: object = None, **fields: object) -> dict[str, Any]:
        """The frame of an event, to be sent."""
        params = {"event": event, "context": EVENT_CONTEXT, "payload": payload or {}, **fields}
        return {"jsonrpc": "2.0", "method": "event", "params": params}

    async def until(self, found: Callable[[], bool]) -> None:
        """Wait until something is so; it is looked at after each write of the extension."""
        async with asyncio.timeout(PATIENCE):
            while not found():
                waiter: asyncio.Future[None] = self._loop.create_future()
                self._waiting.append(waiter)
                await waiter

    async def ping(self) -> None:
        """Wait for the answer to a ping: what was sent before has been read, and what was written before has come."""
        assert await self.ask("ping", {}) == {}

    def told_of(self, method: str) -> list[dict[str, Any]]:
        """The params of the notifications with this method."""
        return [params for name, params in self.told if name == method]

    def asked_for(self, method: str) -> list[dict[str, Any]]:
        """The params of the requests with this method."""
        return [params for name, params in self.asked if name == method]
