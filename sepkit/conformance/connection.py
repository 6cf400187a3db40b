"""One process of the extension, and every line to and from it.

Raw lines and plain frames: nothing is checked here but which answer belongs to which request. What was said is kept in
order, for whoever judges it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from sepkit import __version__
from sepkit.conformance.host import Answer, PlainHost, error
from sepkit.conformance.requirements import Violation
from sepkit.errors import Code
from sepkit.transports.process import SpawnError

if TYPE_CHECKING:
    from sepkit.conformance.subject import Subject

Frame = dict[str, Any]
STDERR_BYTES: Final = 4096
MOST_BYTES: Final = 64 * 1024 * 1024
MOST_LINES: Final = 20_000
"""Past one of these, an extension that writes without end is read no further."""
_UNPARSED: Final = object()
_tokens = itertools.count(1)


@frozen
class Patience:
    """How long is waited, in seconds, before something counts as not done."""

    factor: float = 1.0

    @property
    def handshake(self) -> float:
        """For the answer to ``initialize``. Source: docs/protocol.md, section 2."""
        return 10.0 * self.factor

    @property
    def end(self) -> float:
        """For the answer to ``shutdown`` and for the exit. Source: docs/protocol.md, section 2."""
        return 5.0 * self.factor

    @property
    def answer(self) -> float:
        """For what needs no work of the extension's author: a ping, a refusal."""
        return 5.0 * self.factor

    @property
    def call(self) -> float:
        """For a tool, a hook, a command, a completion. Hosts wait longer, up to 120 s."""
        return 20.0 * self.factor


@frozen
class Line:
    """A line of the wire: without its end where it had one (``ended``), and as JSON where it is that."""

    sent: bool
    data: bytes
    frame: Any
    ended: bool = True

    @property
    def is_json(self) -> bool:
        """Whether it is JSON in UTF-8."""
        return self.frame is not _UNPARSED

    @property
    def is_response(self) -> bool:
        """Whether it can only be meant as an answer."""
        return isinstance(self.frame, dict) and "method" not in self.frame

    @property
    def method(self) -> str | None:
        """The method of a request or a notification."""
        found = self.frame.get("method") if isinstance(self.frame, dict) else None
        return found if isinstance(found, str) else None


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def parsed(data: bytes) -> Any:
    """The JSON in ``data``, or a mark that there is none."""
    try:
        # A byte order mark is a fault of its own, and must not make everything else look wrong.
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _UNPARSED


def written(frame: Frame) -> bytes:
    """A frame's line, in UTF-8 as it is; escaped where it says back half of a surrogate pair, which UTF-8 has not."""
    try:
        return json.dumps(frame, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(frame).encode()


def key(rid: object) -> tuple[type, object]:
    """What tells ids apart: 1, true, 1.0 and "1" are four things on the wire."""
    return type(rid), rid if isinstance(rid, int | float | str | None) else json.dumps(rid)


def initialize_params(**changes: object) -> Frame:
    """The params of ``initialize``, as a host that has a bit of everything sends them."""
    return {
        "protocol_version": 1,
        "host": {"name": "sepkit-conformance", "version": __version__},
        "workspace": {"root": str(Path.cwd()), "trusted": True},
        "session": {"id": "conformance"},
        "mode": "tui",
        "ui_capabilities": ["select", "confirm", "input", "notify", "set_status", "set_widget", "set_title"],
        "flags": {},
        "capabilities_enabled": {"exec": False},
        **changes,
    }


class Connection:
    """A running extension.

    Args:
        command: What to spawn.
        subject: What is known of the extension.
        patience: How long to wait.
        cwd: Where it starts.

    Raises:
        SpawnError: It could not be started.
    """

    def __init__(
        self, command: Sequence[str], subject: Subject, *, patience: Patience, cwd: Path | str | None = None
    ) -> None:
        self.patience = patience
        self.subject = subject
        self.log: list[Line] = []
        self._answers: dict[tuple[type, object], list[Frame]] = {}
        self.mark = 0  # where in the log the check began that is running now
        self.asked: dict[tuple[type, object], list[bytes]] = {}  # the lines that were sent with an id, by it
        self.hostile = 0  # lines sent that are no frames: each may be answered under a null id
        self.contexts: dict[str, str] = {}  # token: tier
        self.host = PlainHost(self.acts)
        self.refusal: Callable[[str, Frame], Answer | None] = lambda method, params: None
        self.holding = False
        self.held: list[Frame] = []
        self._numbers = itertools.count(1001)
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._partial = bytearray()
        self._unwritten = bytearray()
        self._stderr = bytearray()
        self._over = self._doomed = self._flooded = self.ended_by_itself = False
        self._taken = 0
        self._process = _spawn(command, cwd)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._in, self._out, self._err = self._process.stdin, self._process.stdout, self._process.stderr
        for pipe in (self._in, self._out, self._err):
            os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(self._out.fileno(), self._read)
        self._loop.add_reader(self._err.fileno(), self._read_stderr)

    # -- out -----------------------------------------------------------------------------------------------------------

    def send_raw(self, data: bytes, *, hostile: bool = False) -> None:
        """Send whole lines. ``hostile`` ones are no frames, and may be answered as such."""
        for line in data.removesuffix(b"\n").split(b"\n"):
            self.note(line)
            self.hostile += hostile
        self.write(data)

    def write(self, data: bytes) -> None:
        """Send bytes that the log does not hold: pieces of a line that :meth:`note` has put there."""
        if self._in.closed:
            return
        if not self._unwritten:
            self._loop.add_writer(self._in.fileno(), self._write)
        self._unwritten += data
        self._write()

    def _expect_answers(self, line: bytes, frame: Any) -> None:
        for one in frame if isinstance(frame, list) else [frame]:
            if isinstance(one, dict) and "id" in one and ("method" in one or not {"result", "error"} & one.keys()):
                self.asked.setdefault(key(one["id"]), []).append(line)

    def send(self, *frames: Frame) -> None:
        """Send frames, all in one write."""
        self.send_raw(b"".join(written(frame) + b"\n" for frame in frames))

    def sent(self, frame: Frame) -> Frame:
        """Send a frame, and give it back."""
        self.send(frame)
        return frame

    def note(self, line: bytes) -> None:
        """Put a line into the log that :meth:`write` sends in pieces."""
        data = line.removesuffix(b"\n")
        frame = parsed(data)
        self.log.append(Line(sent=True, data=data, frame=frame))
        self._expect_answers(data, frame)

    def new_id(self) -> int:
        """An id that no request has had."""
        return next(self._numbers)

    def request(self, method: str, params: object = None, *, rid: object = None, **more: object) -> Frame:
        """A request's frame, to be sent; with an id of its own unless it is given one."""
        number = self.new_id() if rid is None else rid
        return {"jsonrpc": "2.0", "id": number, "method": method, "params": {} if params is None else params, **more}

    def notify(self, method: str, params: object = None) -> None:
        """Send a notification."""
        self.send({"jsonrpc": "2.0", "method": method, "params": {} if params is None else params})

    def cancel(self, rid: object) -> Frame:
        """The frame that cancels a request."""
        return {"jsonrpc": "2.0", "method": "$/cancel", "params": {"id": rid}}

    def context(self, tier: str = "command") -> Frame:
        """A new context, told from all others by its token."""
        token = f"token-{next(_tokens)}"
        self.contexts[token] = tier
        return {"token": token, "tier": tier}

    def acts(self, given: object) -> bool:
        """Whether a context is one that was given here, of the tier that acts."""
        token = given.get("token") if isinstance(given, dict) else None
        return (
            isinstance(token, str)
            and self.contexts.get(token) == "command"
            and given
            == {
                "token": token,
                "tier": "command",
            }
        )

    # -- in ------------------------------------------------------------------------------------------------------------

    def answers(self, rid: object) -> list[Frame]:
        """All answers to a request so far."""
        return self._answers.get(key(rid), [])

    def answers_by_key(self, rid: tuple[type, object]) -> list[Frame]:
        """All answers under an id, told by what tells ids apart."""
        return self._answers.get(rid, [])

    def told(self, method: str, **about: object) -> list[Line]:
        """The notifications of a method since the check began that have this in their params."""
        return [
            x
            for x in self.log[self.mark :]
            if not x.sent
            and x.method == method
            and isinstance(params := x.frame.get("params"), dict)
            and all(params.get(name) == value for name, value in about.items())
        ]

    async def answer(self, frame: Frame, seconds: float | None = None) -> Frame:
        """The answer to a request that was sent.

        Raises:
            Violation: None came in time, or one under an id that only looks like it.
        """
        rid, method = frame["id"], frame["method"]
        limit = self.subject.limit(method, self.patience.answer if seconds is None else seconds)
        await self.until(lambda: bool(self.answers(rid) or self._lookalikes(rid)), limit)
        if found := self.answers(rid):
            return found[0]
        wanted = f"an answer to {method} with the id {json.dumps(rid)}"
        if alike := self._lookalikes(rid):
            raise Violation(wanted, f"one with the id {json.dumps(alike[0]['id'])}")
        if not self.over:
            self.subject.unanswered.add(method)
        raise Violation(wanted, await self.silence(limit))

    def _lookalikes(self, rid: object) -> list[Frame]:
        """Answers under the same digits in another type, which nothing was asked under."""
        other: object = str(rid) if type(rid) is int else int(rid) if isinstance(rid, str) and rid.isdecimal() else None
        alike = [key(other)] if other is not None else []
        if type(rid) is int:
            alike.append(key(float(rid)))
        return [answer for one in alike if one not in self.asked for answer in self._answers.get(one, [])]

    async def ask(self, method: str, params: object = None, seconds: float | None = None) -> Frame:
        """Send a request; its answer, a result or an error."""
        frame = self.request(method, params)
        self.send(frame)
        return await self.answer(frame, seconds)

    async def handshake(self) -> Frame:
        """Do the handshake; its answer."""
        return await self.ask("initialize", initialize_params(), self.patience.handshake)

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``condition`` holds; whether it does, at the latest after ``seconds`` or at the end of stdout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition() and not self._over:
                    self._waiter = self._loop.create_future()
                    await self._waiter
        return condition()

    async def alive(self) -> None:
        """Wait until it has read all that was sent to it so far.

        Raises:
            Violation: It has ended, or answers nothing any more.
        """
        if self.subject.fence is None:  # it answers nothing; so only its end can be seen
            await asyncio.sleep(0.3 * self.patience.factor)
            if self.over:
                raise Violation("that it lives on", await self.silence(0))
            return
        frame = self.fence()
        self.send(frame)
        if not await self.until(lambda: bool(self.answers(frame["id"])), self.patience.answer):
            raise Violation(
                f"that it lives on, and answers {frame['method']}", await self.silence(self.patience.answer)
            )

    async def settle(self) -> None:
        """Give it the occasion to say what it should not say: it has read everything, and had time after that."""
        await self.alive()
        await asyncio.sleep(0.02)
        await self.alive()

    def fence(self, rid: object = None) -> Frame:
        """A request that it answers without work."""
        unknown = self.subject.fence == "unknown"
        return self.request("conformance/unknown" if unknown else "ping", rid=rid)

    async def silence(self, seconds: float) -> str:
        """Why nothing comes: it has ended, or it took too long."""
        if self._flooded:
            return f"a flood: it wrote {self._taken} bytes in {len(self.log)} lines, and is not read from any more"
        if self._over:
            code = await self.exit(0.5)  # its stdout ends a little before it does
            how = "closed its stdout" if code is None else f"ended with exit code {code}"
            return f"the process {how}"
        return f"nothing within {seconds:g} s"

    def unasked(self) -> list[Frame]:
        """Answers to nothing that was asked, since the check began."""
        return [
            x.frame
            for x in self.log[self.mark :]
            if not x.sent and x.is_response and key(x.frame.get("id")) not in self.asked
        ]

    def since(self, *, sent: bool) -> list[bytes]:
        """The lines sent, or those that came, since the check began."""
        return [line.data for line in self.log[self.mark :] if line.sent is sent]

    def release(self) -> None:
        """Answer what was held back, and hold no more."""
        self.holding = False
        held, self.held = self.held, []
        for frame in held:
            self.reply(frame)

    def reply(self, frame: Frame) -> None:
        """Answer a request of the extension as a plain host does."""
        params = frame.get("params", {})
        given = self.refusal(frame["method"], params) or self.host.answer(frame["method"], params)
        try:
            self.send({"jsonrpc": "2.0", "id": frame["id"], **given})
        except RecursionError:  # it is asked for a value that was read in less depth than it can be written in
            self.send({"jsonrpc": "2.0", "id": frame["id"], **error(Code.INTERNAL_ERROR, "nested too deeply")})

    def _received(self, data: bytes, *, ended: bool = True) -> None:
        line = Line(sent=False, data=data, frame=parsed(data), ended=ended)
        self.log.append(line)
        if line.is_response:
            self._answers.setdefault(key(line.frame.get("id")), []).append(line.frame)
        if line.method is not None and "id" in line.frame:
            if self.holding and line.method != "ping":
                self.held.append(line.frame)
            else:
                self.reply(line.frame)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _read(self) -> None:
        try:
            data = os.read(self._out.fileno(), 262_144)
        except (BlockingIOError, InterruptedError):
            return
        *whole, rest = data.split(b"\n")
        for piece in whole[:MOST_LINES]:
            line = bytes(self._partial + piece)
            self._partial.clear()
            self._received(line)
        self._partial += rest
        self._taken += len(data)
        flooded = self._taken > MOST_BYTES or len(self.log) > MOST_LINES
        if flooded or not data:
            self._loop.remove_reader(self._out.fileno())
            if self._partial:
                self._received(bytes(self._partial), ended=False)
            self._over, self._flooded = True, flooded
            self._wake()

    def _read_stderr(self) -> None:
        try:
            data = os.read(self._err.fileno(), 65_536)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self._loop.remove_reader(self._err.fileno())
        self._stderr = (self._stderr + data)[-STDERR_BYTES:]

    def _write(self) -> None:
        try:
            count = os.write(self._in.fileno(), self._unwritten)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it is gone; its end is seen at stdout
            count = len(self._unwritten)
        del self._unwritten[:count]
        if not self._unwritten:
            self._loop.remove_writer(self._in.fileno())
            self._wake()

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nothing comes any more, or it must not be used any more."""
        return self._over or self._doomed

    def doom(self) -> None:
        """Say that it must not be used any more: something is missing that may still come."""
        self._doomed = True

    def now(self) -> float:
        """Seconds on the loop's clock."""
        return self._loop.time()

    @property
    def stderr(self) -> str:
        """The tail of what it said there."""
        return self._stderr.decode("utf-8", "replace")

    async def flushed(self) -> None:
        """Wait until it has taken every byte, or has ended."""
        await self.until(lambda: not self._unwritten, self.patience.answer)

    def end_input(self) -> None:
        """Close its stdin."""
        if not self._in.closed:
            if self._unwritten:
                self._loop.remove_writer(self._in.fileno())
                self._unwritten.clear()
            self._in.close()

    async def exit(self, seconds: float) -> int | None:
        """The exit code, as soon as it has exited; None after ``seconds``."""
        deadline, pause = self._loop.time() + seconds, 0.002
        while (code := self._process.poll()) is None and self._loop.time() < deadline:
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.02)
        return code

    async def aclose(self) -> None:
        """End it, and all of its session: first by the end of its stdin, then by force."""
        if self._err.closed:
            return
        try:
            self.end_input()
            await self.exit(0.5)
        finally:
            self.ended_by_itself = self._over and not self._flooded
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            if not self._over:
                with contextlib.suppress(OSError):
                    self._read()  # what it said last
            for pipe in (self._out, self._err):
                self._loop.remove_reader(pipe.fileno())
                pipe.close()


def _spawn(command: Sequence[str], cwd: Path | str | None) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(command),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        reason = error.strerror or str(error)
        where = (
            ""
            if os.sep in command[0] or error.filename == str(cwd)
            else f" (searched PATH: {os.environ.get('PATH', '')})"
        )
        raise SpawnError(f"cannot start {command[0]!r}: {reason}{where}") from None


def shown(lines: Iterable[bytes], most: int = 6, longest: int = 300) -> tuple[str, ...]:
    """Lines for the report: the last few of them, each shortened in its middle."""
    every = list(lines)
    made = [_shortened(line.decode("utf-8", "backslashreplace"), longest) for line in every[-most:]]
    return tuple([f"… {len(every) - most} lines before"] * (len(every) > most) + made)


def _shortened(text: str, longest: int) -> str:
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"
