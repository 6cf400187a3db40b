"""Resources: what an App registers, and ``sepkit://tasks``, how its background tasks are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sepkit.errors import InvalidParams
from sepkit.faces.mcp.link import CONTEXT, RequestLink
from sepkit.handlers import choices
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
        return bool(self._served.app.resources) or self._has_tasks

    @property
    def _has_tasks(self) -> bool:
        app = self._served.app
        return bool(app.task_specs) and TASKS not in app.resources  # an App may have its own

    def _specs(self) -> list[ResourceSpec]:
        return list(self._served.app.resources.values())

    @property
    def completes(self) -> bool:
        """Whether a variable of a template can be completed."""
        return any(
            choices(spec.parameters, name, "")
            for spec in self._specs()
            for name in spec.parameters.get("properties", ())
        )

    def listed(self) -> list[dict[str, Any]]:
        """All resources that are not templates."""
        found = [{"uri": spec.uri, **_about(spec)} for spec in self._specs() if not spec.is_template]
        if self._has_tasks:
            about = "The background tasks of this server, and how each of them is."
            found.append({"uri": TASKS, "name": "tasks", "description": about, "mimeType": _MIME})
        return found

    def templates(self) -> list[dict[str, Any]]:
        """All templates."""
        return [{"uriTemplate": spec.uri, **_about(spec)} for spec in self._specs() if spec.is_template]

    def knows(self, uri: str) -> bool:
        """Whether there is such a resource."""
        try:
            return self._is_tasks(uri) or self._found(uri) is not None
        except InvalidParams:
            return False

    def _is_tasks(self, uri: str) -> bool:
        return uri == TASKS and self._has_tasks

    def _found(self, uri: str) -> tuple[ResourceSpec, dict[str, str]] | None:
        resources = self._served.app.resources
        if not resources:
            return None
        from sepkit.resources import find  # it is there: the resources are made by it

        return find(resources, uri)

    def takes_context(self, uri: str) -> bool:
        """Whether the handler of a resource may tell or ask something.

        Raises:
            InvalidParams: It is not a URI, or leads out of where it stands.
        """
        found = None if self._is_tasks(uri) else self._found(uri)
        return found is not None and found[0].context is not None

    async def read(self, uri: str, link: RequestLink) -> list[dict[str, Any]] | None:
        """The contents of a resource; None where there is no such resource.

        Raises:
            RpcError: It cannot be read.
        """
        if self._is_tasks(uri):
            tasks = [self._told(health) for health in self._served.supervisor.status()]
            return [{"uri": uri, "mimeType": _MIME, "text": dumps({"tasks": tasks}).decode()}]
        found = self._found(uri)
        if found is None:
            return None
        from sepkit.content import contents_block

        contents = await self._served.calls.resource(*found, uri, CONTEXT, link)
        return [contents_block(uri, contents.data, contents.mime)]

    def completions(self, template: str, variable: str, typed: str) -> list[str] | None:
        """What a variable of a template may be, and begins so; None where there is no such template.

        Raises:
            InvalidParams: The template has no such variable.
        """
        for spec in self._specs():
            if spec.uri == template:
                known = list(spec.parameters.get("properties", ()))
                if variable not in known:
                    raise InvalidParams(
                        f"argument.name: the template has no variable {variable[:200]!r}; "
                        f"known: {', '.join(known) or 'none'}"
                    )
                return choices(spec.parameters, variable, typed)
        return None

    def _told(self, health: TaskHealth) -> dict[str, Any]:
        told: dict[str, Any] = unstructure(health)
        if health.error is not None:
            told["error"] = self._served.shown(health.error)
        return told


def _about(spec: ResourceSpec) -> dict[str, Any]:
    about = {"name": spec.name, "title": spec.title, "description": spec.description or None, "mimeType": spec.mime}
    found: dict[str, Any] = {member: value for member, value in about.items() if value is not None}
    if spec.icons:
        found["icons"] = [icon.as_json() for icon in spec.icons]
    return found
