"""The symmetric JSON-RPC connection: whoever is on either side may ask, and each question gets one answer.

A peer knows ids, what it waits for and what it works on. It knows no method but the one that cancels; what a method
means is the business of the handlers it is given. The reader never awaits a handler.

The four ends of a request, and who writes what:

================  ==================================================  ======================================
end               who asked (``_pending``)                            who was asked (``_inbound``)
================  ==================================================  ======================================
answered          takes the entry out, returns or raises              takes the entry out, writes the answer
cancelled         its task is cancelled: takes it out, sends the      the handler is cancelled; when it has
                  cancel; a late answer finds no entry                stopped, -32800 is written, where the wire has it
given up          time is over: the same, raises RequestTimeout       the same
connection gone   raises ConnectionClosed                             nothing is written
================  ==================================================  ======================================
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import Context, copy_context
from functools import partial
from sys import getrefcount
from typing import Any, Final
from weakref import getweakrefcount

from attrs import frozen

from sepkit.concurrency.cancelling import cancel
from sepkit.concurrency.eager import Starter
from sepkit.errors import (
    Code,
    ConnectionClosed,
    EncodeError,
    FrameError,
    InternalError,
    MethodNotFound,
    RequestTimeout,
    RpcError,
)
from sepkit.forks import let_go_in_children
from sepkit.ownlog import OwnLog
from sepkit.tracebacks import unexpected
from sepkit.transports.base import Transport
from sepkit.wire import frames, methods
from sepkit.wire.frames import ID_TYPES, encode_result, loads
from sepkit.wire.shortening import encode_short

RequestHandler = Callable[[dict[str, Any]], Coroutine[Any, Any, object]]
"""Params in, result out; raises :class:`RpcError` to answer with an error."""
NotificationHandler = Callable[[dict[str, Any]], None]
_Item = bytes | FrameError | Callable[[], None]
"""What is taken in, in its order: a line, or a step of our own."""

_log = OwnLog("sepkit.peer")

_TICK: Final = 0.001  # a timer may go off so much too early: uvloop counts in milliseconds
_MAX_POSTED: Final = 10_000  # frames from other threads that the loop has not taken yet; lossy ones are dropped above


@frozen
class Cancelling:
    """How a wire cancels a request: by a notification, whose params name the request's id.

    ``answered`` tells whether a cancelled request is answered, with -32800.
    """

    method: str
    field: str
    answered: bool


SEP_CANCELLING: Final = Cancelling(methods.CANCEL, "id", answered=True)


class _Alarm:
    """The requests that are given up after the same number of seconds: one timer for all of them.

    A timer for each would cost 1.2 µs of the 9 that a request takes.
    """

    __slots__ = ("deadlines", "timer")

    def __init__(self, timer: asyncio.TimerHandle) -> None:
        self.timer = timer  # goes off at the first deadline, or at that of one which has been answered since
        self.deadlines: dict[int, tuple[float, str]] = {}  # by request, in their order; never empty between two turns


class Peer:
    """One end of a connection. ``routes`` may be exchanged at any time; what came before keeps its handler.

    Args:
        transport: Carries the frames.
        routes: The handler of each method that may be asked.
        notifications: The handler of each notification. None of them may wait.
        on_end: Called once when nothing more comes in; with the error, where it broke.
        cancelling: How the wire cancels a request.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        routes: Mapping[str, RequestHandler] | None = None,
        notifications: Mapping[str, NotificationHandler] | None = None,
        on_end: Callable[[Exception | None], None] | None = None,
        cancelling: Cancelling = SEP_CANCELLING,
    ) -> None:
        self.context = copy_context()
        """The context variables of which each request's handler gets a copy."""
        self._cancelling = cancelling
        self.routes: Mapping[str, RequestHandler] = routes or {}
        self.notifications: Mapping[str, NotificationHandler] = notifications or {}
        self.fallback: Callable[[str], RequestHandler] = unknown_method
        self.dropped: Counter[str] = Counter()
        """Lossy frames that were not sent, by method."""
        self.transport = transport
        self._on_end = on_end
        self._loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]  # set by start()
        self._thread = 0
        self._next_id = 1
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._alarms: dict[float, _Alarm] = {}
        # Holds exactly the requests whose handler has not ended. A handler that ends within its eager start never
        # appears: no frame can arrive in between that would ask for it.
        self._inbound: dict[frames.Id, tuple[asyncio.Task[None], str, dict[str, Any]]] = {}
        self._to_cancel: set[frames.Id] = set()  # a subset of _inbound's ids
        self._held: deque[_Item] = deque()  # to be taken in the next turn of the loop, which is under way
        self._spawned: list[Callable[[], None]] = []  # while a batch is entered: what comes before the rest of it
        self._is_open = False  # whether a batch is entered, and works can begin in it
        self._posted: deque[tuple[bytes, Callable[[], bool] | None]] = deque()  # by other threads, and until when
        self._woken = False  # whether the loop is going to send them
        self._ended = False
        self._closed = False
        self._bad_lines = 0
        self.answered = 0
        """How many answers have come that this side was waiting for."""

    def start(self) -> None:
        """Begin to receive. Call it in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._starter = Starter(self._loop, self._answer)
        let_go_in_children(self)
        self.transport.start(self)

    # -- in: the receiver of the transport -----------------------------------------------------------------------------

    def frames_received(self, lines: list[bytes | FrameError]) -> None:
        """Decode each line, and hand it to where it belongs."""
        if self._held:
            self._held.extend(lines)
        else:
            self._take(lines)

    def _take(self, items: Iterable[_Item]) -> None:
        """Take in what has come, in its order. What cannot be taken in this turn of the loop is kept for the next."""
        starter = self._starter
        left = iter(items)
        if not starter.enter():
            self._hold([*left])
            return
        self._is_open = True
        try:
            for line in left:
                # A well-formed request of a known method is told in one go; whatever is not takes the long way, which
                # finds out what it is. One dictionary look-up for each fact saves 0.6 µs a call.
                try:
                    frame = loads(line)  # type: ignore[arg-type]  # what is not bytes raises
                    # A fast path for answers: it saves an exception and a second `loads`, 2 µs each.
                    if self._pending and "result" in frame and "method" not in frame and type(frame) is dict:
                        self._settle(frame)
                        continue
                    method, rid, params = frame["method"], frame["id"], frame["params"]
                    handler = self.routes[method]
                    plain = frame["jsonrpc"] == "2.0" and type(params) is dict and type(rid) in ID_TYPES
                except ValueError:  # it is no JSON, or no line
                    plain, frame = False, None
                except (KeyError, TypeError):
                    plain = False
                if plain and rid not in self._inbound:
                    if method != starter.name:
                        starter.rename(method)
                    starter.context = context = self.context.copy()
                    self._begin(context, rid, method, handler, params)
                else:
                    # In the connection's own context: what is logged of a bad line is this host's business only.
                    self.context.copy().run(self._receive, line, frame)
                    if not self._is_open:
                        break
                # `starter.noticed()`, without a call.
                if (
                    getrefcount(starter.current) != starter.holders
                    or getweakrefcount(starter.current) != starter.watchers
                    or starter.current.touched
                ):
                    starter.give_up()
                    break
            else:
                return
        finally:
            self._is_open = False
            starter.leave()
        spawned, self._spawned = self._spawned, []
        self._hold([*spawned, *left])

    def _hold(self, items: Sequence[_Item], *, first: bool = False) -> None:
        """Keep what came for the next turn of the loop; what comes after it waits behind it."""
        if items and not self._held:
            self._loop.call_soon(self._take_held)
        if first:
            self._held.extendleft(reversed(items))
        else:
            self._held.extend(items)

    def _take_held(self) -> None:
        held, self._held = self._held, deque()
        self._take(iter(held))

    def _begin(
        self, context: Context, rid: frames.Id, method: str, handler: RequestHandler, params: dict[str, Any]
    ) -> None:
        """Run a request's handler until it first waits, and answer it if it has ended by then.

        A short function: for each frame that an exception leaves, Python 3.11 looks up the line, and that takes the
        longer the longer the function is. As a part of the loop above this took 5,000 instructions more, of 41,000.
        """
        try:
            work = handler(params)
            waits_for = context.run(work.send, None)
        except StopIteration as end:
            try:
                self.transport.write(encode_result(rid, end.value))
            except EncodeError as error:
                self.transport.write(self._encode_exception(rid, method, error))
        except BaseException as error:
            self.transport.write(self._encode_exception(rid, method, error))
        else:
            self._inbound[rid] = (self._starter.go_on(work, context, rid, method, waits_for), method, params)

    def spawn(self, work: Coroutine[Any, Any, object], name: str, ended: Callable[[], None]) -> None:
        """Begin a work that no request asked for: its first step is made before whatever comes later is taken in.

        Args:
            work: It raises nothing.
            name: The name of its task.
            ended: Called once when it has ended; that may be before this returns.
        """
        if self._is_open:
            self._begin_own(work, name, ended)
        elif self._starter.entered:
            self._spawned.append(partial(self._begin_own, work, name, ended))
        else:
            self._hold([partial(self._begin_own, work, name, ended)])

    def _begin_own(self, work: Coroutine[Any, Any, object], name: str, ended: Callable[[], None]) -> None:
        starter = self._starter
        context = starter.prepare(self.context, name)
        try:
            waits_for = context.run(work.send, None)
        except BaseException:
            if starter.noticed():
                starter.give_up()
                self._is_open = False
            ended()
        else:
            starter.go_on(work, context, None, name, waits_for, lambda *_: ended())

    def take_first(self, steps: Sequence[Callable[[], None]]) -> None:
        """Take ``steps`` in the next turns of the loop, in their order, before all that has not been taken in yet."""
        self._hold(steps, first=True)

    def pause(self) -> None:
        """Called by what is being taken in: all that came after it is taken in the next turn of the loop."""
        self._is_open = False

    def _receive(self, line: _Item, frame: Any) -> None:
        """Take in any line at all; ``frame`` is what it holds, where that is known."""
        if callable(line):
            try:
                line()
            except Exception:
                _log.exception("%r failed", line)
            return
        try:
            if isinstance(line, FrameError):
                raise line
            frame = frames.decode(line, self.notifications, frame)
        except FrameError as error:
            self._refuse(line, error)
            return
        method = frame.get("method")
        if method is None:
            self._settle(frame)
        elif "id" in frame:
            self._accept(frame["id"], method, frame.get("params", {}))
        else:
            self._notified(method, frame.get("params", {}))

    def input_ended(self) -> None:
        """The other side sends no more."""
        if self._held:
            self._held.append(partial(self._end, None))
        else:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Nothing goes out any more."""
        self._closed = True
        self._held = deque(item for item in self._held if callable(item))  # the other side waits for nothing any more
        self._starter.close()
        self._end(error)
        self._fail_pending()

    def _end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            # No answer can come any more, though ours may still go out.
            self._fail_pending()
            if self._on_end is not None:
                self.context.copy().run(self._on_end, error)

    def _fail_pending(self) -> None:
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(ConnectionClosed("the connection ended before the answer came"))

    def _refuse(self, line: bytes | FrameError, error: FrameError) -> None:
        if isinstance(line, bytes) and not line.strip():
            return  # a blank line
        if error.answers is not None:  # an answer is never answered; but whoever waits for it shall not wait on
            if (future := self._pending.pop(error.answers, None)) is not None and not future.done():
                future.set_exception(InternalError(f"the answer cannot be taken: {error}"))
            return
        self._bad_lines += 1
        level = (
            logging.WARNING if self._bad_lines == 1 else logging.DEBUG
        )  # a flood of them shall not become a flood of ours
        if error.is_notification:
            _log.log(level, "ignored a malformed notification: %s", error)
            return
        _log.log(level, "refused a line that is no frame: %s", error)
        self.transport.write(frames.encode_error(error.id, error.code, error.message))

    def _accept(self, rid: frames.Id, method: str, params: dict[str, Any]) -> None:
        if rid in self._inbound:
            self.transport.write(
                frames.encode_error(rid, Code.INVALID_REQUEST, "a request with this id is still being worked on")
            )
            return
        try:
            handler = self.routes.get(method) or self.fallback(method)
        except Exception as error:
            self.transport.write(self._encode_exception(rid, method, error))
            return
        self._begin(self._starter.prepare(self.context, method), rid, method, handler, params)

    def _answer(self, rid: frames.Id, method: str, result: object, error: BaseException | None) -> None:
        """Write the one answer to a request whose handler has ended."""
        if error is None:
            try:
                answer = encode_result(rid, result)
            except EncodeError as unsendable:
                answer = self._encode_exception(rid, method, unsendable)
        else:
            answer = self._encode_exception(rid, method, error)
        if rid in self._inbound:
            del self._inbound[rid]
            if rid in self._to_cancel:
                # Whatever the work made of its cancellation: the side that cancelled does not wait for a result.
                self._to_cancel.discard(rid)
                answer = frames.encode_error(rid, Code.CANCELLED, "cancelled") if self._cancelling.answered else b""
        if answer:
            self.transport.write(answer)

    def _encode_exception(self, rid: frames.Id, method: str, error: BaseException) -> bytes:
        """The one place where an exception becomes an error frame."""
        if isinstance(error, RpcError):
            try:
                return frames.encode_error(rid, error.code, error.message, error.data)
            except EncodeError as unsendable:
                error = unsendable
        if isinstance(error, EncodeError):
            return frames.encode_error(rid, Code.INTERNAL_ERROR, f"the result cannot be sent: {error}")
        if isinstance(error, asyncio.CancelledError) and rid in self._to_cancel:
            return b""  # replaced by the caller
        internal = unexpected(error, f"{method} failed")
        return frames.encode_error(rid, internal.code, internal.message, internal.data)

    def _notified(self, method: str, params: dict[str, Any]) -> None:
        if method == self._cancelling.method:
            self._cancel(params.get(self._cancelling.field))
            return
        handler = self.notifications.get(method)
        if handler is None:
            _log.debug("ignored the unknown notification %r", method)
            return
        try:
            handler(params)
        except Exception:
            _log.exception("the notification %r could not be handled", method)

    def _cancel(self, rid: object) -> None:
        if frames.is_id(rid) and (entry := self._inbound.get(rid)) is not None:
            self._to_cancel.add(rid)
            # In the next turn: a task that has not begun would be thrown away with its answer unwritten.
            self._loop.call_soon(cancel, entry[0])

    def _settle(self, frame: frames.Frame) -> None:
        rid = frame.get("id")
        future = self._pending.pop(rid, None) if type(rid) is int else None
        if future is None or future.done():
            # Its asker has given up, or there never was one.
            _log.debug("ignored an answer that nobody waits for (id %r)", rid)
            return
        self.answered += 1
        error = frame.get("error")
        if frame.get("jsonrpc") != "2.0" or (error is None and "result" not in frame):
            future.set_exception(InternalError("the peer's answer is no JSON-RPC 2.0 response"))
        elif error is None:
            future.set_result(frame["result"])
        elif type(error) is dict and type(error.get("code")) is int and type(error.get("message")) is str:
            future.set_exception(RpcError.from_wire(error["code"], error["message"], error.get("data")))
        else:
            future.set_exception(InternalError("the peer answered with a malformed error"))

    # -- out -----------------------------------------------------------------------------------------------------------

    async def request(self, method: str, params: dict[str, Any], *, timeout: float | None = None) -> Any:
        """Ask the other side, and wait for its answer.

        Args:
            method: The method's name.
            params: Plain JSON data.
            timeout: Seconds until it is given up.

        Raises:
            RpcError: The other side answered with an error (of the class that stands for its code).
            RequestTimeout: It did not answer in time; it has been told to stop.
            ConnectionClosed: The connection ended first.
            EncodeError: ``params`` is no plain JSON data.
        """
        deadline = None if timeout is None else self._loop.time() + timeout
        if self.transport.congested:
            try:
                async with asyncio.timeout_at(deadline):
                    await self.transport.drain()
            except TimeoutError:
                assert timeout is not None
                raise RequestTimeout(method, timeout) from None
        if self._ended:
            raise ConnectionClosed(f"{method}: the connection has ended")
        rid = self._next_id
        self._next_id += 1
        self.transport.write(frames.encode_request(rid, method, params))
        answer = self._pending[rid] = self._loop.create_future()
        alarm = None
        if timeout is not None and deadline is not None:
            alarm = self._alarms.get(timeout)
            if alarm is None:
                alarm = self._alarms[timeout] = _Alarm(self._loop.call_at(deadline, self._ring, timeout))
            alarm.deadlines[rid] = (deadline, method)
        try:
            return await answer
        except asyncio.CancelledError:
            if self._pending.pop(rid, None) is not None:
                self.notify(self._cancelling.method, {self._cancelling.field: rid})
            raise
        finally:
            if alarm is not None:
                alarm.deadlines.pop(rid, None)
                if not alarm.deadlines and timeout is not None and self._alarms.get(timeout) is alarm:
                    alarm.timer.cancel()
                    del self._alarms[timeout]

    def _ring(self, seconds: float) -> None:
        """Give up what was asked ``seconds`` ago or earlier."""
        alarm = self._alarms[seconds]
        now = self._loop.time() + _TICK
        while alarm.deadlines:
            rid, (deadline, method) = next(iter(alarm.deadlines.items()))
            if deadline > now:
                alarm.timer = self._loop.call_at(deadline, self._ring, seconds)
                return
            del alarm.deadlines[rid]
            answer = self._pending.pop(rid, None)
            if answer is not None and not answer.done():
                answer.set_exception(RequestTimeout(method, seconds))
                self.notify(self._cancelling.method, {self._cancelling.field: rid})
        del self._alarms[seconds]

    def notify(
        self,
        method: str,
        params: dict[str, Any],
        *,
        lossy: bool = False,
        short: bool = False,
        unless: Callable[[], bool] | None = None,
    ) -> bool:
        """Send a notification; from any thread, in the order of its calls.

        Args:
            method: The method's name.
            params: Plain JSON data.
            lossy: Drop it, and count it in ``dropped``, while the other side does not keep up.
            short: Cut it to what every host takes.
            unless: Drop it where this is true by the time that the loop takes it from another thread.

        Returns:
            Whether it was sent.
        """
        if self._closed:
            return False
        if lossy and (self.transport.congested or len(self._posted) > _MAX_POSTED):
            self.dropped[method] += 1
            return False
        data = frames.encode_notification(method, params)
        if short and not (data := encode_short(method, params, data)):
            self.dropped[method] += 1
            return False
        if threading.get_ident() == self._thread:
            if self._posted:
                self.send_posted()
            self.transport.write(data)
            return True
        self._posted.append((data, unless))
        # Once for all that comes before it runs: asyncio reads its wake-ups for as long as there are any.
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self.send_posted)
            except RuntimeError:  # the loop has been closed
                self._woken = False
                return False
        return True

    def send_posted(self) -> None:
        """Send now what other threads have given so far. In the loop's thread only."""
        self._woken = False  # before it looks: whoever adds from now on wakes it again
        for _ in range(len(self._posted)):  # not what they add meanwhile, or it might never end
            if not self._posted:  # a finalizer has logged in the middle of this, and sent what came before
                return
            data, unless = self._posted.popleft()
            if unless is None or not unless():
                self.transport.write(data)

    async def drain(self) -> None:
        """Wait while the other side does not keep up."""
        if self.transport.congested:
            await self.transport.drain()

    @property
    def congested(self) -> bool:
        """Whether the other side does not keep up with what is sent."""
        return self.transport.congested

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def working_on(self) -> list[tuple[asyncio.Task[None], str, dict[str, Any]]]:
        """Task, method and params of each request that is being worked on."""
        return list(self._inbound.values())

    @property
    def busy(self) -> bool:
        """Whether any request is being worked on."""
        return bool(self._inbound or self._held)

    @property
    def behind(self) -> int:
        """How much of what has come is still to be taken in, in the next turns of the loop."""
        return len(self._held)

    @property
    def pending(self) -> int:
        """How many requests of this side wait for their answer."""
        return len(self._pending)

    async def wait_idle(self, seconds: float, *, except_for: asyncio.Task[Any] | None = None) -> bool:
        """Wait until nothing is worked on, at most ``seconds``. Whether it came to that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            while self._held:  # noqa: ASYNC110  (at least one of them is taken in each turn)
                await asyncio.sleep(0)
            tasks = [entry[0] for entry in self._inbound.values() if entry[0] is not except_for]
            if not tasks:
                return True
            _, tasks_left = await asyncio.wait(tasks, timeout=max(0.0, deadline - loop.time()))
            if tasks_left:
                return False

    def cancel_all(self, *, except_for: asyncio.Task[Any] | None = None) -> None:
        """Cancel whatever is being worked on, as ``$/cancel`` of each id would."""
        for rid, entry in list(self._inbound.items()):
            if entry[0] is not except_for:
                self._cancel(rid)

    def let_go(self) -> None:
        """In a forked child: ask, notify and wait for nothing any more. The transport lets go by itself."""
        self._closed = self._ended = True
        self._posted.clear()
        self._pending.clear()

    async def aclose(self) -> None:
        """Send what waits, then close. Cancel it to close at once."""
        await self.transport.aclose()


def unknown_method(method: str) -> RequestHandler:
    """The fallback of a peer: no method is known but those in its routes."""
    raise MethodNotFound(f"no method {method[:200]!r}")
