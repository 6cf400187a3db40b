"""``Host``: loads extensions, and is all that the program around it needs of them.

It knows all extensions, and which of them has a tool, a command, a provider or a widget. What concerns only one of them
is in ``extension``; hooks, which concern several, are in ``hooks``.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import attrs
import orjson

from sepkit.capabilities.delegate import Delegate
from sepkit.capabilities.store import KvStore
from sepkit.errors import InvalidParams, NotTrusted, SepkitError, sayable_path
from sepkit.host import hooks, rounds
from sepkit.host.budget import Budget, Neighbours
from sepkit.host.calls import CompletionStream, OnUpdate
from sepkit.host.claims import Claims, claimed
from sepkit.host.extension import Extension
from sepkit.host.fold import Folded, Outcome
from sepkit.host.guard import Guard
from sepkit.host.life import INITIALIZE_TIMEOUT, PING_AFTER, PING_TIMEOUT, SHUTDOWN_GRACE, fitted
from sepkit.host.lives import Status
from sepkit.host.manifest import Discovery, Manifest, ManifestError, Problem, home_folder, read
from sepkit.host.setting import Setting
from sepkit.host.supervision import DELAYS, HEALTHY_AFTER
from sepkit.wire import messages, methods
from sepkit.wire.frames import MAX_FRAME_BYTES

_log = logging.getLogger("sepkit.host")

_MOST_WIDGETS: Final = 1000  # of one extension that are remembered, the newest: it may invent any number of ids
_MOST_CLASHES: Final = 20  # that are told of one extension

# What publishing costs for each receiver, itself included, which has to read it: seconds, and seconds a byte.
_TELLING: Final = 100e-6
_TELLING_BYTE: Final = 5e-9

TOOL_TIMEOUT: Final = 120.0
COMMAND_TIMEOUT: Final = 120.0
COMPLETION_TIMEOUT: Final = 5.0
OAUTH_TIMEOUT: Final = 300.0


@attrs.frozen
class HostTool:
    """A tool, as the host offers it to a model."""

    name: str
    """``<extension>.<tool>``."""
    extension: str
    description: str
    parameters: dict[str, Any]
    deferred: bool = False


class Host:
    """Runs extensions for a program: an agent, a server, an editor.

    As an async context manager it ends all of them when the block is left.

    Args:
        name: The program's name, told to extensions; like ``version``.
        version: The program's version.
        workspace: Where the agent works; the current folder by default.
        trusted: Whether its user trusts that place: only then its own extensions are loaded.
        mode: What kind of host it is.
        delegate: What decides for the program, and is told; by default nothing is granted.
        flags: The values of flags.
        session_id: The host's session.
        store: Where ``kv`` keeps its data: a file, or a store. By default ``kv.sqlite3`` in ``$SMOOTH_HOME``, else in
            ``~/.smooth``.
        active_tools: The names of the tools that a model may have at all; None is all of them.
        isolation: Whether extensions that ask for a sandbox are run in one. Without it they are refused.
        initialize_timeout: Seconds for the handshake.
        shutdown_grace: Seconds for the end.
        ping_after: Seconds of silence before a ping.
        ping_timeout: Seconds for its answer.
        restart_delays: Seconds before each restart after a death.
        healthy_after: Seconds of life after which the restarts are counted anew.
        max_frame_bytes: The longest line that is read.
    """

    def __init__(
        self,
        name: str = "sepkit",
        version: str = "0",
        *,
        workspace: Path | str | None = None,
        trusted: bool = False,
        mode: methods.Mode = "headless",
        delegate: Delegate | None = None,
        flags: Mapping[str, Any] | None = None,
        session_id: str | None = None,
        store: KvStore | Path | str | None = None,
        active_tools: Iterable[str] | None = None,
        isolation: bool = False,
        initialize_timeout: float = INITIALIZE_TIMEOUT,
        shutdown_grace: float = SHUTDOWN_GRACE,
        ping_after: float = PING_AFTER,
        ping_timeout: float = PING_TIMEOUT,
        restart_delays: tuple[float, ...] = DELAYS,
        healthy_after: float = HEALTHY_AFTER,
        max_frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        self.name = name
        self.version = version
        self.workspace = Path.cwd() if workspace is None else Path(workspace).absolute()
        self.trusted = trusted
        self.mode: methods.Mode = mode
        self.delegate = Delegate() if delegate is None else delegate
        self.flags = dict(flags or {})
        self.session_id = session_id
        self.store = store if isinstance(store, KvStore) else KvStore(store or home_folder() / "kv.sqlite3")
        self._allowed = None if active_tools is None else frozenset(active_tools)
        # What each extension has asked for of its own tools; never more than is allowed.
        self._active: dict[str, frozenset[str]] = {}
        self._setting = Setting(
            handshake=self._handshake,
            delegate=self.delegate,
            store=self.store,
            room=self,
            guard=Guard(shutdown_grace),
            isolation=isolation,
            initialize_timeout=initialize_timeout,
            shutdown_grace=shutdown_grace,
            ping_after=ping_after,
            ping_timeout=ping_timeout,
            restart_delays=restart_delays,
            healthy_after=healthy_after,
            max_frame_bytes=max_frame_bytes,
        )
        self._extensions: dict[str, Extension] = {}  # in the order of their names: the order of hooks
        # By their full names. Changed in place: a hook that is running looks at the same table.
        self._tools: dict[str, tuple[Extension, messages.ToolRegistration]] = {}
        self._lost: dict[str, list[str]] = {}  # of each extension the tools whose names are another's, in words
        self._widgets: dict[str, dict[str, int]] = {}  # of each extension its own, and when each was first shown
        self._shown = itertools.count(1)
        self._claims = Claims()
        self._arrivals: dict[str, int] = {}  # of extensions that are being loaded: their places, whose start is slower
        self._calls = itertools.count(1)
        self._closed = False

    async def __aenter__(self) -> Host:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End all extensions, side by side, and close the store. Nothing is loaded any more."""
        self._closed = True
        try:
            await asyncio.gather(*(extension.lives.stop(for_good=True) for extension in self._extensions.values()))
        finally:
            await self.store.aclose()

    # -- loading -------------------------------------------------------------------------------------------------------

    async def load(self, found: Discovery | Iterable[Manifest]) -> list[Problem]:
        """Start extensions, side by side. One that fails fails alone.

        Returns:
            Those that could not be loaded, and why: bad manifests, too.
        """
        if self._closed:
            raise SepkitError("the host is closed")
        problems: list[Problem] = []
        if isinstance(found, Discovery):
            problems += found.problems
            found = [*found.chosen(trusted=self.trusted), *([] if self.trusted else found.untrusted())]
        started = []
        for manifest in found:
            if manifest.disabled:
                continue
            if manifest.scope == "project" and not self.trusted:
                problems.append(Problem(manifest.name, NotTrusted(f"the workspace {self.workspace} is not trusted")))
            elif manifest.name in self._extensions:
                problems.append(Problem(manifest.name, SepkitError("an extension of this name is loaded already")))
            else:
                extension = Extension(manifest, self._setting, self._registered)
                self._extensions[manifest.name] = extension
                self._arrivals[manifest.name] = self._claims.arrival()
                started.append(extension)
        self._extensions = dict(sorted(self._extensions.items()))
        for extension in started:
            self._table_around(extension.name)
        try:
            outcomes = await asyncio.gather(*(extension.lives.start() for extension in started), return_exceptions=True)
        finally:
            for extension in started:
                self._arrivals.pop(extension.name, None)
        for extension, outcome in zip(started, outcomes, strict=True):
            if isinstance(outcome, Exception):
                problems.append(Problem(extension.name, outcome))
            elif outcome is not None:
                raise outcome
        return problems

    async def reload(self, name: str) -> None:
        """Read an extension's manifest again, and start it anew; what it was given before is worth nothing then.

        It is told of its end and of its start by ``session_shutdown`` and ``session_start``, with the reason
        ``reload``. One that is disabled now is ended, and stays ``stopped``.

        Raises:
            ManifestError: The manifest cannot be read, or is another extension's; nothing has happened.
            SepkitError: It could not be started; it is ``failed``.
        """
        extension = self._extension(name)
        manifest = extension.lives.manifest
        found = read(manifest.root, scope=manifest.scope)
        if found.name != name:
            raise ManifestError(f"{found.root}: the manifest of {name} is now that of {found.name!r}")
        self._tell(extension, "session_shutdown", *self._payload({"reason": "reload"}))
        if found.disabled:
            await extension.lives.stop()
            self._forget_tools(extension)
        else:
            self._claims.renew(name)
            await extension.lives.reload(found)
            self._tell(extension, "session_start", *self._payload({"reason": "reload"}))

    async def unload(self, name: str) -> None:
        """End an extension, and forget it."""
        extension = self._extension(name)
        await extension.lives.stop(for_good=True)
        if self._extensions.get(name) is not extension:  # unloaded by another caller meanwhile
            return
        del self._extensions[name]
        for of_extensions in (self._widgets, self._active, self._lost):
            of_extensions.pop(name, None)
        self._claims.forget(name)
        self._forget_tools(extension)
        self._table_around(name)

    def _forget_tools(self, extension: Extension) -> None:
        for name in [name for name, (owner, _) in self._tools.items() if owner is extension]:
            del self._tools[name]

    def _handshake(self, manifest: Manifest) -> messages.InitializeParams:
        return messages.InitializeParams(
            protocol_version=methods.PROTOCOL_VERSION,
            host=messages.HostInfo(name=self.name, version=self.version),
            workspace=messages.WorkspaceInfo(root=sayable_path(self.workspace), trusted=self.trusted),
            session=None if self.session_id is None else messages.SessionInfo(id=self.session_id),
            mode=self.mode,
            ui_capabilities=list(self.delegate.ui_kinds) if manifest.capabilities.ui else [],
            flags=self.flags,
            capabilities_enabled={**manifest.capabilities.grants(), "tasks": True},
        )

    def _registered(self, extension: Extension) -> None:
        self._table(extension)
        wanted = claimed(extension.contributions.registrations)
        clashes = self._claims.take(extension.name, wanted, self._arrivals.get(extension.name))
        for clash in clashes[:_MOST_CLASHES]:
            _log.warning("%s: %s", clash.extension, clash)
        extension.lives.budget.inform(self.delegate.registered)

    def _table(self, extension: Extension) -> None:
        """Have the table of tools hold those of an extension, as far as their names are its own."""
        self._forget_tools(extension)
        lost = []
        for tool in extension.contributions.registrations.tools:
            name = f"{extension.name}.{tool.name}"
            if (owner := self._longer(extension, name)) is None:
                self._tools[name] = (extension, tool)
            else:
                lost.append(f"its tool {tool.name!r} is not taken: the name belongs to {owner}")
        before, self._lost[extension.name] = self._lost.get(extension.name, []), lost[:_MOST_CLASHES]
        for clash in self._lost[extension.name]:
            if clash not in before:
                _log.warning("%s: %s", extension.name, clash)

    def _table_around(self, name: str) -> None:
        """An extension has come or gone: those whose names begin its own may have lost tools, or have them again."""
        for extension in self._extensions.values():
            if name.startswith(f"{extension.name}."):
                self._table(extension)
                extension.lives.budget.inform(self.delegate.registered)

    def _longer(self, extension: Extension, tool: str) -> str | None:
        """The extension that a tool's full name belongs to instead: names have dots, and the longest one counts."""
        others = (name for name in self._extensions if len(name) > len(extension.name) and tool.startswith(f"{name}."))
        return max(others, key=len, default=None)

    def _clashes(self, extension: Extension) -> Iterator[str]:
        """What an extension registers and does not get."""
        yield from self._lost.get(extension.name, ())
        yield from map(str, self._claims.clashes(extension.name))

    # -- what there is -------------------------------------------------------------------------------------------------

    def tools(self) -> list[HostTool]:
        """The tools that a model sees from the start."""
        return [tool for tool in self._all_tools() if not tool.deferred]

    def deferred_tools(self) -> list[HostTool]:
        """The tools that a model finds by a search."""
        return [tool for tool in self._all_tools() if tool.deferred]

    def _all_tools(self) -> list[HostTool]:
        return [
            HostTool(name, extension.name, tool.description, tool.parameters, tool.deferred)
            for name, (extension, tool) in sorted(self._tools.items())
            if self._is_offered(extension, name)
        ]

    def _is_allowed(self, name: str) -> bool:
        return self._allowed is None or name in self._allowed

    def _is_offered(self, extension: Extension, name: str) -> bool:
        active = self._active.get(extension.name)
        return self._is_allowed(name) and (active is None or name in active)

    def registrations(self, extension: str) -> messages.Registrations:
        """All that an extension contributes, as far as it is granted, and as far as no other had the name first."""
        return self._claims.own(extension, self._extension(extension).contributions.registrations)

    def status(self) -> list[Status]:
        """How each extension is, those that could not be loaded included."""
        return [
            attrs.evolve(
                extension.lives.status(),
                notes=(*extension.notes, *itertools.islice(self._clashes(extension), _MOST_CLASHES)),
            )
            for extension in self._extensions.values()
        ]

    async def ask(
        self, extension: str, method: str, params: Mapping[str, Any], *, timeout: float | None = COMMAND_TIMEOUT
    ) -> Any:
        """Ask an extension by a method's name, for what this class has no method of its own.

        Raises:
            ExtensionUnavailable: It is not ready.
            ExtensionDied: It died before it answered.
            RequestTimeout: It took too long.
            RpcError: It answered with an error.
        """
        return await self._extension(extension).lives.ask(method, dict(params), timeout)

    # -- tools and commands --------------------------------------------------------------------------------------------

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        on_update: OnUpdate | None = None,
        timeout: float | None = TOOL_TIMEOUT,
    ) -> messages.ToolExecuteResult:
        """Call a tool by its full name, ``<extension>.<tool>``.

        Args:
            name: The tool.
            arguments: Its arguments.
            on_update: Told how far it is.
            timeout: Seconds until it is given up; the extension is told to stop then.

        Raises:
            InvalidParams: There is no such tool.
            ExtensionUnavailable: Its extension is not ready.
            ExtensionDied: Its extension died before it answered; with exit code and the last of its stderr.
            RequestTimeout: It took too long.
            RpcError: The extension answered with an error.
        """
        entry = self._tools.get(name)
        if entry is None:
            raise InvalidParams(f"no tool {name!r}", data={"known": sorted(self._tools)})
        extension, tool = entry
        return await extension.calls.tool(
            tool.name, dict(arguments or {}), f"call-{next(self._calls)}", on_update, timeout
        )

    async def use_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        on_update: OnUpdate | None = None,
        timeout: float | None = TOOL_TIMEOUT,
    ) -> messages.ToolExecuteResult:
        """Call a tool as an agent does for its model: with the hooks and the events around it.

        The hooks ``tool_call``, the call, the hooks ``tool_result``; the events ``tool_execution_start``, ``_update``
        and ``_end``. What goes wrong is a result with ``is_error``, which the model can read: a call that was blocked
        says by which extension and why, and has ``verdict``, ``by`` and ``reason`` in its details.

        Args:
            name: The tool's full name, one of those that a model has.
            arguments: Its arguments.
            on_update: Told how far it is.
            timeout: Seconds until the call is given up; hooks have their own.
        """
        entry = self._tools.get(name)
        if entry is None or not self._is_offered(entry[0], name):
            return messages.ToolExecuteResult(f"there is no tool {name!r}", is_error=True)
        extension, tool = entry
        call_id = f"call-{next(self._calls)}"

        async def call(arguments: dict[str, Any], updated: OnUpdate) -> messages.ToolExecuteResult:
            return await extension.calls.tool(tool.name, arguments, call_id, updated, timeout)

        return await rounds.go(self, call, call_id, name, dict(arguments or {}), on_update)

    async def run_command(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        extension: str | None = None,
        timeout: float | None = COMMAND_TIMEOUT,
    ) -> str | None:
        """Run a slash command; what it shows.

        Args:
            name: The command.
            arguments: Its arguments.
            extension: Whose it is; by default the one's that had it first.
            timeout: Seconds until it is given up.

        Raises:
            InvalidParams: There is no such command.
        """
        owner = self._commander(name, extension)
        params = {"command": name, "context": owner.lives.context, "arguments": dict(arguments or {})}
        answer = await owner.lives.ask(methods.COMMAND_EXECUTE, params, timeout)
        result: messages.CommandExecuteResult = fitted(owner.name, answer, messages.CommandExecuteResult)
        return result.content

    async def complete_command(
        self, name: str, partial: str = "", *, extension: str | None = None, timeout: float | None = COMPLETION_TIMEOUT
    ) -> list[messages.Completion]:
        """The ways to complete what was typed after a command."""
        owner = self._commander(name, extension)
        params = {"command": name, "context": owner.lives.context, "partial": partial}
        answer = await owner.lives.ask(methods.COMMAND_COMPLETE, params, timeout)
        result: messages.CommandCompleteResult = fitted(owner.name, answer, messages.CommandCompleteResult)
        return result.completions

    def _commander(self, name: str, extension: str | None) -> Extension:
        owner = self._extensions.get(extension or self._claims.owner("command", name) or "")
        if owner is None or all(command.name != name for command in owner.contributions.registrations.commands):
            known = {c.name for one in self._extensions.values() for c in one.contributions.registrations.commands}
            raise InvalidParams(f"no command {name!r}", data={"known": sorted(known)})
        return owner

    # -- hooks and events ----------------------------------------------------------------------------------------------

    async def run_hook(self, hook: methods.HookName, value: Mapping[str, Any]) -> Folded:
        """Ask each extension that has this hook, one after another, what it makes of ``value``.

        An extension that declares no hooks at all may have them all the same, and is asked.
        """
        return await hooks.run(hook, dict(value), list(self._extensions.values()), self._tools)

    async def ask_hook(
        self, extension: str, hook: str, value: Mapping[str, Any], *, timeout: float | None = None
    ) -> Outcome:
        """Ask one extension alone what it makes of ``value``: its own answer, whether or not a host would take it.

        Args:
            extension: Its name.
            hook: The hook.
            value: The hook's input.
            timeout: Seconds; what :meth:`run_hook` would give it by default.
        """
        return await hooks.ask(self._extension(extension), hook, dict(value), timeout)

    def dispatch_event(self, event: str, payload: Mapping[str, Any] | None = None) -> None:
        """Tell all extensions that have subscribed to it of an event. Never waits.

        Raises:
            TypeError: ``payload`` is not plain JSON data.
        """
        said, size = self._payload(payload)
        for extension in self._extensions.values():
            self._tell(extension, event, said, size)

    @staticmethod
    def _tell(extension: Extension, event: str, said: Any, size: int) -> None:
        if event in extension.contributions.registrations.subscriptions:
            extension.tell(event, said, size)

    def publish(self, sender: str, topic: str, payload: dict[str, Any]) -> None:
        """Publish on the bus: all extensions but ``sender`` that listen to it are told."""
        said, size = self._payload({"from": sender, "topic": topic, "payload": payload})
        budget = self._extensions[sender].lives.budget if sender in self._extensions else Budget(sender, Neighbours())
        for extension in self._extensions.values():
            if extension.name != sender and "bus/event" in extension.contributions.registrations.subscriptions:
                self._tell(extension, "bus/event", said, size)
                budget.charge(_TELLING + size * _TELLING_BYTE)
        budget.inform(self.delegate.published, topic, payload)

    def press_key(self, widget: str, key: str, *, extension: str | None = None) -> None:
        """Tell an extension of a key that was pressed in its widget.

        Args:
            widget: The widget's id, which another extension may use, too; or the name of an extension.
            key: The key.
            extension: Whose widget it is. Without it: the extension of this name, else the one that showed it first.

        Raises:
            InvalidParams: There is no such widget, and no extension of this name.
        """
        owner = extension or (widget if widget in self._extensions else self._first_with(widget))
        told = self._extensions.get(owner or "")
        is_shown = widget in self._widgets.get(owner or "", ())
        if told is None or not (is_shown or owner == widget):
            known = sorted({one for widgets in self._widgets.values() for one in widgets})
            raise InvalidParams(f"no widget and no extension {widget!r}", data={"widgets": known})
        told.tell("widget/key", {"widget_id": widget, "key": key} if is_shown else {"key": key})

    def _first_with(self, widget: str) -> str | None:
        owners = [owner for owner, widgets in self._widgets.items() if widget in widgets]
        return min(owners, key=lambda owner: self._widgets[owner][widget], default=None)

    @staticmethod
    def _payload(payload: Mapping[str, Any] | None) -> tuple[Any, int]:
        # Serialized once for all receivers; a later change to the caller's dict has no effect.
        data = orjson.dumps(dict(payload or {}))
        return orjson.Fragment(data), len(data)

    # -- models --------------------------------------------------------------------------------------------------------

    def complete(
        self,
        provider: str,
        model: str,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        stream: bool = True,
        response_format: dict[str, Any] | None = None,
        thinking: str | None = None,
        timeout: float | None = None,
    ) -> CompletionStream:
        """Have a model of an extension complete ``messages``: iterate over the events, then look at ``result``.

        Raises:
            InvalidParams: There is no such provider.
        """
        params: dict[str, Any] = {"provider": provider, "model": model, "messages": messages, "stream": stream}
        for name, value in (("tools", tools), ("response_format", response_format), ("thinking", thinking)):
            if value is not None:
                params[name] = value
        return self._provider(provider).calls.completion(f"request-{next(self._calls)}", params, timeout)

    async def oauth_login(self, provider: str, *, timeout: float | None = OAUTH_TIMEOUT) -> messages.Credentials:
        """Have an extension log in to its provider."""
        return await self._oauth(methods.PROVIDER_OAUTH_LOGIN, provider, {}, timeout)

    async def oauth_refresh(
        self, provider: str, refresh_token: str, *, timeout: float | None = OAUTH_TIMEOUT
    ) -> messages.Credentials:
        """Have an extension renew the credentials of its provider."""
        return await self._oauth(methods.PROVIDER_OAUTH_REFRESH, provider, {"refresh_token": refresh_token}, timeout)

    async def _oauth(
        self, method: str, provider: str, params: dict[str, Any], timeout: float | None
    ) -> messages.Credentials:
        owner = self._provider(provider)
        params = {"provider": provider, "context": owner.lives.context, **params}
        answer = await owner.lives.ask(method, params, timeout)
        credentials: messages.Credentials = fitted(owner.name, answer, messages.Credentials)
        return credentials

    def _provider(self, name: str) -> Extension:
        owner = self._extensions.get(self._claims.owner("provider", name) or "")
        if owner is not None:
            return owner
        known = [p.name for one in self._extensions.values() for p in one.contributions.registrations.providers]
        raise InvalidParams(f"no provider {name!r}", data={"known": sorted(known)})

    # -- background tasks ----------------------------------------------------------------------------------------------

    def tasks(self) -> dict[str, list[messages.TaskHealth]]:
        """How the background tasks of each extension are; those of a process that has died have failed."""
        return {extension.name: list(extension.tasks.known.values()) for extension in self._extensions.values()}

    async def list_tasks(self, extension: str, *, timeout: float | None = COMMAND_TIMEOUT) -> list[messages.TaskHealth]:
        """Ask an extension for its background tasks, including those that :meth:`tasks` does not know yet."""
        if not self._extension(extension).contributions.registrations.tasks:
            return []
        return await self._extension(extension).tasks.list_all(timeout)

    async def start_task(
        self,
        extension: str,
        name: str,
        *,
        task_id: str | None = None,
        user_id: str | None = None,
        payload: Any = None,
    ) -> messages.TaskHealth:
        """Start a background task of an extension. Should its process die, it comes back with the next one.

        A job runs now, once more than its schedule says; whether it comes back is the extension's to decide.
        """
        params = messages.TaskStartParams(name=name, task_id=task_id, user_id=user_id, payload=payload)
        found = self._extension(extension)
        registered = found.contributions.registrations.tasks
        is_job = any(one.name == name and one.schedule is not None for one in registered)
        return await found.tasks.start(params, comes_back=not is_job)

    async def stop_task(self, extension: str, task_id: str, *, timeout: float | None = None) -> messages.TaskHealth:
        """Stop a background task, and wait until it has ended. Where that fails, it is wanted as before."""
        return await self._extension(extension).tasks.stop(task_id, timeout)

    # -- what extensions ask -------------------------------------------------------------------------------------------

    def owns_widget(self, extension: str, widget_id: str) -> None:
        """An extension has shown a widget, whose keys are its own."""
        if extension not in self._extensions:  # it was unloaded meanwhile
            return
        widgets = self._widgets.setdefault(extension, {})
        widgets[widget_id] = widgets.pop(widget_id, 0) or next(self._shown)
        if len(widgets) > _MOST_WIDGETS:
            del widgets[next(iter(widgets))]

    def set_active(self, extension: str, names: list[str]) -> list[str]:
        """Make these tools of an extension the active ones; those that it has, and that are allowed."""
        own = {name for name, (owner, _) in self._tools.items() if owner.name == extension and self._is_allowed(name)}
        active = [name for name in names if name in own]
        if extension in self._extensions:
            self._active[extension] = frozenset(active)
        return active

    def _extension(self, name: str) -> Extension:
        try:
            return self._extensions[name]
        except KeyError:
            raise InvalidParams(f"no extension {name!r}", data={"known": list(self._extensions)}) from None
