"""What an extension may ask of its host: small typed clients, one a group of methods.

They ask through a :class:`~sepkit.contexts.link.Link`. What the host has switched off raises ``CapabilityDisabled``
without asking; what it does not mention is tried. Where a host does not know a method that others know, the call
degrades as its docstring says, and the log says so once.

Source: docs/protocol.md, sections 4 and 9.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast, overload

from sepkit.errors import EncodeError, InternalError, InvalidData, MethodNotFound, NoUI
from sepkit.schema import stored_type
from sepkit.wire import messages, methods
from sepkit.wire.converter import structure
from sepkit.wire.writing import to_json

T = TypeVar("T")
D = TypeVar("D")

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]
"""A request to the host: method and params in, result out."""


class UI:
    """The person in front of the host.

    Raises (all of it): ``NoUI`` where nobody is there, or the host cannot show that kind.
    """

    def __init__(self, ask: Ask, kinds: frozenset[str] | None) -> None:
        self._ask = ask
        self._kinds = kinds

    def has(self, kind: methods.UiKind) -> bool:
        """Whether the host said that it can show ``kind``."""
        return self._kinds is not None and kind in self._kinds

    async def select(self, prompt: str, options: Sequence[str]) -> str | None:
        """Have one of ``options`` chosen; None where it was dismissed."""
        result = await self._request({"kind": "select", "prompt": prompt, "options": list(options)})
        return None if result.cancelled else _given(result.value, "value")

    async def confirm(self, prompt: str) -> bool | None:
        """Ask a yes-or-no question; None where it was dismissed."""
        result = await self._request({"kind": "confirm", "prompt": prompt})
        return None if result.cancelled else _given(result.confirmed, "confirmed")

    async def input(self, prompt: str, default: str | None = None) -> str | None:
        """Ask for a line of text; None where it was dismissed."""
        params = {"kind": "input", "prompt": prompt}
        if default is not None:
            params["default"] = default
        result = await self._request(params)
        return None if result.cancelled else _given(result.text, "text")

    async def notify(self, message: str, level: Literal["info", "warn", "error"] = "info") -> None:
        """Show a message."""
        await self._request({"kind": "notify", "message": message, "level": level})

    async def set_status(self, status: str) -> None:
        """Show ``status`` in the status line."""
        await self._request({"kind": "set_status", "status": status})

    async def set_title(self, title: str) -> None:
        """Set the window's title."""
        await self._request({"kind": "set_title", "title": title})

    async def set_widget(self, widget: Mapping[str, Any]) -> None:
        """Show a render block."""
        await self._request({"kind": "set_widget", "widget": _plain(widget)})

    async def form(self, message: str, cls: type[T]) -> T | None:
        """Ask for several things at once; None where it was dismissed.

        A host that can show a form shows one. Others, as under SEP, ask one question after another.

        Args:
            message: What it is for.
            cls: A flat dataclass, attrs class, TypedDict or NamedTuple: texts (also dates, and texts of a ``Format``),
                numbers, yes or no, and choices (Literal, Enum), each with a default or without.

        Raises:
            RegistrationError: ``cls`` has a field that no form can ask for; names it.
            InvalidData: What was answered did not fit, five times.
        """
        from sepkit.contexts.forms import ask_form  # few ask

        return await ask_form(self, self._kinds, self._asked, message, cls)

    async def open_url(self, message: str, url: str) -> bool:
        """Have a page opened: to log in, to pay, or for a secret, which must not pass through a form.

        A host that opens pages asks the person first. Others, as under SEP, show the message and the URL.

        Args:
            message: What it is for.
            url: The page: ``https://…`` or ``http://…``.

        Returns:
            Whether it was shown, and not refused.

        Raises:
            ValueError: ``url`` is something else.
        """
        given: object = url
        if not isinstance(given, str) or not re.fullmatch(r"https?://[!-~]{1,8000}", given):
            raise ValueError(f"ui.open_url: {ascii(given)[:100]} is no URL; write https://… with %20 for a space")
        if self._kinds is None or "open_url" not in self._kinds:
            await self.notify(f"{message}\n{url}")
            return True
        result = await self._request({"kind": "open_url", "message": message, "url": url})
        return not result.cancelled

    async def _request(self, params: dict[str, Any]) -> messages.UiResult:
        return _structured(await self._asked(params), messages.UiResult)

    async def _asked(self, params: dict[str, Any]) -> Any:
        if self._kinds is not None and params["kind"] not in self._kinds:
            raise NoUI(
                f"the host cannot show {params['kind']!r} (it can show: {', '.join(sorted(self._kinds)) or 'nothing'})"
            )
        try:
            return await self._ask(methods.UI_REQUEST, params)
        except MethodNotFound:
            raise NoUI("the host has no user interface") from None


class Kv:
    """The host's key-value store; the keys of an extension are its own."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    @overload
    async def get(self, key: str) -> Any: ...
    @overload
    async def get(self, key: str, *, default: Any) -> Any: ...
    @overload
    async def get(self, key: str, type: type[T]) -> T | None: ...
    @overload
    async def get(self, key: str, type: type[T], default: D) -> T | D: ...
    async def get(self, key: str, type: Any = Any, default: Any = None) -> Any:  # noqa: A002
        """The value of ``key``, structured into ``type``; ``default`` where there is none.

        Any type that a tool's argument may have. What ``set`` stored comes back; nothing is coerced.

        Raises:
            InvalidData: What is stored does not fit ``type``.
            RegistrationError: ``type`` has no form in JSON.
        """
        convert = stored_type(type, what="kv.get")
        result = _structured(await self._ask(methods.KV_GET, {"key": key}), messages.KvGetResult)
        if result.value is None:
            return default
        return convert(result.value)

    async def set(self, key: str, value: object) -> None:
        """Store ``value``: plain data, or anything that ``to_json`` knows.

        Raises:
            EncodeError: ``value`` has no form in JSON.
        """
        await self._ask(methods.KV_SET, {"key": key, "value": to_json(value, "$.value")})

    async def delete(self, key: str) -> None:
        """Forget ``key``; nothing happens where it is not known.

        A host that cannot delete stores null instead, which reads the same.
        """
        try:
            await self._ask(methods.KV_DELETE, {"key": key})
        except MethodNotFound:
            await self._ask(methods.KV_SET, {"key": key, "value": None})

    async def list(self, prefix: str = "") -> list[str]:
        """The keys that begin with ``prefix``.

        None at all where the host cannot list keys. Whoever must find his own again keeps a key that names them.
        """
        params = {"prefix": prefix} if prefix else {}
        try:
            result = await self._ask(methods.KV_LIST, params)
        except MethodNotFound:
            return []
        return list(_structured(result, messages.KvListResult).keys)


class Client:
    """An MCP client in its own words: what it can be asked beside what all hosts know."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def ask(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Ask it, for example ``sampling/createMessage`` or ``roots/list``; the result as it comes, as JSON data.

        Raises:
            MethodNotFound: It cannot do that; SEP hosts never can.
            EncodeError: ``params`` have no form in JSON.
            RpcError: It answered with an error.
        """
        return await self._ask(method, _plain({} if params is None else params))


class Exec:
    """Commands, run by the host under its own rules."""

    def __init__(self, ask: Ask, context: dict[str, Any]) -> None:
        self._ask = ask
        self._context = context

    async def run(self, command: str, args: Sequence[str] = (), *, cwd: str | None = None) -> messages.ExecRunResult:
        """Run ``command`` with ``args``; the result has ``stdout``, ``stderr`` and ``exit_code``.

        Raises:
            NotTrusted: The host does not allow it.
        """
        params: dict[str, Any] = {"command": command, "args": list(args), "context": self._context}
        if cwd is not None:
            params["cwd"] = cwd
        return _structured(await self._ask(methods.EXEC_RUN, params), messages.ExecRunResult)


class Session:
    """The conversation that the call came from."""

    def __init__(self, ask: Ask, context: dict[str, Any]) -> None:
        self._ask = ask
        self._context = context

    async def send_message(self, text: str, role: Literal["user", "assistant"] = "assistant") -> None:
        """Post a message into the session."""
        await self._send(methods.SESSION_SEND_MESSAGE, {"text": text, "role": role})

    async def send_user_message(
        self, text: str, deliver_as: Literal["steer", "follow_up", "next_turn"] = "follow_up"
    ) -> None:
        """Post what the user might have said: into the running turn, after it, or as the next one."""
        await self._send(methods.SESSION_SEND_USER_MESSAGE, {"text": text, "deliver_as": deliver_as})

    async def append_entry(self, entry: Mapping[str, Any]) -> None:
        """Keep ``entry`` in the transcript; the model never sees it."""
        await self._send(methods.SESSION_APPEND_ENTRY, {"entry": _plain(entry)})

    async def set_model(self, model: str, *, provider: str | None = None, thinking: str | None = None) -> bool:
        """Switch the session's model. Whether the host can do that at all."""
        params = {"model": model}
        if provider is not None:
            params["provider"] = provider
        if thinking is not None:
            params["thinking"] = thinking
        try:
            await self._send(methods.SESSION_SET_MODEL, params)
        except MethodNotFound:
            return False
        return True

    async def state(self) -> dict[str, Any]:
        """The session's state, as the host shapes it; empty where the host has none to tell."""
        try:
            result = await self._send(methods.SESSION_STATE, {})
        except MethodNotFound:
            return {}
        return dict(_structured(result, messages.SessionStateResult).state or {})

    async def _send(self, method: str, params: dict[str, Any]) -> Any:
        return await self._ask(method, {"context": self._context, **params})


class Bus:
    """Messages between extensions."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def publish(self, topic: str, payload: Mapping[str, Any] | object) -> bool:
        """Publish ``payload`` (an object) under ``topic``. Whether the host has a bus at all."""
        plain = to_json(payload, "$.payload")
        if type(plain) is not dict:
            raise EncodeError("$.payload", f"a payload is an object, not {type(payload).__name__}")
        try:
            # The schema calls it a notification; hosts with a bus act on a request only (docs/protocol.md, section 9).
            await self._ask(methods.BUS_PUBLISH, {"topic": topic, "payload": plain})
        except MethodNotFound:
            return False
        return True


class Tools:
    """The session's active tools."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def set_active(self, names: Sequence[str]) -> list[str]:
        """Ask for these tools to be the active ones; those that the host allows come back.

        None comes back where the host cannot do that: its tools stay as they are.
        """
        try:
            result = await self._ask(methods.TOOLS_SET_ACTIVE, {"tools": list(names)})
        except MethodNotFound:
            return []
        return list(_structured(result, messages.SetActiveResult).active)


def _structured(result: object, cls: type[T]) -> T:
    """The host's answer as a record; what does not fit is the host's fault, and said so."""
    try:
        return structure(result, cls)
    except InvalidData as error:
        raise InternalError(f"the host's answer does not fit the protocol: {error}") from None


def _given(value: T | None, field: str) -> T:
    if value is None:
        raise InternalError(f"the host's answer lacks {field!r}")
    return value


def _plain(value: object) -> dict[str, Any]:
    plain = to_json(value)
    if type(plain) is not dict:
        raise EncodeError("$", f"expected an object, not {type(value).__name__}")
    return cast("dict[str, Any]", plain)
