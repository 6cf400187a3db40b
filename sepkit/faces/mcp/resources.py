"""Resources: those of the App, and ``sepkit://tasks``, how its background tasks are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sepkit.serving.served import Served
from sepkit.tasks import TaskHealth
from sepkit.wire.frames import dumps
from sepkit.wire.writing import unstructure

if TYPE_CHECKING:
    from sepkit.resources import ResourceSpec

TASKS: Final = "sepkit://tasks"
_MIME: Final = "application/json"


class Resources:
    """The resources of an App that is served."""

    def __init__(self, served: Served) -> None:
        self._served = served

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return bool(self._served.app.task_specs or self._served.app.resources)

    def listed(self) -> list[dict[str, Any]]:
        """All resources that are not templates."""
        listed = [_listed(spec, "uri") for spec in self._specs() if not spec.is_template]
        if self._served.app.task_specs:
            about = "The background tasks of this server, and how each of them is."
            listed.append({"uri": TASKS, "name": "tasks", "description": about, "mimeType": _MIME})
        return listed

    def templates(self) -> list[dict[str, Any]]:
        """All templates."""
        return [_listed(spec, "uriTemplate") for spec in self._specs() if spec.is_template]

    def _specs(self) -> list[ResourceSpec]:
        return list(self._served.app.resources.values())

    def find(self, uri: str) -> tuple[ResourceSpec, dict[str, str]] | None:
        """The resource of the App that a URI means, and the texts of its variables."""
        if not self._served.app.resources:
            return None
        from sepkit.resources import find

        return find(self._served.app.resources, uri)

    def knows(self, uri: str) -> bool:
        """Whether there is such a resource."""
        return (uri == TASKS and bool(self._served.app.task_specs)) or self.find(uri) is not None

    def tasks(self, uri: str) -> list[dict[str, Any]] | None:
        """The contents of ``sepkit://tasks``; None where it is another one, or there are no tasks."""
        if uri != TASKS or not self._served.app.task_specs:
            return None
        tasks = [self._told(health) for health in self._served.supervisor.status()]
        return [{"uri": uri, "mimeType": _MIME, "text": dumps({"tasks": tasks}).decode()}]

    def _told(self, health: TaskHealth) -> dict[str, Any]:
        told: dict[str, Any] = unstructure(health)
        if health.error is not None:
            told["error"] = self._served.shown(health.error)
        return told


def _listed(spec: ResourceSpec, key: str) -> dict[str, Any]:
    listed: dict[str, Any] = {key: spec.uri, "name": spec.name}
    fields = {"title": spec.title, "description": spec.description or None, "mimeType": spec.mime}
    listed.update({name: value for name, value in fields.items() if value is not None})
    if spec.icons:
        listed["icons"] = [icon.as_json() for icon in spec.icons]
    return listed
