"""``App``: an extension, that is a router with a name, a version and a lifespan. It holds registrations only.

No I/O: an App knows neither transport nor frame, and may be served over several kinds of wire and many connections at
once. What serves it (``serving/served.py``) stands in ``App.serving`` meanwhile, and is told what is registered.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from sepkit.contexts.link import current_user
from sepkit.errors import InvalidParams, RegistrationError, sayable
from sepkit.handlers import CommandSpec, Fn, ObserverSpec, check_name, check_sendable, icons_given, where
from sepkit.router import Change, Router, closest
from sepkit.tasks import Supervisor, TaskHandle, TaskHealth, UnknownTask
from sepkit.terminal import is_terminal
from sepkit.wire import messages

if TYPE_CHECKING:
    from sepkit.content import Icon
    from sepkit.scheduling import Jobs, Schedule

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]

_MOST_INSTRUCTIONS: Final = 65_536  # characters

# What can be added while the app is served, because `registry/update` tells of it or the host need not know.
_OPEN: Final = frozenset(
    {"tool", "command", "completer of command", "prompt", "resource", "flag", "event", "provider", "collection"}
    | {"OAuth login of provider", "OAuth refresh of provider"}
)


class App(Router):
    """An extension.

    Args:
        name: The extension's name; hosts show its tools as ``<name>.<tool>``.
        version: The extension's version.
        lifespan: An async context manager that takes the app; what it yields is ``ctx.state``. It is entered before the
            first call, and left after the last one, in one task.
        instructions: What the model should know of the extension as a whole; added to its system prompt.
        needs: What the app reaches beside its host: ``"network:api.example.com"``, ``"network:localhost:8080"`` or
            ``"network:*"``. ``ctx.fetch`` goes nowhere else.
        expose_errors: Let the text of an unexpected exception cross to the host. For development.
        icons: Pictures that a host may show beside its name: URLs, or ``Icon(…)``.

    Raises:
        RegistrationError: ``name`` is not a name, or an option is not valid.
    """

    def __init__(
        self,
        name: str,
        *,
        version: str = "0.0.0",
        lifespan: Lifespan | None = None,
        instructions: str | None = None,
        needs: Sequence[str] = (),
        expose_errors: bool = False,
        icons: Sequence[Icon | str] = (),
    ) -> None:
        super().__init__()
        self.name = check_name("App", name)
        if lifespan is not None and not callable(lifespan):
            raise RegistrationError(f"lifespan={lifespan!r}: write a function that takes the app")
        if inspect.isasyncgenfunction(lifespan) or inspect.iscoroutinefunction(lifespan):
            raise RegistrationError(
                f"lifespan= ({where(lifespan)}) is not an async context manager; write @asynccontextmanager above it, "
                "and `yield` once in it"
            )
        check_sendable(messages.ExtensionInfo(name=name, version=version), f"App {name!r}")
        self.version = version
        self.lifespan = lifespan
        self.expose_errors = expose_errors
        self.instructions: Final = None if instructions is None else _checked_instructions(name, instructions)
        self.needs: Final = _checked_needs(name, needs)
        self.icons = icons_given(f"App {name!r}", None, icons)
        self.tasks = Tasks(self)
        self._schedule: Schedule | None = None
        self.serving: list[Serving] = []
        """What serves it now; filled by them."""
        made_in = sys._getframe(1).f_globals
        if made_in.get("__name__") == "__main__" and "__file__" in made_in:
            _at_exit_of(made_in["__file__"]).append(self)

    _is_app = True

    @property
    def schedule(self) -> Schedule:
        """Jobs for one moment, and what is to come: ``app.schedule.at(when, fn)``, ``cancel(id)``, ``list()``.

        Within a handler, a task, a job or the lifespan they are those of what serves it; elsewhere, of the only one
        that serves the app.
        """
        if self._schedule is None:
            from sepkit.scheduling import Schedule  # only for apps that use it

            self._schedule = Schedule(self.job_specs, lambda: serving_here(self, "jobs run", "app.schedule").jobs)
        return self._schedule

    def check(self) -> None:
        """Whether what is registered fits together.

        Raises:
            RegistrationError: A completer or a shortcut belongs to a command that is not there, or the like.
        """
        handlers: tuple[tuple[str, dict[str, ObserverSpec], Iterable[str]], ...] = (
            ("completer of command", self.completers, self.commands),
            ("OAuth login of provider", self.oauth_logins, self.providers),
            ("OAuth refresh of provider", self.oauth_refreshes, self.providers),
        )
        for kind, table, known in handlers:
            for name, spec in list(table.items()):
                if name not in known:
                    what = f"{kind} {name!r} ({where(spec.fn)})"
                    raise RegistrationError(f"{what}: there is no such {kind.split()[-1]}{closest(name, known)}")
        for collection in list(self.collections.values()):
            collection.check()
        for name, specs in list(self.setting_observers.items()):
            if name not in self.settings:
                raise RegistrationError(
                    f"handler of setting {name!r} ({where(specs[0].fn)}): there is no such setting"
                    f"{closest(name, self.settings)}"
                )
        for shortcut in list(self.shortcuts.values()):
            if shortcut.command not in self.commands:
                hint = closest(shortcut.command, self.commands)
                raise RegistrationError(f"shortcut {shortcut.key!r}: there is no command {shortcut.command!r}{hint}")

        for command in self.exposed("tool"):
            if (tool := self.tools.get(command.name)) is not None and tool.stands_for is None:
                raise RegistrationError(
                    f'command {command.name!r} ({where(command.fn)}) has expose="tool", and there is a tool of that '
                    f"name ({where(tool.fn)}); give one of them another name"
                )

    def exposed(self, kind: Literal["prompt", "tool"]) -> list[CommandSpec]:
        """What a host without commands has as this: commands by their ``expose=``, and prompts; as registered."""
        return [command for command in list(self.commands.values()) if command.expose == kind]

    def resource_changed(self, uri: str) -> None:
        """Say that a resource is another now, so that hosts that asked for that are told; from any thread.

        Within a handler, a task or the lifespan it concerns the hosts of what serves it; elsewhere, of the only one
        that serves the app. SEP hosts know no resources, and are told nothing.

        Args:
            uri: The URI that is another; of a template, with its variables filled in.

        Raises:
            RegistrationError: No resource has this URI; the app is not served; or it is served several times, and no
                handler of it is running here.
        """
        from sepkit.resources import find

        try:
            found = find(self.resources, uri)
        except InvalidParams as error:
            raise RegistrationError(f"app.resource_changed({uri!a}): {error.message}") from None
        if found is None:
            known = ", ".join(spec.uri for spec in self.resources.values()) or "none"
            raise RegistrationError(f"app.resource_changed({uri!a}): no resource has this URI; known: {known}")
        serving_here(self, "resources change", "app.resource_changed").resource_changed(uri)

    def _check_open(self, kind: str, name: str) -> None:
        if kind not in _OPEN and any(served.told for served in self.serving):
            raise RegistrationError(
                f"{kind} {name!r} comes too late: the host knows what the extension brings, and cannot be told of "
                f"another {kind}; register it before the app is served, or in its lifespan"
            )

    def _registered(self, changes: Sequence[Change]) -> None:
        for served in list(self.serving):
            served.registered(changes)


def _checked_needs(name: str, needs: Sequence[str]) -> tuple[str, ...]:
    if type(needs) is tuple and not needs:
        return ()
    from sepkit.contexts.network import checked_needs  # by apps that need the network only

    try:
        return checked_needs(needs)
    except RegistrationError as error:
        raise RegistrationError(f"App {name!r}: {error}") from None


def _checked_instructions(name: str, instructions: object) -> str:
    if not isinstance(instructions, str) or not instructions.strip():
        raise RegistrationError(
            f"App {name!r}: instructions={instructions!r:.100}: write a text for the model, or None"
        )
    if sayable(instructions) != instructions:
        raise RegistrationError(f"App {name!r}: instructions= holds half a character, which can't be sent")
    if len(instructions) > _MOST_INSTRUCTIONS:
        raise RegistrationError(
            f"App {name!r}: instructions= has {len(instructions)} characters; at most {_MOST_INSTRUCTIONS} are sent, "
            "and each turn of the model reads all of them"
        )
    return instructions


def ways_to_try(app: App, target: str) -> list[str]:
    """What to type in a shell to try an app, which is at ``target``; one a line."""
    ways = [f"inspect {target}"]
    for tool in list(app.tools.values())[:1]:
        needed = "".join(f" {name}=…" for name in tool.parameters.get("required", ()))
        ways.append(f"call {target} {tool.name}{needed}")
    for command in list(app.commands)[:1]:
        ways.append(f"command {target} {command}")
    for hook in list(app.hooks)[:1]:
        ways.append(f"hook {target} {hook}")
    return [f"  {Path(sys.executable).name} -m sepkit {way}" for way in ways]


@functools.cache
def _at_exit_of(file: str) -> list[App]:
    """The apps that the script at ``file`` makes."""
    apps: list[App] = []
    atexit.register(_explain_script, apps, file)  # Python forgets the name of the file before that
    return apps


def _explain_script(apps: list[App], file: str) -> None:
    """Tell a person at a terminal who has typed ``python app.py``, and sees nothing happen, what to type instead.

    Not where the script has served its app, or loaded extensions, or has failed.
    """
    used = {"sepkit.serving.served", "sepkit.host", "sepkit.cli"} & sys.modules.keys()
    if used or hasattr(sys, "last_type") or sys.flags.interactive or not is_terminal(sys.stderr):
        return
    main, app = sys.modules.get("__main__"), apps[0]
    name = next((name for name, value in vars(main).items() if value is app), "app")
    spec = getattr(main, "__spec__", None)
    target = f"{os.path.relpath(file) if spec is None else spec.name}:{name}"
    python = Path(sys.executable).name
    lines = [
        f"sepkit: {app.name} is an extension, and waits for a host to start it with",
        f"  {python} -m sepkit run {target}",
        "To try it without a host, type one of these:",
        *ways_to_try(app, target),
    ]
    sys.stderr.write("\n".join(lines) + "\n")


class Serving(Protocol):
    """What an App knows of whatever serves it."""

    @property
    def app(self) -> App:
        """What is served."""

    @property
    def supervisor(self) -> Supervisor:
        """Runs its background tasks."""

    @property
    def jobs(self) -> Jobs:
        """Runs its jobs."""

    @property
    def told(self) -> bool:
        """Whether a host has been told what the app registers."""

    def registered(self, changes: Sequence[Change]) -> None:
        """Something has been registered."""

    def resource_changed(self, uri: str) -> None:
        """A resource is another now."""


SERVING: Final[ContextVar[Serving | None]] = ContextVar("sepkit_serving", default=None)
"""What serves the app whose handler, task or lifespan is running."""


class Tasks:
    """The background tasks of an app: started, stopped and watched while it is served.

    Within a handler, a task or the lifespan they are those of what serves it; elsewhere, of the only one that serves
    the app.
    """

    def __init__(self, app: App) -> None:
        self._app = app

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

        A per-user task without a ``user_id`` is started for the user of the running call, task or job.

        Raises:
            RegistrationError: The task is not known, the app is not served, or served several times and no handler of
                it is running here.
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
        if user_id is None and spec.per_user:
            user_id = current_user()
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
        """Each task that was started, with its state; none while the app is not served.

        Raises:
            RegistrationError: The app is served several times, and no handler of it is running here.
        """
        return self._running().status() if self._app.serving else []

    def _running(self) -> Supervisor:
        return serving_here(self._app, "tasks run", "app.tasks").supervisor


def serving_here(app: App, what: str, called: str) -> Serving:
    """What serves an app: that of the running handler, task or lifespan, else the only one.

    Args:
        app: The app.
        what: What happens while it is served: ``"tasks run"``.
        called: What was called, as an author writes it.

    Raises:
        RegistrationError: It is not served; or several times, and no handler of it is running here.
    """
    serving = app.serving
    if not serving:
        raise RegistrationError(f"{what} while the app is served, and it is not")
    mine = SERVING.get()
    if mine is not None and mine.app is app:
        if not any(served is mine for served in serving):
            raise RegistrationError(f"{what} while the app is served, and what served this one has ended")
        return mine
    if len(serving) == 1:
        return serving[0]
    raise RegistrationError(
        f"the app is served {len(serving)} times in this process; call {called} within a handler, which says which"
    )
