"""Looks at each frame that the extension sends, on its way to the host's peer, and says what breaks the protocol.

A host would put up with most of it; a test should not. Nothing is changed or held back here, and what a frame brings
about is the peer's business.

Source: docs/protocol.md, sections 1 to 4 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sepkit.errors import FrameError, InvalidData
from sepkit.transports.base import Receiver, Transport
from sepkit.wire import frames, messages, methods
from sepkit.wire.converter import structure_exactly

_SHOWN: Final = 500  # characters of a frame that a message shows

# What the extension may send, and how. `bus/publish` goes either way (docs/protocol.md, section 9).
_NOTIFICATIONS: Final = frozenset(
    {methods.TOOL_UPDATE, methods.PROVIDER_DELTA, methods.LOG, methods.REGISTRY_UPDATE, methods.TASK_UPDATE}
    | {methods.BUS_PUBLISH, methods.CANCEL}
)
_REQUESTS: Final = frozenset(
    {methods.PING, methods.BUS_PUBLISH, methods.TOOLS_SET_ACTIVE, methods.UI_REQUEST, methods.EXEC_RUN}
    | {methods.KV_GET, methods.KV_SET, methods.KV_DELETE, methods.KV_LIST, methods.SESSION_SEND_MESSAGE}
    | {methods.SESSION_SEND_USER_MESSAGE, methods.SESSION_APPEND_ENTRY, methods.SESSION_SET_MODEL}
    | {methods.SESSION_STATE}
)


class ProtocolViolation(AssertionError):
    """The extension has sent what the protocol forbids. ``frame`` is what it sent, as text."""

    def __init__(self, problem: str, frame: str) -> None:
        shown = frame if len(frame) <= _SHOWN else f"{frame[:_SHOWN]}… ({len(frame)} characters)"
        super().__init__(f"the extension broke the protocol: {problem}\n  in the frame {shown}")
        self.problem = problem
        self.frame = frame


class InspectedTransport:
    """A transport of the host that looks at each frame which passes.

    Args:
        transport: Carries the frames.
        on_violation: Told of each one.
        on_frames: Called after what has come in was handed on.
    """

    def __init__(
        self, transport: Transport, on_violation: Callable[[ProtocolViolation], None], on_frames: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._on_violation = on_violation
        self._on_frames = on_frames
        self._receiver: Receiver
        self._asked: dict[frames.Id, tuple[str, dict[str, Any]]] = {}  # by the host, not answered yet
        self._answered: set[frames.Id] = set()
        self._in_flight: set[frames.Id] = set()  # asked by the extension, not answered yet

    # -- the transport -------------------------------------------------------------------------------------------------

    def start(self, receiver: Receiver) -> None:
        """Begin to deliver to ``receiver``."""
        self._receiver = receiver
        self._transport.start(self)

    def write(self, data: bytes) -> None:
        """Send whole lines."""
        for line in data.splitlines():
            frame = frames.decode(line)
            if "method" not in frame:
                self._in_flight.discard(frame["id"])
            elif "id" in frame:
                self._asked[frame["id"]] = (frame["method"], frame["params"])
        self._transport.write(data)

    def write_long(self, parts: Sequence[bytes]) -> None:
        """Send one line that comes in parts."""
        self.write(b"".join(parts))

    @property
    def congested(self) -> bool:
        """Whether the extension does not read what is sent."""
        return self._transport.congested

    @congested.setter
    def congested(self, value: bool) -> None:
        self._transport.congested = value

    async def drain(self) -> None:
        """Wait while congested."""
        await self._transport.drain()

    async def aclose(self) -> None:
        """Send what waits, then close."""
        await self._transport.aclose()

    # -- the receiver --------------------------------------------------------------------------------------------------

    def frames_received(self, lines: list[bytes | FrameError]) -> None:
        """Look at each line, then hand all of them on."""
        for line in lines:
            problem = self._problem(line)
            if problem is not None:
                text = line.decode("utf-8", "backslashreplace") if isinstance(line, bytes) else "(not kept)"
                self._on_violation(ProtocolViolation(problem, text))
        self._receiver.frames_received(lines)
        self._on_frames()

    def input_ended(self) -> None:
        """The extension sends no more."""
        self._receiver.input_ended()
        self._on_frames()

    def connection_lost(self, error: Exception | None) -> None:
        """Nothing comes in or goes out any more."""
        self._receiver.connection_lost(error)
        self._on_frames()

    # -- the rules -----------------------------------------------------------------------------------------------------

    def _problem(self, line: bytes | FrameError) -> str | None:
        """What is wrong with a line; None where nothing is."""
        if isinstance(line, FrameError):
            return str(line)
        try:
            frame = frames.decode(line)
        except FrameError as error:
            return f"it is no frame: {error}"
        try:
            if "method" not in frame:
                return self._problem_of_answer(frame)
            return self._problem_of_question(frame)
        except InvalidData as error:
            return f"it does not fit its schema: {error}"

    def _problem_of_answer(self, frame: frames.Frame) -> str | None:
        rid = frame.get("id")
        if frame.get("jsonrpc") != "2.0" or ("result" in frame) is ("error" in frame):
            return 'an answer has "jsonrpc": "2.0", an id, and either a result or an error'
        if rid is None:
            return f"it refuses what the host has sent: {frame.get('error')}"
        if not frames.is_id(rid) or rid not in self._asked:
            if rid in self._answered:
                return f"a second answer to the request {rid!r}"
            return f"an answer to {rid!r}, which was never asked"
        method, _ = self._asked.pop(rid)
        self._answered.add(rid)
        if "result" in frame:
            structure_exactly(frame["result"], messages.RESULTS[method])
            return None
        error = frame["error"]
        if type(error) is dict and type(error.get("code")) is int and type(error.get("message")) is str:
            return None
        return "an error has a code, which is an integer, and a message, which is a string"

    def _problem_of_question(self, frame: frames.Frame) -> str | None:
        method, params = frame["method"], frame.get("params", {})
        is_request = "id" in frame
        if is_request:
            if frame["id"] in self._in_flight:
                return f"a second request with the id {frame['id']!r}, while the first waits for its answer"
            self._in_flight.add(frame["id"])
        if method not in _REQUESTS | _NOTIFICATIONS:
            return f"an extension sends no {method!r}"
        if method not in (_REQUESTS if is_request else _NOTIFICATIONS):
            return f"{method!r} is {'no request' if is_request else 'a request, and must have an id'}"
        structure_exactly(params, messages.PARAMS[method])
        if method == methods.PROVIDER_DELTA:
            structure_exactly(params["event"], messages.StreamEvent)
            return self._unless_running("request_id", params)
        return self._unless_running("call_id", params) if method == methods.TOOL_UPDATE else None

    def _unless_running(self, name: str, params: dict[str, Any]) -> str | None:
        if any(asked.get(name) == params[name] for _, asked in self._asked.values()):
            return None
        return f"no call with the {name} {params[name]!r} is running"
