"""Resources. For now there is one: ``sepkit://tasks``, how the App's background tasks are.

What an App registers as resources has its place here, beside it.
"""

from __future__ import annotations

from typing import Any, Final

from sepkit.serving.served import Served
from sepkit.tasks import TaskHealth
from sepkit.wire.frames import dumps
from sepkit.wire.writing import unstructure

TASKS: Final = "sepkit://tasks"
_MIME: Final = "application/json"


class Resources:
    """The resources of an App that is served."""

    def __init__(self, served: Served) -> None:
        self._served = served

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._served.app.task_specs)

    def listed(self) -> list[dict[str, Any]]:
        """All resources that are not templates."""
        if not self.any:
            return []
        about = "The background tasks of this server, and how each of them is."
        return [{"uri": TASKS, "name": "tasks", "description": about, "mimeType": _MIME}]

    def templates(self) -> list[dict[str, Any]]:
        """All templates."""
        return []

    def knows(self, uri: str) -> bool:
        """Whether there is such a resource."""
        return uri == TASKS and self.any

    async def read(self, uri: str) -> list[dict[str, Any]] | None:
        """The contents of a resource; None where there is no such resource."""
        if not self.knows(uri):
            return None
        tasks = [self._told(health) for health in self._served.supervisor.status()]
        return [{"uri": uri, "mimeType": _MIME, "text": dumps({"tasks": tasks}).decode()}]

    def _told(self, health: TaskHealth) -> dict[str, Any]:
        told: dict[str, Any] = unstructure(health)
        if health.error is not None:
            told["error"] = self._served.shown(health.error)
        return told
