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
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import copy_context
from functools import partial
from sys import getrefcount
from typing import Any, Final, NamedTuple, Protocol
from weakref import getweakrefcount

from sepkit.concurrency.cancelling import cancel
from sepkit.concurrency.eager import Seat, Starter, noting
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
from sepkit.wire.frames import RESULT, encode_result, filled_in, loads, unchecked_dumps
from sepkit.wire.shortening import encode_short

RequestHandler = Callable[[dict[str, Any]], Awaitable[object]]
"""Params in, result out; raises :class:`RpcError` to answer with an error."""


class Route(Protocol):
    """A handler that needs no coroutine of its own around what it awaits: what follows the end is told apart."""

    text: bytes | None
    """What ``returned`` makes of an ASCII text, in JSON with ``%b`` in place of the text; None where it has no use."""

    def begin(self, params: dict[str, Any], /) -> Awaitable[object]:
        """What is to be awaited."""

    def returned(self, value: Any, /) -> object:
        """The result, where that returned ``value``. What this raises comes to ``raised``."""

    async def raised(self, error: BaseException, params: dict[str, Any], /) -> object:
        """The result, where ``begin`` or what it gave has raised; or this raises what the request is answered with."""

    def waits(self) -> None:
        """It has not ended within its first step."""

    def waited(self) -> None:
        """After ``waits``: it has ended."""


Routes = Mapping[str, RequestHandler | Route]
_Route = tuple[RequestHandler, Route | None, bytes | None]
"""What begins, what it is of, and the line of an answer that is a text."""
NotificationHandler = Callable[[dict[str, Any]], None]


class _Own:
    """A work that no request asked for."""

    __slots__ = ("ended", "name", "work")

    def __init__(self, work: Coroutine[Any, Any, object], name: str, ended: Callable[[], None]) -> None:
        self.work = work
        self.name = name
        self.ended = ended


_Answer = bytes | tuple[bytes, ...]
"""A line, or the parts of a long one."""
_Request = tuple[frames.Id, str, dict[str, Any], _Route]
_Item = bytes | FrameError | Callable[[], None] | _Own
"""What is taken in, in its order: a line, a step of our own, or a work of our own."""

_log = OwnLog("sepkit.peer")

_EARLY: Final = 16_384  # bytes of answers that wait for the end of a batch; more of them go at once
_LONG: Final = 1024 * 1024  # bytes of a result that is not copied into its line
_TICK: Final = 0.001  # a timer may go off so much too early: uvloop counts in milliseconds
_MAX_POSTED: Final = 10_000  # frames from other threads that the loop has not taken yet; lossy ones are dropped above


class Cancelling(NamedTuple):
    """How a wire cancels a request: by a notification, whose params name the request's id.

    ``answered`` tells whether a cancelled request is answered, with -32800; ``spared`` are methods whose requests
    cannot be cancelled.
    """

    method: str
    field: str
    answered: bool
    spared: frozenset[str] = frozenset()


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
        answers_unreadable: Whether a line from which no id can be read is answered, with the id null.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        routes: Routes | None = None,
        notifications: Mapping[str, NotificationHandler] | None = None,
        on_end: Callable[[Exception | None], None] | None = None,
        cancelling: Cancelling = SEP_CANCELLING,
        answers_unreadable: bool = True,
    ) -> None:
        self.context = copy_context()
        """The context variables of which each request's handler gets a copy."""
        self._cancelling = cancelling
        self._answers_unreadable = answers_unreadable
        self.on_batch: Callable[[list[Any]], None] | None = None
        """Takes a line that holds an array, where the wire has batches; elsewhere such a line is refused."""
        self.on_unanswered: Callable[[frames.Id], None] | None = None
        """Told of each request that ends without an answer, since it was cancelled."""
        self._routes: dict[str, _Route] = {}
        self.routes = routes or {}
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
        self._inbound: dict[frames.Id, tuple[asyncio.Task[None], frames.Frame]] = {}
        self._to_cancel: set[frames.Id] = set()  # a subset of _inbound's ids
        self._items: deque[_Item] = deque()  # what has come and is not taken in yet, in its order
        self._is_due = False  # whether the next turn of the loop takes them in, and nothing before it
        self._ahead = 0  # how many works of our own are first among them, since what is being taken in has begun them
        self._begun: dict[str, Any] | None = None  # the request whose handler makes its first step
        self._route: Route | None = None  # of that request
        self._is_sending = False
        self._answers: list[bytes] = []  # those of this batch that the transport has not got yet
        self._posted: deque[tuple[bytes, Callable[[], bool] | None]] = deque()  # by other threads, and until when
        self._woken = False  # whether the loop is going to send them
        self._ended = False
        self._closed = False
        self._bad_lines = 0
        self.answered = 0
        """How many answers have come that this side was waiting for."""

    @property
    def routes(self) -> Routes:
        """The handler of each method that may be asked."""
        return {method: begin if route is None else route for method, (begin, route, _) in self._routes.items()}

    @routes.setter
    def routes(self, routes: Routes) -> None:
        self._routes = {method: _taken_apart(handler) for method, handler in routes.items()}

    def start(self) -> None:
        """Begin to receive. Call it in the running loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._starter = Starter(self._loop, self.context, self._items, self._drive, self._went_on)
        let_go_in_children(self)
        self.transport.start(self)

    # -- in: the receiver of the transport -----------------------------------------------------------------------------

    def frames_received(self, lines: list[bytes | FrameError]) -> None:
        """Decode each line, and hand it to where it belongs."""
        self._items.extend(lines)
        if not (self._is_due or self._starter.entered):  # what comes in the middle of a batch is taken at its end
            self._take()

    def _take(self) -> None:
        """Take in what has come, in its order. What cannot be taken in this turn of the loop is taken in the next."""
        try:
            self._starter.run()
        finally:
            self._begun = self._route = None
            if self._answers:
                self._send_answers()
            if self._items:
                self._take_later()

    def _take_later(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._take_rest)

    def _take_rest(self) -> None:
        self._is_due = False
        self._take()

    async def _drive(self, seat: Seat) -> None:
        """Take in what has come, and await the handler of each request, until one of them waits.

        Then this coroutine goes on as that request's task, and finishes it; another one takes in the rest. So a call
        that does not wait has no coroutine, context and exception of ours: 9,000 of the 33,000 instructions it took.
        """
        items, pending, inbound, answers = self._items, self._pending, self._inbound, self._answers
        context, pristine = seat.context, seat.pristine
        size = 0
        answer: _Answer
        while True:  # not `while items`: Python 3.11 warms up at a jump back that has no condition
            if not items:
                if not await seat.rest():
                    return
                size = 0
                continue
            item = items.popleft()
            # A well-formed frame of a known method is told in one go; whatever is not takes the long way, which finds
            # out what it is. One dictionary look-up for each fact saves 0.6 µs a call.
            is_request = is_notification = False
            frame = None
            try:
                frame = loads(item)  # type: ignore[arg-type]  # what is not bytes raises
                # A fast path for answers: it saves an exception and a second `loads`, 2 µs each.
                if pending and "result" in frame and "method" not in frame and type(frame) is dict:
                    self._settle(frame)
                    continue
                method, params = frame["method"], frame["params"]
                if frame["jsonrpc"] == "2.0" and type(params) is dict:
                    if "id" in frame:
                        rid = frame["id"]
                        begin, route, text = self._routes[method]
                        is_request = (type(rid) is int or type(rid) is str) and rid not in inbound
                    else:
                        is_notification = method in self.notifications
            except (KeyError, TypeError, ValueError):
                pass
            if not is_request:
                self._ahead = 0
                if is_notification:
                    self._notified(method, params)
                    request = None
                else:
                    request = self._receive(item, frame)
                if request is None:
                    if self._starter.paused or not (await self._begin_own(item, seat)):
                        return
                    continue
                rid, method, params, (begin, route, text) = request
                frame = {"id": rid, "method": method, "params": params}
            self._begun, self._route = frame, route
            if method != seat.name:
                seat.rename(method)
            try:
                result = await begin(params)
                if text is not None and type(result) is str and result.isascii():
                    line = text  # saves a call, and a dict that is made and encoded: 900 instructions
                else:
                    line = RESULT
                    if route is not None:
                        result = route.returned(result)
            except BaseException as error:
                answer = await self._failed(rid, method, params, error, route)
                size += len(answer)
            else:
                try:
                    body = unchecked_dumps(result)
                    size += len(body)
                    if size <= _EARLY and type(rid) is int:
                        answer = line % (rid, body)
                    else:
                        answer = filled_in(line, rid, body, in_parts=size > _LONG)
                except (TypeError, RecursionError, EncodeError) as error:
                    answer = self._encode_exception(rid, method, EncodeError("$", str(error)))
            if seat.taken:
                if route is not None:
                    route.waited()
                self._answer(rid, answer)
                return
            if size > _EARLY:
                size = 0
                self._send_answer(answer)
            else:
                answers.append(answer)  # type: ignore[arg-type]  # what is in parts is long
            # `seat.is_as_before()`, without a call.
            if (
                getrefcount(seat.task) != seat.holders
                or getweakrefcount(seat.task) != seat.watchers
                or context != pristine
            ):
                return

    async def _begin_own(self, item: _Item, seat: Seat) -> bool:
        """Begin the works of our own that come first now. Whether another work can begin in the seat after them."""
        while True:
            if type(item) is _Own:
                self._begun = None
                if item.name != seat.name:
                    seat.rename(item.name)
                try:
                    await item.work
                finally:
                    item.ended()
                if seat.taken:
                    return False
            if not seat.is_as_before():
                return False
            if not self._ahead:
                return True
            self._ahead -= 1
            item = self._items.popleft()

    async def _failed(
        self, rid: frames.Id, method: str, params: dict[str, Any], error: BaseException, route: Route | None
    ) -> bytes:
        """The answer to a request whose handler has raised."""
        try:
            if route is None:
                return self._encode_exception(rid, method, error)
            try:
                return encode_result(rid, await route.raised(error, params))
            except BaseException as worse:
                return self._encode_exception(rid, method, worse)
        finally:
            del error  # it may hold this frame

    def _went_on(self, task: asyncio.Task[None]) -> None:
        self._ahead = 0
        frame = self._begun
        if frame is not None:
            self._inbound[frame["id"]] = task, frame
            if self._route is not None:
                self._route.waits()

    def spawn(self, work: Coroutine[Any, Any, object], name: str, ended: Callable[[], None]) -> None:
        """Begin a work that no request asked for: its first step is made before whatever comes later is taken in.

        Args:
            work: It raises nothing.
            name: The name of its task.
            ended: Called once when it has ended.
        """
        own = _Own(work, name, ended)
        if self._starter.entered:
            self._items.insert(self._ahead, own)
            self._ahead += 1
        else:
            self._items.append(own)
            self._take_later()

    @property
    def begun_id(self) -> frames.Id | None:
        """The id of the request whose handler makes its first step."""
        return None if self._begun is None else self._begun["id"]

    def take_first(self, steps: Sequence[Callable[[], None] | bytes]) -> None:
        """Take ``steps``, or lines, in the next turns of the loop, in their order.

        They come before all that has not been taken in yet.
        """
        self._items.extendleft(reversed(steps))
        self._take_later()

    def pause(self) -> None:
        """Called by what is being taken in: all that came after it is taken in the next turn of the loop."""
        self._starter.paused = True

    def _receive(self, line: _Item, frame: Any) -> _Request | None:
        """Take in any line at all; ``frame`` is what it holds, where that is known. The request that is to be begun."""
        if isinstance(line, _Own):
            return None
        if callable(line):
            try:
                line()
            except Exception:
                _log.exception("%r failed", line)
            return None
        try:
            if isinstance(line, FrameError):
                raise line
            if type(frame) is list and self.on_batch is not None:
                self.on_batch(frame)
                return None
            frame = frames.decode(line, self.notifications, frame)
        except FrameError as error:
            self._refuse(line, error)
            return None
        method = frame.get("method")
        if method is None:
            self._settle(frame)
        elif "id" in frame:
            return self._accepted(frame["id"], method, frame.get("params", {}))
        else:
            self._notified(method, frame.get("params", {}))
        return None

    def input_ended(self) -> None:
        """The other side sends no more."""
        if self._items:
            self._items.append(partial(self._end, None))
        else:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Nothing goes out any more."""
        self._closed = True
        steps = [item for item in self._items if not isinstance(item, bytes | FrameError)]
        self._items.clear()  # the other side waits for nothing any more
        self._items.extend(steps)
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
        if error.id is None and not self._answers_unreadable:
            _log.log(level, "ignored a line that is not a frame: %s", error)
            return
        _log.log(level, "refused a line that is no frame: %s", error)
        self._write(frames.encode_error(error.id, error.code, error.message))

    def _accepted(self, rid: frames.Id, method: str, params: dict[str, Any]) -> _Request | None:
        if rid in self._inbound:
            self._write(
                frames.encode_error(rid, Code.INVALID_REQUEST, "a request with this id is still being worked on")
            )
            return None
        try:
            return rid, method, params, self._routes.get(method) or _taken_apart(self.fallback(method))
        except Exception as error:
            self._write(self._encode_exception(rid, method, error))
            return None

    def _answer(self, rid: frames.Id, answer: _Answer) -> None:
        """Write the one answer to a request whose handler has waited, and has ended."""
        self._inbound.pop(rid, None)
        if rid in self._to_cancel:
            # Whatever the work made of its cancellation: the side that cancelled does not wait for a result.
            self._to_cancel.discard(rid)
            answer = frames.encode_error(rid, Code.CANCELLED, "cancelled") if self._cancelling.answered else b""
            if not answer and self.on_unanswered is not None:
                self.on_unanswered(rid)
        if answer and not self._loop.is_closed():
            if type(answer) is bytes and not self._answers:
                self.transport.write(answer)
            else:
                self._send_answer(answer)

    def _encode_exception(self, rid: frames.Id, method: str, error: BaseException) -> bytes:
        """The one place where an exception becomes an error frame."""
        if isinstance(error, RpcError):
            try:
                return frames.encode_error(rid, error.code, error.message, error.data)
            except EncodeError as unsendable:
                return _unsendable(rid, unsendable)
        if isinstance(error, EncodeError):
            return _unsendable(rid, error)
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
        if frames.is_id(rid) and (entry := self._inbound.get(rid)) is not None and self._may_cancel(entry[1]["method"]):
            self._to_cancel.add(rid)
            # In the next turn: a task that has not begun would be thrown away with its answer unwritten.
            self._loop.call_soon(cancel, entry[0])

    def _may_cancel(self, method: str) -> bool:
        return method not in self._cancelling.spared

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
        self._write(frames.encode_request(rid, method, params))
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
        is_own = threading.get_ident() == self._thread  # it sends first what others have posted
        if lossy and (self.transport.congested or (not is_own and len(self._posted) > _MAX_POSTED)):
            self.dropped[method] += 1
            return False
        data = frames.encode_notification(method, params)
        if short and not (data := encode_short(method, params, data)):
            self.dropped[method] += 1
            return False
        if is_own:
            if self._posted:
                self.send_posted()
            self._write(data)
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
                self._write(data)

    def _write(self, data: bytes) -> None:
        if self._answers:  # they come first
            self._send_answers()
        self.transport.write(data)

    def _send_answer(self, answer: _Answer) -> None:
        """Send an answer now, and before it those that wait."""
        if self._answers:
            self._send_answers()
        if isinstance(answer, tuple):
            self.transport.write_long(answer)
        else:
            self.transport.write(answer)

    def _send_answers(self) -> None:
        if self._is_sending:  # a finalizer logs in the middle of it, and would send them twice
            return
        self._is_sending = True
        data = b"".join(self._answers)
        self._answers.clear()
        self._is_sending = False
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
        return [(task, frame["method"], frame["params"]) for task, frame in self._inbound.values()]

    @property
    def busy(self) -> bool:
        """Whether any request is being worked on."""
        return bool(self._inbound or self._items)

    @property
    def behind(self) -> int:
        """How much of what has come is still to be taken in, in the next turns of the loop."""
        return len(self._items)

    @property
    def pending(self) -> int:
        """How many requests of this side wait for their answer."""
        return len(self._pending)

    async def wait_idle(self, seconds: float, *, except_for: asyncio.Task[Any] | None = None) -> bool:
        """Wait until nothing is worked on, at most ``seconds``. Whether it came to that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            while self._items:  # noqa: ASYNC110  (at least one of them is taken in each turn)
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
        for item in self._items:
            if isinstance(item, _Own):
                item.work.close()
        self._items.clear()
        self._ahead = 0
        self._answers.clear()
        self._pending.clear()

    async def aclose(self) -> None:
        """Send what waits, then close. Cancel it to close at once."""
        await self.transport.aclose()


def unknown_method(method: str) -> RequestHandler:
    """The fallback of a peer: no method is known but those in its routes."""
    raise MethodNotFound(f"no method {method[:200]!r}")


def _unsendable(rid: frames.Id, error: EncodeError) -> bytes:
    return frames.encode_error(rid, Code.INTERNAL_ERROR, f"the result cannot be sent: {error}")


def _taken_apart(handler: RequestHandler | Route) -> _Route:
    if callable(handler):
        return handler, None, None
    return handler.begin, handler, None if handler.text is None else RESULT.replace(b"%b", handler.text)


async def pass_through(handler: RequestHandler | Route, params: dict[str, Any]) -> object:
    """What a handler comes to, awaited by a coroutine that has waited for something before."""
    begin, route, _ = _taken_apart(handler)
    if route is None:
        return await begin(params)
    has_waited = False

    def waits() -> None:
        nonlocal has_waited
        has_waited = True
        route.waits()

    try:
        return route.returned(await noting(begin(params), waits))
    except BaseException as error:
        return await route.raised(error, params)
    finally:
        if has_waited:
            route.waited()
