"""What a handler is given beside its arguments. What its tier forbids is not there to call.

Contexts are made anew for each call and cheap to make: what they offer is built when it is first asked for. Those of
the most frequent calls do without ``super().__init__``, which takes 600 instructions.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from sepkit.concurrency.lanes import Hold, Slots
from sepkit.concurrency.threads import wait_in_thread
from sepkit.contexts.link import HostInfo, Link, Workspace
from sepkit.contexts.services import UI, Ask, Bus, Exec, Kv, Session, Tools
from sepkit.contexts.streams import StreamFold
from sepkit.wire import messages, methods
from sepkit.wire.writing import to_json

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    from sepkit.tasks import TaskRun

T = TypeVar("T")

_EMPTY_CONTEXT: Final[dict[str, Any]] = {"token": "", "tier": "event"}


# What the lifespan yields: with `ctx: ToolContext[State]` the type of `ctx.state`; Any in a bare `ToolContext`.
if TYPE_CHECKING:
    StateT = TypeVarWithDefault("StateT", default=Any)
else:  # at run time the default means nothing, and typing_extensions takes 3 ms to import
    StateT = TypeVar("StateT")


class Context(Generic[StateT]):
    """What all handlers have: ``log``, ``kv``, ``bus``, ``ui``, ``tools``, ``state``, and their call's ``context``."""

    __slots__ = ("_link", "_raw")

    def __init__(self, link: Link, raw: dict[str, Any]) -> None:
        self._link = link
        self._raw = raw

    @property
    def context(self) -> messages.Context:
        """The opaque token and the tier (``"event"`` or ``"command"``) of this call.

        Source: docs/protocol.md, section 5.
        """
        return messages.Context(self._raw["token"], self._raw["tier"])

    @property
    def state(self) -> StateT:
        """What the app's lifespan yielded; None without one. ``ToolContext[State]`` gives it its type."""
        state: StateT = self._link.state
        return state

    @property
    def host(self) -> HostInfo:
        """Who the host is: its name and version, the mode, the workspace, the session's id."""
        return self._link.host

    @property
    def workspace(self) -> Workspace:
        """Where the agent works (``root``, an absolute path), and whether its user trusts that place (``trusted``)."""
        return self._link.host.workspace

    @property
    def flags(self) -> Mapping[str, Any]:
        """The values of the app's flags on this connection: the host's, else their defaults."""
        return self._link.flags

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records reach the host, tagged with what this call is."""
        return _Tagged(self._link.logger, self._tags())

    @property
    def kv(self) -> Kv:
        """The host's key-value store."""
        return Kv(self._ask)

    @property
    def bus(self) -> Bus:
        """Messages between extensions."""
        return Bus(self._ask)

    @property
    def ui(self) -> UI:
        """The person in front of the host."""
        return UI(self._ask, self._link.ui_kinds)

    @property
    def tools(self) -> Tools:
        """The session's active tools."""
        return Tools(self._ask)

    def has_ui(self, kind: methods.UiKind) -> bool:
        """Whether the host said that it can show ``kind``."""
        return self.ui.has(kind)

    def wait(self, awaitable: Awaitable[T]) -> T:
        """Await something in the app's loop, from another thread: ``ctx.wait(ctx.kv.get("key"))`` in a ``def`` handler.

        Where the call is cancelled meanwhile, so is what it waits for.

        Returns:
            The awaitable's value.

        Raises:
            RuntimeError: This is the loop's own thread, as in an ``async def`` handler: write ``await``.
            ConnectionClosed: The app is not served in this process: it is a forked child.
            CancelledError: The call was cancelled.
            Exception: What the awaitable raised.
        """
        return wait_in_thread(awaitable, self._link.loop)

    async def ping(self) -> None:
        """Ask the host for a sign of life.

        Source: docs/protocol.md, section 4.
        """
        await self._ask(methods.PING, {})

    @property
    def _ask(self) -> Ask:
        return self._link.ask

    def _tags(self) -> dict[str, object]:
        return {}


class _CommandTier(Context[StateT]):
    """What may act on the session."""

    __slots__ = ()

    @property
    def session(self) -> Session:
        """The conversation that the call came from."""
        return Session(self._ask, self._raw)

    @property
    def exec(self) -> Exec:
        """Commands, run by the host under its own rules."""
        return Exec(self._ask, self._raw)


class ToolContext(_CommandTier[StateT]):
    """What a tool is given."""

    __slots__ = ("_hold", "_over", "_slots", "_tool", "call_id")

    def __init__(self, link: Link, raw: dict[str, Any], call_id: str, tool: str, slots: Slots) -> None:
        self._link = link
        self._raw = raw
        self._slots = slots
        self._hold: Hold | None = None  # made when the host is first asked
        self._tool = tool
        self._over = False
        self.call_id = call_id
        """The host's name for this call."""

    def update(self, message: str | None = None, *, progress: float | None = None, details: object = None) -> None:
        """Tell the host how far it is, from any thread.

        Dropped once the tool has returned, and while the host does not keep up.

        Args:
            message: A line for people.
            progress: The part that is done, from 0 to 1.
            details: Anything else, as JSON.

        Raises:
            ValueError: ``progress`` is outside 0..1.
            EncodeError: ``details`` has no form in JSON.

        Source: docs/protocol.md, section 4, ``tool/update``.
        """
        params: dict[str, Any] = {"call_id": self.call_id}
        if message is not None:
            params["message"] = str(message)
        if progress is not None:
            if not 0 <= progress <= 1:  # NaN fails this too
                raise ValueError(f"progress goes from 0 to 1, not {progress!r}")
            params["progress"] = progress
        if details is not None:
            params["details"] = to_json(details, "$.details")
        if not self._over:
            self._link.tell(methods.TOOL_UPDATE, params, unless=self._is_over)

    @property
    def _ask(self) -> Ask:
        return self._ask_host

    async def _ask_host(self, method: str, params: dict[str, Any]) -> Any:
        if self._over:  # by a task that it has left behind; the slot is another's by now
            return await self._link.ask(method, params)
        if self._hold is None:
            self._hold = Hold(self._slots)
        return await self._hold.lend(self._link.ask(method, params))

    def _tags(self) -> dict[str, object]:
        return {"tool": self._tool, "call_id": self.call_id}

    def close(self) -> None:
        """The tool has returned: progress told from now on is dropped, what threads have told before goes out."""
        self._link.flush()
        self._over = True
        if self._hold is not None:
            self._hold.end()

    def _is_over(self) -> bool:
        return self._over


class CommandContext(_CommandTier[StateT]):
    """What a command is given."""

    __slots__ = ("_command", "arguments")

    def __init__(self, link: Link, raw: dict[str, Any], command: str, arguments: dict[str, Any]) -> None:
        self._link = link
        self._raw = raw
        self._command = command
        self.arguments = arguments
        """The arguments as the host sent them."""

    def _tags(self) -> dict[str, object]:
        return {"command": self._command}


class HookContext(_CommandTier[StateT]):
    """What a hook is given."""

    __slots__ = ("hook",)

    def __init__(self, link: Link, raw: dict[str, Any], hook: str) -> None:
        self._link = link
        self._raw = raw
        self.hook = hook
        """The hook's name."""

    def _tags(self) -> dict[str, object]:
        return {"hook": self.hook}


class EventContext(Context[StateT]):
    """What an observer is given. Events only observe, so it has no ``session`` and no ``exec``."""

    __slots__ = ("name", "seq")

    def __init__(self, link: Link, raw: dict[str, Any], name: str, seq: int | None) -> None:
        self._link = link
        self._raw = raw
        self.name = name
        """The event's name."""
        self.seq = seq
        """Its number on this connection; None for ``events_lost``. A gap says that events were shed."""

    def _tags(self) -> dict[str, object]:
        return {"event": self.name}


class ProviderContext(Context[StateT]):
    """What a provider is given, and its OAuth handlers."""

    __slots__ = ("_fold", "_hold", "_request_id", "_streams")

    def __init__(
        self,
        link: Link,
        raw: dict[str, Any] | None,
        request_id: str = "",
        *,
        slots: Slots | None = None,  # None for a login, which holds no slot and has no stream
        streams: bool = False,
    ) -> None:
        super().__init__(link, raw or _EMPTY_CONTEXT)
        self._request_id = request_id
        self._hold = None if slots is None else Hold(slots)
        self._fold = None if slots is None else StreamFold()
        self._streams = streams

    async def delta(self, event: messages.StreamEvent) -> None:
        """Add a stream event to the answer, and send it on where the host asked for a stream.

        What the provider's generator yields goes this way by itself. The host is told as it can use it: usage once all
        of it is known, and the tool calls numbered from 0. Waits while the host does not keep up.

        Raises:
            TypeError: It is not a stream event, or a field of it has a wrong type. Nothing is sent then.

        Source: docs/protocol.md, section 4, ``provider/delta``.
        """
        told = None if self._fold is None else self._fold.add(event)
        if self._streams and told is not None:
            delta = {"request_id": self._request_id, "event": told}
            if self._hold is not None and self._link.outgoing.congested:  # a host that does not read holds no slot
                await self._hold.lend(self._link.outgoing.drain())
            await self._link.send(methods.PROVIDER_DELTA, delta)

    def folded(self) -> dict[str, Any]:
        """The answer that the events so far come to, as plain JSON data."""
        assert self._fold is not None
        return self._fold.result()

    @property
    def _ask(self) -> Ask:
        return self._ask_host

    async def _ask_host(self, method: str, params: dict[str, Any]) -> Any:
        answer = self._link.ask(method, params)
        return await (answer if self._hold is None else self._hold.lend(answer))

    def close(self) -> None:
        """The call has ended, and gives its slot back."""
        if self._hold is not None:
            self._hold.end()

    def _tags(self) -> dict[str, object]:
        return {"request_id": self._request_id}


class TaskContext(Context[StateT]):
    """What a background task is given. It lives longer than any call, so it has no ``session`` and no ``exec``."""

    __slots__ = ("_run",)

    def __init__(self, link: Link, run: TaskRun) -> None:
        super().__init__(link, _EMPTY_CONTEXT)
        self._run = run

    @property
    def task_id(self) -> str:
        """The id it was started under."""
        return self._run.task_id

    @property
    def user_id(self) -> str | None:
        """Whom it runs for; None where it is not per user."""
        return self._run.user_id

    @property
    def payload(self) -> Any:
        """What it was started with."""
        return self._run.payload

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop."""
        return self._run.stopping

    async def wait_stop(self, timeout: float | None = None) -> bool:
        """Wait until it is asked to stop, at most ``timeout`` seconds. Whether it was."""
        return await self._run.wait_stop(timeout)

    async def sleep(self, seconds: float) -> None:
        """Sleep; ends early when it is asked to stop."""
        await self._run.sleep(seconds)

    def report_health(self, text: str) -> None:
        """Say how it is doing."""
        self._run.report_health(text)

    def _tags(self) -> dict[str, object]:
        return {"task_id": self._run.task_id}


class _Tagged(logging.LoggerAdapter[logging.Logger]):
    """Adds what the call is to each record, beside what the author adds."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
