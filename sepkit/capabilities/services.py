"""What an extension may ask of its host, and tell it: each method, from its params to its result.

Requests are served side by side: a slow answer of the delegate delays nothing else. What the manifest did not grant is
refused with -32004, what the context does not allow with -32003.

Source: docs/protocol.md, sections 4, 5 and 9.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

import orjson

from sepkit.capabilities.blocks import widgets_in
from sepkit.capabilities.delegate import Delegate
from sepkit.capabilities.kv import Store
from sepkit.errors import (
    CapabilityDisabled,
    ContextViolation,
    InternalError,
    InvalidData,
    InvalidParams,
    NoUI,
    RpcError,
    StoreError,
)
from sepkit.peer import NotificationHandler, RequestHandler
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure
from sepkit.wire.writing import unstructure

_log = logging.getLogger("sepkit.host")

_MOST_AT_ONCE: Final = 1024  # requests of one extension; more are refused as overload

# A request of 60 bytes may ask for 64 MiB: few of these answers are in memory at once if it does not read them. What it
# asks a person is bounded by the program, which shows one question after another.
_AT_ONCE: Final = {
    methods.KV_GET: 4,
    methods.KV_LIST: 4,
    methods.SESSION_STATE: 4,
    methods.TOOLS_SET_ACTIVE: 4,
    methods.EXEC_RUN: 64,
}

Serve = Callable[[Any], Awaitable[object]]


class Room(Protocol):
    """What the services of one extension need of the host around them."""

    def publish(self, sender: str, topic: str, payload: dict[str, Any]) -> None:
        """Tell the other extensions."""

    def owns_widget(self, extension: str, widget_id: str) -> None:
        """Keys pressed in this widget are the extension's from now on."""

    def set_active(self, extension: str, names: list[str]) -> list[str]:
        """Make these tools of the extension the active ones; those that really are."""


class Services:
    """What one life of an extension may ask and tell.

    Args:
        extension: Its name.
        token: The token of its command tier.
        grants: Each group of methods, and whether its manifest grants it.
        delegate: The program around the host.
        store: Its keys and values.
        room: The host.
        told: Takes the notifications that change what the host knows of the extension: method and record.
        drained: Waits while the extension does not read its answers; None where it always does.
        complain: Told of what could not be taken: what kind of thing it is, and a message with its arguments.
    """

    def __init__(
        self,
        extension: str,
        token: str,
        grants: Mapping[str, bool],
        delegate: Delegate,
        store: Store,
        room: Room,
        told: Callable[[str, Any], None],
        drained: Callable[[], Awaitable[None]] | None = None,
        complain: Callable[..., None] | None = None,
    ) -> None:
        self._complain = complain or self._warn
        self._drained = drained
        self._extension = extension
        self._token = token
        self._grants = grants
        self._delegate = delegate
        self._store = store
        self._room = room
        self._told = told
        self._serving = 0

    def routes(self) -> dict[str, RequestHandler]:
        """The handler of each method that it may ask."""
        served: dict[str, Serve] = {
            methods.PING: self._ping,
            methods.UI_REQUEST: self._ui,
            methods.KV_GET: self._kv_get,
            methods.KV_SET: self._kv_set,
            methods.KV_DELETE: self._kv_delete,
            methods.KV_LIST: self._kv_list,
            methods.EXEC_RUN: self._exec,
            methods.BUS_PUBLISH: self._publish,
            methods.TOOLS_SET_ACTIVE: self._set_active,
            methods.SESSION_SEND_MESSAGE: self._send_message,
            methods.SESSION_SEND_USER_MESSAGE: self._send_user_message,
            methods.SESSION_APPEND_ENTRY: self._append_entry,
            methods.SESSION_SET_MODEL: self._set_model,
            methods.SESSION_STATE: self._session_state,
        }
        return {method: self._route(method, serve) for method, serve in served.items()}

    def notifications(self) -> dict[str, NotificationHandler]:
        """The handler of each notification; those of running calls are the host's own."""
        return {
            methods.BUS_PUBLISH: self._published,
            methods.LOG: self._notified(methods.LOG),
            methods.REGISTRY_UPDATE: self._notified(methods.REGISTRY_UPDATE),
            methods.TASK_UPDATE: self._notified(methods.TASK_UPDATE),
        }

    # -- what every method has in common -------------------------------------------------------------------------------

    def _route(self, method: str, serve: Serve) -> RequestHandler:
        cls, group = messages.PARAMS[method], methods.GROUP_OF.get(method)
        few = asyncio.Semaphore(_AT_ONCE.get(method, _MOST_AT_ONCE))

        async def handle(params: dict[str, Any]) -> object:
            self._check_grant(method, group)
            try:
                request = structure(params, cls)
            except InvalidData as error:
                raise InvalidParams(f"{method}: {error}") from None
            if (context := getattr(request, "context", None)) is not None:
                self._check_context(method, context)
            if self._serving >= _MOST_AT_ONCE and method != methods.PING:
                raise InternalError(f"{method}: too many requests at once", data={"reason": "overloaded"})
            self._serving += 1
            try:
                if method == methods.PING:
                    return await serve(request)
                async with few:
                    await self._until_it_reads()
                    answer = await serve(request)
                    await self._until_it_reads()
                    return answer
            except StoreError as error:
                raise InternalError(str(error)) from None
            finally:
                self._serving -= 1

        return handle

    async def _until_it_reads(self) -> None:
        """Wait while the extension does not read what it was answered: its requests are worked on no further then."""
        if self._drained is not None:
            await self._drained()

    def _check_grant(self, method: str, group: str | None) -> None:
        if group is not None and not self._grants[group]:
            raise CapabilityDisabled(f"{method}: the manifest of {self._extension} does not have {group} = true")

    def _check_context(self, method: str, context: messages.Context) -> None:
        if context.token != self._token or context.tier != "command":
            raise ContextViolation(
                f"{method} needs the context of a tool, a hook or a command of this very run of {self._extension}"
            )

    def _notified(self, method: str) -> NotificationHandler:
        cls = messages.PARAMS[method]

        def take(params: dict[str, Any]) -> None:
            try:
                record = structure(params, cls)
            except InvalidData as error:
                self._complain(f"malformed {method}", "ignored a malformed %s: %s", method, error)
                return
            self._told(method, record)

        return take

    def _warn(self, what: str, message: str, *args: object) -> None:
        _log.warning(f"%s: {message}", self._extension, *args)

    # -- the methods ---------------------------------------------------------------------------------------------------

    async def _ping(self, request: messages.Empty) -> object:
        return {}

    async def _ui(self, request: messages.UiRequest) -> object:
        if request.kind not in self._delegate.ui_kinds:
            raise NoUI(f"this host cannot show {request.kind!r}")
        widgets = widgets_in(request.widget) if isinstance(request, messages.SetWidgetRequest) else []
        result = await self._delegate.ui(self._extension, request)
        for widget_id in widgets:
            self._room.owns_widget(self._extension, widget_id)
        return _written(result, messages.UiResult)

    async def _kv_get(self, request: messages.KvGetParams) -> object:
        return {"value": await self._store.get(self._extension, request.key)}

    async def _kv_set(self, request: messages.KvSetParams) -> object:
        try:
            await self._store.set(self._extension, request.key, request.value)
        except orjson.JSONEncodeError as error:
            raise InvalidParams(f"kv/set: the value cannot be stored: {error}") from None
        return {}

    async def _kv_delete(self, request: messages.KvDeleteParams) -> object:
        await self._store.delete(self._extension, request.key)
        return {}

    async def _kv_list(self, request: messages.KvListParams) -> object:
        return {"keys": await self._store.keys(self._extension, request.prefix or "")}

    async def _exec(self, request: messages.ExecRunParams) -> object:
        return _written(await self._delegate.exec(self._extension, request), messages.ExecRunResult)

    async def _publish(self, request: messages.BusPublishParams) -> object:
        self._room.publish(self._extension, request.topic, request.payload)
        return {}

    def _published(self, params: dict[str, Any]) -> None:
        # A notification in the schema, a request from some extensions (docs/protocol.md, section 9): both are taken.
        try:
            self._check_grant(methods.BUS_PUBLISH, "bus")
            request: messages.BusPublishParams = structure(params, messages.BusPublishParams)
        except (RpcError, InvalidData) as error:
            self._complain(f"malformed {methods.BUS_PUBLISH}", "nothing was published: %s", error)
            return
        self._room.publish(self._extension, request.topic, request.payload)

    async def _set_active(self, request: messages.SetActiveParams) -> object:
        return {"active": self._room.set_active(self._extension, request.tools)}

    async def _send_message(self, request: messages.SessionSendMessageParams) -> object:
        await self._delegate.send_message(self._extension, request)
        return {}

    async def _send_user_message(self, request: messages.SessionSendUserMessageParams) -> object:
        await self._delegate.send_user_message(self._extension, request)
        return {}

    async def _append_entry(self, request: messages.SessionAppendEntryParams) -> object:
        await self._delegate.append_entry(self._extension, request)
        return {}

    async def _set_model(self, request: messages.SessionSetModelParams) -> object:
        await self._delegate.set_model(self._extension, request)
        return {}

    async def _session_state(self, request: messages.SessionStateParams) -> object:
        state = await self._delegate.session_state(self._extension)
        return {} if state is None else {"state": state}


def _written(result: object, cls: type[messages.Record]) -> dict[str, Any]:
    if not isinstance(result, cls):
        raise TypeError(f"the delegate's answer is a {type(result).__name__}, and not a {cls.__name__}")
    return unstructure(result)
