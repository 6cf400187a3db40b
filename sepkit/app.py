"""``App``: an extension, that is a router with a name, a version and a lifespan; and the tasks that it runs.

No I/O: an App knows neither transport nor frame, and may be served over several kinds of wire.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import attrs

from sepkit.errors import RegistrationError
from sepkit.handlers import Fn, ObserverSpec, check_name, where
from sepkit.router import Change, Router, closest
from sepkit.tasks import Supervisor, TaskHandle, TaskHealth, UnknownTask
from sepkit.wire import messages

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]

# What can be added while the app is served, because `registry/update` tells of it or the host need not know.
_OPEN: Final = frozenset(
    {"tool", "command", "completer of command", "flag", "event", "provider"}
    | {"OAuth login of provider", "OAuth refresh of provider"}
)


class App(Router):
    """An extension.

    Args:
        name: The extension's name; hosts show its tools as ``<name>.<tool>``.
        version: The extension's version.
        lifespan: An async context manager that takes the app; what it yields is ``ctx.state``. It is entered before the
            first call, and left after the last one, in one task.
        expose_errors: Let the text of an unexpected exception cross to the host. For development.

    Raises:
        RegistrationError: ``name`` is no name.
    """

    def __init__(
        self, name: str, *, version: str = "0.0.0", lifespan: Lifespan | None = None, expose_errors: bool = False
    ) -> None:
        super().__init__()
        self.name = check_name("App", name)
        if inspect.isasyncgenfunction(lifespan) or inspect.iscoroutinefunction(lifespan):
            raise RegistrationError(
                f"lifespan= ({where(lifespan)}) is no async context manager; write @asynccontextmanager above it, "
                "and `yield` once in it"
            )
        self.version = version
        self.lifespan = lifespan
        self.expose_errors = expose_errors
        self.flags: dict[str, Any] = {}
        """The flags' values: the host's, and the defaults of those that it did not send."""
        self.handshake: messages.InitializeParams | None = None
        """What the host said of itself when it began: its name, the workspace, the mode; None before that."""
        self.tasks = Tasks(self)
        self._on_update: Callable[[messages.RegistryUpdateParams], None] | None = None

    _is_app = True

    def registrations(self) -> messages.Registrations:
        """What the extension contributes, as ``initialize`` answers it.

        Raises:
            RegistrationError: A completer or a shortcut belongs to a command that is not there, or the like.

        Source: docs/protocol.md, section 8.
        """
        handlers: tuple[tuple[str, dict[str, ObserverSpec], Iterable[str]], ...] = (
            ("completer of command", self.completers, self.commands),
            ("OAuth login of provider", self.oauth_logins, self.providers),
            ("OAuth refresh of provider", self.oauth_refreshes, self.providers),
        )
        for kind, table, known in handlers:
            for name, spec in table.items():
                if name not in known:
                    what = f"{kind} {name!r} ({where(spec.fn)})"
                    raise RegistrationError(f"{what}: there is no such {kind.split()[-1]}{closest(name, known)}")
        for shortcut in self.shortcuts.values():
            if shortcut.command not in self.commands:
                hint = closest(shortcut.command, self.commands)
                raise RegistrationError(f"shortcut {shortcut.key!r}: there is no command {shortcut.command!r}{hint}")
        return messages.Registrations(
            tools=[self._tool(name) for name in self.tools],
            commands=[self._command(name) for name in self.commands],
            flags=list(self.flag_defaults),
            shortcuts=list(self.shortcuts.values()),
            subscriptions=list(self.events),
            hooks=list(self.hooks),
            providers=[self._provider(name) for name in self.providers],
            message_renderers=list(self.renderers.values()),
        )

    def task_registrations(self) -> list[messages.TaskRegistration]:
        """The background tasks, as ``initialize`` answers them to a host that asked for tasks.

        Source: docs/tasks.md, "On the wire".
        """
        return [
            messages.TaskRegistration(
                name=spec.name,
                description=spec.description,
                per_user=spec.per_user,
                autostart=spec.autostart,
                restart_policy=messages.RestartPolicyMs(
                    type=spec.policy.type,
                    max_restarts=spec.policy.max_restarts,
                    initial_delay_ms=round(spec.policy.initial_delay * 1000),
                    max_delay_ms=round(spec.policy.max_delay * 1000),
                    multiplier=spec.policy.multiplier,
                ),
            )
            for spec in self.task_specs.values()
        ]

    def _tool(self, name: str) -> messages.ToolRegistration:
        tool = self.tools[name]
        return messages.ToolRegistration(
            name=tool.name, description=tool.description, parameters=tool.parameters, deferred=tool.deferred
        )

    def _command(self, name: str) -> messages.CommandRegistration:
        command = self.commands[name]
        return messages.CommandRegistration(name=command.name, description=command.description)

    def _provider(self, name: str) -> messages.ProviderRegistration:
        return attrs.evolve(self.providers[name].registration, oauth=name in self.oauth_logins)

    def set_flags(self, values: Mapping[str, Any]) -> None:
        """Take over what the host says of the flags."""
        self.flags = {**self.flag_defaults, **values}

    # -- while it is served --------------------------------------------------------------------------------------------

    def told(self, on_update: Callable[[messages.RegistryUpdateParams], None] | None) -> None:
        """The host has been told of the registrations; from now on ``on_update`` takes what is added. None: it is gone.

        Source: docs/protocol.md, section 4, ``registry/update``.
        """
        self._on_update = on_update

    def _check_open(self, kind: str, name: str) -> None:
        if self._on_update is not None and kind not in _OPEN:
            raise RegistrationError(
                f"{kind} {name!r} comes too late: the host knows what the extension brings, and cannot be told of "
                f"another {kind}; register it before the app is served, or in its lifespan"
            )

    def _registered(self, changes: Sequence[Change]) -> None:
        if self._on_update is None:
            return
        names: dict[str, list[str]] = {}
        for kind, name in changes:
            names.setdefault(kind, []).append(name)
        # A login makes the provider another one: `oauth` is true now.
        providers = dict.fromkeys(names.get("provider", []) + names.get("OAuth login of provider", []))
        for flag in names.get("flag", ()):
            self.flags.setdefault(flag, self.flag_defaults[flag])
        update = messages.RegistryUpdateParams(
            tools=[self._tool(name) for name in names.get("tool", ())],
            commands=[self._command(name) for name in names.get("command", ())],
            flags=names.get("flag", []),
            subscriptions=names.get("event", []),
            providers=[self._provider(name) for name in providers if name in self.providers],
        )
        if update != messages.RegistryUpdateParams():
            self._on_update(update)


class Tasks:
    """The background tasks of an app: started, stopped and watched while it is served."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._supervisor: Supervisor | None = None

    def start(
        self,
        task: Fn | str,
        *,
        id: str | None = None,  # noqa: A002  (so named in the API)
        user_id: str | None = None,
        payload: Any = None,
        name: str | None = None,
    ) -> TaskHandle:
        """Start a task, given as its function or by its name, under an id of its own.

        Raises:
            RegistrationError: The task is not known, or the app is not served.
            TaskRefused: The id is running, a per-user task lacks its user, the extension is shutting down, or this is
                not its loop: a plain ``def`` handler runs in a thread, and cannot start tasks.
        """
        specs = self._app.task_specs
        shown = task if isinstance(task, str) else getattr(task, "__name__", repr(task))
        spec = specs.get(shown)  # most tasks are named as their functions are: no search through thousands
        if spec is None or task not in (spec.name, spec.fn):
            spec = next((one for one in specs.values() if one.fn == task), None)
        if spec is None:
            raise RegistrationError(f"there is no task {shown!r}; known: {', '.join(specs) or 'none'}")
        return self._running().start(spec, id=id, user_id=user_id, payload=payload, name=name)

    async def stop(self, id: str) -> TaskHealth | None:  # noqa: A002  (so named in the API)
        """Stop a task, and wait until it has ended; how it is then. None where nothing was started under this id.

        Raises:
            TaskRefused: This is not the extension's loop; see ``start``.
        """
        try:
            return await self._running().stop(id)
        except UnknownTask:
            return None

    def status(self) -> list[TaskHealth]:
        """Each task that was started, with its state."""
        return [] if self._supervisor is None else self._supervisor.status()

    def bind(self, supervisor: Supervisor | None) -> None:
        """Serve the tasks with ``supervisor``, from now on."""
        self._supervisor = supervisor

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise RegistrationError("tasks run while the app is served, and it is not")
        return self._supervisor
