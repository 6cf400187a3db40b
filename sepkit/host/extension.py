"""One loaded extension: its lives, what it contributes, its running calls, and its background tasks.

It only brings them together: what is told of a life, and what a life tells, goes to the one that it concerns.

Source: docs/protocol.md, sections 2 to 4 and 8.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from sepkit.capabilities.services import Services
from sepkit.host.calls import RunningCalls
from sepkit.host.contributions import Contributions
from sepkit.host.habits import Habits
from sepkit.host.life import Life
from sepkit.host.lives import Lives
from sepkit.host.manifest import Manifest
from sepkit.host.notes import Notes
from sepkit.host.setting import Setting, inform
from sepkit.host.tasks import ExtensionTasks
from sepkit.peer import NotificationHandler, RequestHandler
from sepkit.wire import messages, methods


class Extension:
    """An extension of a host.

    Args:
        manifest: What it is.
        setting: What it shares with the others of its host.
        on_registered: Called when what it contributes is another than before.
    """

    def __init__(self, manifest: Manifest, setting: Setting, on_registered: Callable[[Extension], None]) -> None:
        self.name = manifest.name
        self.lives = Lives(manifest, setting, self)
        self.notes = Notes(self.name)
        """What of this life is worth knowing: what was not taken of it, and why."""
        self.habits = Habits()
        self.contributions = Contributions(self.lives, self.notes, functools.partial(on_registered, self))
        self.calls = RunningCalls(self.lives)
        self.tasks = ExtensionTasks(self.lives, setting.delegate, self.notes)
        self._setting = setting
        self._on_registered = on_registered

    def tell(self, event: str, payload: dict[str, Any]) -> None:
        """Dispatch an event to it, if it is there. Never waits."""
        life = self.lives.current
        if life is not None and life.lane is not None:
            life.lane.dispatch(event, payload)

    # -- told of each life ---------------------------------------------------------------------------------------------

    def spawned(self, life: Life) -> tuple[Mapping[str, RequestHandler], Mapping[str, NotificationHandler]]:
        """There is a new process: what it may ask, and what it may tell."""
        setting = self._setting
        services = Services(
            self.name,
            life.contexts["command"]["token"],
            self.lives.manifest.capabilities.grants(),
            setting.delegate,
            setting.store,
            setting.room,
            functools.partial(self._told, life),
            life.peer.drain,
        )
        notifications: dict[str, NotificationHandler] = {
            **services.notifications(),
            methods.TOOL_UPDATE: functools.partial(self.calls.updated, life),
            methods.PROVIDER_DELTA: functools.partial(self.calls.streamed, life),
        }
        return services.routes(), notifications

    def introduced(self, said: messages.Registrations) -> None:
        """It has shaken hands, and is ready when this returns."""
        self.notes.clear()
        self.habits = Habits()
        self.contributions.introduced(said)

    async def ready(self, life: Life) -> None:
        """It is ready: what it told too early counts now, and its tasks come back."""
        early = list(life.early)
        life.early.clear()
        for method, record in early:
            self._told(life, method, record)
        self._on_registered(self)
        await self.tasks.start_again()

    def stopping(self) -> None:
        """It is ended on purpose."""
        self.tasks.stopping()

    def ended(self, why: str) -> None:
        """Its process has ended."""
        self.tasks.died(why)

    # -- what a life tells ---------------------------------------------------------------------------------------------

    def _told(self, life: Life, method: str, record: Any) -> None:
        if life is not self.lives.current:  # the last words of an earlier life
            return
        if method == methods.LOG:  # at once: it may tell why the start fails
            inform(self._setting.delegate.log, self.name, record)
        elif self.lives.state == "starting":
            life.early.append((method, record))
        elif method == methods.REGISTRY_UPDATE:
            self.contributions.update(life, record)
        elif method == methods.TASK_UPDATE:
            self.tasks.told(record)
