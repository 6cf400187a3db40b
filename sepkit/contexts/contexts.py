"""What a handler is given beside its arguments. What its tier forbids is not there to call.

Contexts are made anew for each call and cheap to make: what they offer is built when it is first asked for. Those of
the most frequent calls do without ``super().__init__``, which takes 600 instructions.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, overload

from sepkit.concurrency.lanes import Hold, Slots
from sepkit.concurrency.threads import wait_in_thread
from sepkit.contexts.backend import Principal
from sepkit.contexts.link import HostInfo, Link, Workspace
from sepkit.contexts.services import UI, Ask, Bus, Client, Exec, Kv, Session, Tools
from sepkit.contexts.streams import StreamFold
from sepkit.wire import messages, methods
from sepkit.wire.writing import to_json

if TYPE_CHECKING:
    from datetime import datetime

    from typing_extensions import TypeVar as TypeVarWithDefault

    from sepkit.contexts.documents import Collection, Documents
    from sepkit.contexts.fetching import Response
    from sepkit.contexts.secrets import Secrets
    from sepkit.contexts.settings import Setting
    from sepkit.contexts.users import User
    from sepkit.tasks import TaskRun

T = TypeVar("T")
D = TypeVar("D")

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
    def user(self) -> User:
        """Whom this is done for: its ``id``, None where there is no user, and what the host tells of it."""
        from sepkit.contexts.users import User

        return User(self._link)

    async def users(self) -> list[str]:
        """The ids of the host's users, as far as it tells; none where it has no users.

        Raises:
            CapabilityDisabled: The host does not let this extension read them.
        """
        return list(await self._link.backend.users.ids())

    async def fetch(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        timeout: float = 30,
        max_bytes: int = 64 * 1024 * 1024,
    ) -> Response:
        """Send an HTTP request, and read its answer to the end; whatever its status, it is an answer.

        Redirects are followed, as far as the app's ``needs`` allow; to another server only headers such as ``Accept``
        go along. A ``def`` handler writes ``ctx.wait(ctx.fetch(url))``.

        Args:
            url: http or https; ``App(needs=["network:api.example.com"])`` says where an app may go.
            method: Of HTTP.
            headers: By name.
            body: What is sent; a str as UTF-8.
            timeout: Seconds for all of it, from the wait for a free connection to the last byte.
            max_bytes: How long the answer may be, unpacked.

        Raises:
            FetchError: The app's needs do not allow it, with the line to write; it took too long, the answer is too
                long, or the connection failed or broke.
            ValueError: An option cannot be sent.
        """
        from sepkit.contexts import fetching

        request = fetching.checked_request(
            url, method=method, headers=headers, body=body, timeout=timeout, max_bytes=max_bytes
        )
        return await fetching.fetch(self._link.backend.fetcher, request)

    @overload
    def fetch_stream(
        self,
        url: str,
        *,
        binary: Literal[False] = False,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        timeout: float = 30,
    ) -> AbstractAsyncContextManager[AsyncIterator[str]]: ...
    @overload
    def fetch_stream(
        self,
        url: str,
        *,
        binary: Literal[True],
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        timeout: float = 30,
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...
    def fetch_stream(
        self,
        url: str,
        *,
        binary: bool = False,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: str | bytes | None = None,
        timeout: float = 30,
    ) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
        """Send an HTTP request, and take its answer in chunks: ``async with ctx.fetch_stream(url) as chunks``.

        A server sends no more than what is taken and a little ahead. The end of the block closes the connection, also
        where the answer has not been read to its end. One that breaks off raises, and never just ends.

        Args:
            url: As for :meth:`fetch`, like all that follow.
            binary: Give bytes; else texts, in the charset that the answer names, or in UTF-8.
            method: Of HTTP.
            headers: By name.
            body: What is sent.
            timeout: Seconds until the answer begins, and for each chunk of it.

        Raises:
            HttpError: The status is not one of success, 200 to 299.
            FetchError: As for :meth:`fetch`.
            ValueError: An option cannot be sent.
        """
        from sepkit.contexts import fetching

        request = fetching.checked_request(
            url, method=method, headers=headers, body=body, timeout=timeout, binary=binary
        )
        return fetching.fetch_stream(self._link.backend.fetcher, request)

    @property
    def flags(self) -> Mapping[str, Any]:
        """The values of the app's flags on this connection: the host's, else their defaults."""
        return self._link.flags

    # Settings and secrets: their modules are imported where an app uses them.

    def setting(self, setting: Setting[T]) -> T:
        """The value of a setting: the host's, else that of ``--flag``, the environment, the store, else its default.

        Raises:
            RegistrationError: It is a setting of another app.
        """
        return setting.of(self._link.flags)

    async def set_setting(self, setting: Setting[T], value: T) -> None:
        """Store the value of a setting; it has been written to the disk when this returns.

        The handlers of ``@app.on_setting`` are called afterwards, where it is another value than before.

        Raises:
            SettingFixed: The host, the command line or the environment holds it; the message names which.
            InvalidData: The value is not of the setting's type, or longer than 64 KiB.
            EncodeError: It has no form in JSON.
            RegistrationError: It is a setting of another app.
            StoreError: It cannot be written.
        """
        await self._link.set_setting(setting, value)

    @property
    def secrets(self) -> Secrets:
        """The app's secrets, such as the keys of services: from the environment, or the system's keyring."""
        from sepkit.contexts.secrets import Secrets

        return Secrets(self._link.backend.secrets, None)

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

    @property
    def client(self) -> Client:
        """The client in its own words: what MCP clients can be asked beside what all hosts know."""
        return Client(self._link.ask_client)

    @property
    def principal(self) -> Principal | None:
        """Whom the call is made for; None where the host has no users, as under SEP."""
        return self._link.principal

    def has_ui(self, kind: methods.UiKind) -> bool:
        """Whether the host said that it can show ``kind``."""
        return self.ui.has(kind)

    def store(self, collection: Collection[D]) -> Documents[D]:
        """The app's documents of a collection.

        Raises:
            RegistrationError: It is no collection of the app.

        Source: docs/documents.md.
        """
        from sepkit.contexts.documents import Documents  # only for apps that have collections

        return Documents(self._link, collection)

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

    def reading(self, uri: str) -> ResourceContext[StateT]:
        """The context of a resource that is read by this call; it lends the call's slot."""
        return ResourceContext(self._link, self._raw, uri, self._ask_host)


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


class ResourceContext(_CommandTier[StateT]):
    """What a resource is given: what a command has, and the URI that is read."""

    __slots__ = ("_lending", "uri")

    def __init__(self, link: Link, raw: dict[str, Any], uri: str, ask: Ask) -> None:
        super().__init__(link, raw)
        self._lending = ask  # the slot of the call that reads it, meanwhile
        self.uri = uri
        """The URI as the host sent it."""

    @property
    def _ask(self) -> Ask:
        return self._lending

    def _tags(self) -> dict[str, object]:
        return {"resource": self.uri}


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


class _RunContext(Context[StateT]):
    """What runs beside the calls. It lives longer than any call, so it has no ``session`` and no ``exec``."""

    __slots__ = ("_run",)

    def __init__(self, link: Link, run: TaskRun) -> None:
        super().__init__(link, _EMPTY_CONTEXT)
        self._run = run

    @property
    def user_id(self) -> str | None:
        """Whom it runs for; None where it runs for no user."""
        return self._run.user_id

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


class TaskContext(_RunContext[StateT]):
    """What a background task is given."""

    __slots__ = ()

    @property
    def task_id(self) -> str:
        """The id it was started under."""
        return self._run.task_id

    @property
    def payload(self) -> Any:
        """What it was started with."""
        return self._run.payload


class JobContext(_RunContext[StateT]):
    """What the run of a job is given."""

    __slots__ = ("job_id", "payload", "scheduled_for")

    def __init__(self, link: Link, run: TaskRun, job_id: str, payload: Any, scheduled_for: datetime) -> None:
        super().__init__(link, run)
        self.job_id = job_id
        """The job's id: what ``app.schedule.at`` gave it, or the name of a job that repeats."""
        self.payload = payload
        """What it was scheduled with, as JSON data; None for a job that repeats."""
        self.scheduled_for = scheduled_for
        """The time that this run is for, in UTC. It runs no sooner; of times that were missed, it is the last."""


class _Tagged(logging.LoggerAdapter[logging.Logger]):
    """Adds what the call is to each record, beside what the author adds."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
