"""Binds what serves an App to one transport, for the life of one SEP connection.

handshake → method → handler → result, events, shutdown. The states, and what may be asked in each:

=========  ==========================================================================================
new        ``initialize`` and ``ping``; anything else is refused with -32600
starting   the lifespan is being entered; what comes in waits for it
ready      everything
ending     ``ping``; anything else is refused. Accepted calls finish, at most for the grace
=========  ==========================================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from sepkit.contexts.backend import Principal
from sepkit.errors import BadSettings, InternalError, InvalidData, InvalidParams, InvalidRequest, RpcError, StoreError
from sepkit.faces.connection import Connection
from sepkit.faces.sep.link import SepLink
from sepkit.faces.sep.registrations import introduction, not_served, registry_update, wants_tasks
from sepkit.faces.sep.requests import Requests, checked
from sepkit.faces.sep.tasks import TaskCalls
from sepkit.ownlog import OwnLog
from sepkit.peer import Peer, RequestHandler, Route, pass_through, unknown_method
from sepkit.router import Change, closest
from sepkit.serving.calls import does_not_fit
from sepkit.serving.observers import Event, Observers
from sepkit.serving.served import GRACE, Ending, Served
from sepkit.transports.base import Transport
from sepkit.wire import messages, methods
from sepkit.wire.writing import unstructure

SHUTDOWN_GRACE: Final = 4.0  # the host waits 5 s for the answer and for the exit together

_Early = Event | asyncio.Future[None]
"""What came before the app could serve it: an event, or the turn of a request."""

_log = OwnLog("sepkit")


class Dispatcher(Connection):
    """Serves an App over one transport, once.

    Args:
        served: The App, as it is served; it ends with its last connection, unless something holds it.
        transport: Where the host is.
        grace: Seconds that accepted calls have to finish, once the connection ends.
        on_ready: Called once when the handshake has succeeded, right before it is answered: it sends nothing itself.
        principal: Whom the calls are made for; SEP itself has no users.
    """

    def __init__(
        self,
        served: Served,
        transport: Transport,
        *,
        grace: float = GRACE,
        on_ready: Callable[[SepLink], None] | None = None,
        principal: Principal | None = None,
    ) -> None:
        super().__init__(served, grace)
        self._on_ready = on_ready
        self._peer = Peer(transport, notifications={methods.EVENT: self._event}, on_end=self._input_ended)
        self._link: SepLink = SepLink(served, self._peer, self._is_observing, principal)
        self._peer.context = served.context(self._link)
        self._observers = Observers(served.app, self._link, served.calls, self._peer.spawn)
        self._tasks = TaskCalls(served, self._peer)
        self._requests = Requests(served, self._link)
        self._began = False  # whether a handshake has begun that has not failed
        self._early: list[_Early] | None = None  # while the handshake is under way: what has come in, in its order
        self._unlisten: Callable[[], None] | None = None  # ends that we are told of new registrations
        self._ready: dict[str, RequestHandler | Route] = {
            **self._requests.routes(),
            methods.PING: self._ping,
            methods.SHUTDOWN: self._shutdown,
            methods.INITIALIZE: _refuse_second,
        }
        self._be_new()

    @property
    def link(self) -> SepLink:
        """The connection, as handlers see it."""
        return self._link

    async def wait_observed(self, seconds: float) -> bool:
        """Wait until the events that came so far have been observed, at most ``seconds``. Whether they have."""
        return await self._observers.wait_idle(seconds)

    def _is_observing(self) -> bool:
        return self._observers.busy

    # -- the end -------------------------------------------------------------------------------------------------------
    def _shutdown(self, params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        # The state changes before the next frame is looked at, and before end-of-file, as at the handshake.
        is_first, self._ending = not self._ending, True
        self._refuse_more()
        return self._shut_down() if is_first else self._end_too()

    async def _shut_down(self) -> object:
        """The answer to ``shutdown`` is the last thing that the host reads."""
        # In a task of its own: a host that cancels its `shutdown` gets its answer, and the end goes on.
        loop = asyncio.get_running_loop()
        grace = min(self._grace, SHUTDOWN_GRACE)
        deadline = loop.time() + grace
        winding_down = self._finishing = loop.create_task(self._wind_down(grace, asyncio.current_task()))
        try:
            await asyncio.shield(winding_down)
        finally:
            # Only in a later turn: a task that has not written its answer yet must not find the transport closed.
            winding_down.add_done_callback(lambda _: self._hang_up(deadline))
        return {}

    async def _end_too(self) -> object:
        """A ``shutdown`` that waited for the handshake, and meanwhile the end has begun without it."""
        await self._peer.wait_idle(SHUTDOWN_GRACE, except_for=asyncio.current_task())
        return {}

    def _hang_up(self, deadline: float) -> None:
        self._finishing = asyncio.get_running_loop().create_task(self._close(deadline))

    def _refuse_more(self) -> None:
        self._peer.routes, self._peer.fallback = {methods.PING: self._ping}, _refuse_ending

    async def _wait_for_more(self, seconds: float) -> None:
        await self._observers.wait_idle(seconds)

    def _cancel_more(self) -> None:
        if left := self._observers.cancel():
            _log.warning("still handling events at the end of the grace, cancelled: %s", ", ".join(left))

    def _let_go(self) -> None:
        self._tasks.close()
        if self._unlisten is not None:
            self._unlisten()

    def _subject(self, params: dict[str, Any]) -> object:
        return params.get("tool") or params.get("command") or params.get("hook") or params.get("provider") or ""

    # -- the states ----------------------------------------------------------------------------------------------------

    def _be_new(self) -> None:
        self._began = False
        self._peer.routes = {methods.INITIALIZE: self._initialize, methods.PING: self._ping}
        self._peer.fallback = _refuse_new

    def _be_starting(self) -> None:
        self._began = True
        self._early = []
        self._peer.routes = {methods.PING: self._ping, methods.INITIALIZE: _refuse_second}
        self._peer.fallback = self._later

    def _be_ready(self) -> None:
        early, self._early = self._early or [], None
        if not self._ending:
            self._peer.routes, self._peer.fallback = self._ready, unknown_method
        self._peer.take_first([partial(self._take_early, one) for one in early])

    def _take_early(self, one: _Early) -> None:
        if isinstance(one, Event):
            self._observers.take(one)
        elif not one.done():
            one.set_result(None)
            self._peer.pause()  # its request begins in the next turn of the loop, before what came after it

    def _later(self, method: str) -> RequestHandler:
        """The handler of a request that came while the lifespan was being entered."""
        early = self._early
        assert early is not None

        async def wait(params: dict[str, Any]) -> object:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            early.append(turn)
            await turn
            # Not the peer's routes: the end may have begun meanwhile, but this one was accepted before it.
            return await pass_through(self._ready.get(method) or unknown_method(method), params)

        return wait

    # -- handshake -----------------------------------------------------------------------------------------------------

    def _initialize(self, params: dict[str, Any]) -> Coroutine[Any, Any, object]:
        # The state changes before the next frame is looked at: a request in the same chunk waits, and is not refused.
        self._be_starting()
        return self._handshake(params)

    async def _handshake(self, params: dict[str, Any]) -> object:
        served, loop = self._served, asyncio.get_running_loop()
        try:
            handshake: messages.InitializeParams = checked(params, messages.InitializeParams)
        except InvalidParams:
            self._handshake_failed()
            raise
        self._link.greet(handshake)
        try:
            await served.start(self._link)
            answer = unstructure(introduction(served.app, handshake))  # the lifespan may have registered more
            if self._on_ready is not None:  # no code of the author's runs between this and the answer
                self._on_ready(self._link)
        except asyncio.CancelledError:
            self._handshake_failed()
            raise
        except Ending as error:
            self._handshake_failed()
            raise InvalidRequest(str(error)) from None
        except BadSettings as error:
            refusal: RpcError = does_not_fit("the app's flags and settings do not fit", error)
            self._cannot_start(error, refusal)
            raise refusal from None
        except StoreError as error:  # which says what to do about it
            refusal = InternalError(f"the extension could not start: {error}")
            self._cannot_start(error, refusal)
            raise refusal from None
        except Exception as error:
            self._cannot_start(error, InternalError("the extension could not start"))
            raise served.calls.unexpected(error, "the extension's lifespan failed") from None
        if wants_tasks(handshake):
            self._ready.update(self._tasks.routes())
        self._unlisten = served.changed(self._registered)  # what is registered from now on goes out in updates
        self._be_ready()
        loop.call_soon(self._answered, handshake)
        return answer

    def _cannot_start(self, error: Exception, refusal: RpcError) -> None:
        """An extension that could not start serves no calls: answer, then end."""
        self._failure = error
        self._refuse_early(refusal)
        asyncio.get_running_loop().call_soon(self._begin_end)

    def _handshake_failed(self) -> None:
        self._refuse_early(InvalidRequest("the handshake failed"))
        if not self._ending:  # the host may try again
            self._be_new()

    def _refuse_early(self, error: RpcError) -> None:
        """Refuse the requests that have come in since the handshake began, and those to come."""
        early, self._early = self._early or [], None
        self._began = False
        for one in early:
            if not isinstance(one, Event) and not one.done():
                one.set_exception(error)

        def refuse(method: str) -> RequestHandler:
            raise error

        if not self._ending:
            self._peer.fallback = refuse

    def _answered(self, handshake: messages.InitializeParams) -> None:
        """The handshake has been answered: background tasks may be told of, and start."""
        declared = self._served.app.flag_defaults
        for flag in handshake.flags:
            if flag not in declared:  # a host may send the flags of all its extensions
                hint = closest(flag, declared)
                _log.info("the host has set the flag %r, which the app does not declare%s", flag, hint)
        if unserved := not_served(self._served.app):
            _log.info("not served, since SEP has no resources: %s; expose_as_tool=True makes tools of them", unserved)
        if not self._ending:
            self._tasks.begin(wanted=wants_tasks(handshake))
            self._served.autostart()

    def _registered(self, changes: Sequence[Change]) -> None:
        update = registry_update(self._served.app, changes)
        if update is not None:
            self._peer.notify(methods.REGISTRY_UPDATE, unstructure(update))

    async def _ping(self, params: dict[str, Any]) -> object:
        return {}

    # -- events --------------------------------------------------------------------------------------------------------

    def _event(self, params: dict[str, Any]) -> None:
        if not self._began or self._ending:
            _log.debug("ignored an event outside of the session")
            return
        try:
            event = self._requests.event(params)
        except InvalidData as error:
            _log.warning("ignored a malformed event: %s", error)
        else:
            if self._early is None:
                self._observers.take(event)
            else:
                self._early.append(event)


def _refuse_new(method: str) -> RequestHandler:
    raise InvalidRequest(f"{method!r} before the handshake; send initialize first")


def _refuse_ending(method: str) -> RequestHandler:
    raise InvalidRequest(f"{method!r} after the end; the extension is shutting down")


async def _refuse_second(params: dict[str, Any]) -> object:
    raise InvalidRequest("initialize was sent before")
