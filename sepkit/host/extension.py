"""One loaded extension: its lives, what it contributes, its running calls, and its background tasks.

It only brings them together: what is told of a life, and what a life tells, goes to the one that it concerns.

Source: docs/protocol.md, sections 2 to 4 and 8.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from sepkit.capabilities.services import Services
from sepkit.host.budget import weight_of
from sepkit.host.calls import RunningCalls
from sepkit.host.contributions import Contributions
from sepkit.host.habits import Habits
from sepkit.host.life import Life
from sepkit.host.lives import Lives
from sepkit.host.manifest import Manifest
from sepkit.host.notes import Notes
from sepkit.host.setting import Setting
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
        self._early = 0  # how many notifications came too early

    def tell(self, event: str, payload: Any, size: int | None = None) -> None:
        """Dispatch an event to it, if it is there. Never waits."""
        life = self.lives.current
        if life is not None and life.lane is not None:
            life.lane.dispatch(event, payload, size)

    # -- told of each life ---------------------------------------------------------------------------------------------

    def spawned(self, life: Life) -> tuple[Mapping[str, RequestHandler], Mapping[str, NotificationHandler]]:
        """There is a new process: what it may ask, and what it may tell."""
        setting, budget = self._setting, self.lives.budget
        services = Services(
            self.name,
            life.contexts["command"]["token"],
            self.lives.manifest.capabilities.grants(),
            setting.delegate,
            setting.store,
            setting.room,
            functools.partial(self._told, life),
            life.peer.drain,
            budget.complain,
        )
        notifications: dict[str, NotificationHandler] = {
            **services.notifications(),
            methods.TOOL_UPDATE: functools.partial(self.calls.updated, life),
            methods.PROVIDER_DELTA: functools.partial(self.calls.streamed, life),
        }
        update = notifications[methods.REGISTRY_UPDATE]
        notifications[methods.REGISTRY_UPDATE] = lambda params: update(budget.bounded(params))
        routes = services.routes()
        ping = routes.pop(methods.PING)
        return (
            {methods.PING: ping, **{method: budget.admitted(method, route) for method, route in routes.items()}},
            {method: budget.guarded(method, notified) for method, notified in notifications.items()},
        )

    def introduced(self, said: messages.Registrations) -> None:
        """It has shaken hands, and is ready when this returns."""
        self.notes.clear()
        self.habits = Habits()
        self.contributions.introduced(said)

    async def ready(self, life: Life) -> None:
        """It is ready: what it told too early counts now, and its tasks come back."""
        early = list(life.early.values())
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
        self._log_untold(self.lives.budget.log.take_untold())

    # -- what a life tells ---------------------------------------------------------------------------------------------

    def _told(self, life: Life, method: str, record: Any) -> None:
        if life is not self.lives.current:  # the last words of an earlier life
            return
        if method == methods.LOG:  # at once: it may tell why the start fails
            self._log(record)
        elif self.lives.state == "starting":
            self._early += 1
            life.early.keep(self._early, (method, record), weight_of(record))
        elif method == methods.REGISTRY_UPDATE:
            self.contributions.update(life, record)
        elif method == methods.TASK_UPDATE:
            self.tasks.told(record)

    def _log(self, record: messages.LogParams) -> None:
        budget = self.lives.budget
        self._log_untold(budget.log.begin(time.monotonic()))
        if budget.log.admits(weight_of(record)):
            budget.inform(self._setting.delegate.log, record)
        else:
            budget.counts["log records"] += 1

    def _log_untold(self, count: int) -> None:
        if count:
            record = messages.LogParams("warn", f"(and {count:,} records more than can be told)")
            self.lives.budget.inform(self._setting.delegate.log, record)
