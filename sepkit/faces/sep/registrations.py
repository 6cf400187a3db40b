"""What an App registers, as SEP's ``initialize`` answers it and ``registry/update`` tells of it. Pure functions.

Source: docs/protocol.md, sections 4 and 8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sepkit.app import App
from sepkit.handlers import job_registration, task_registration
from sepkit.records import changed
from sepkit.router import Change
from sepkit.wire import messages, methods

INSTRUCTED: Final = "before_agent_start"
"""The hook that adds ``App(instructions=)`` to the system prompt: SEP has no other place for them."""
_MOST_NAMED: Final = 20


def registrations(app: App) -> messages.Registrations:
    """What the extension contributes, but for background tasks.

    Raises:
        RegistrationError: What is registered does not fit together.
    """
    app.check()
    # Copies of the tables: a `def` handler of another connection may register something meanwhile, in its thread.
    return messages.Registrations(
        tools=[tool.registration for tool in list(app.tools.values())],
        commands=[command.registration for command in list(app.commands.values())],
        flags=list(app.flag_defaults),
        shortcuts=list(app.shortcuts.values()),
        subscriptions=list(app.events),
        hooks=list(app.hooks) if app.instructions is None else list(dict.fromkeys([INSTRUCTED, *app.hooks])),
        providers=[_provider(app, name) for name in list(app.providers)],
        message_renderers=list(app.renderers.values()),
    )


def introduction(app: App, handshake: messages.InitializeParams) -> messages.InitializeResult:
    """The answer to ``initialize``. Background tasks are named to a host that asked for them.

    Raises:
        RegistrationError: What is registered does not fit together.

    Source: docs/protocol.md, sections 3 and 8; docs/tasks.md, "On the wire".
    """
    found = registrations(app)
    if wants_tasks(handshake):
        found = changed(found, tasks=task_registrations(app))
    return messages.InitializeResult(
        protocol_version=min(handshake.protocol_version, methods.PROTOCOL_VERSION),
        extension=messages.ExtensionInfo(name=app.name, version=app.version),
        registrations=found,
    )


def not_served(app: App) -> str:
    """What SEP has no place for, and that is not a tool either: the URIs of resources; empty where all is served."""
    uris = [spec.uri for spec in list(app.resources.values()) if spec.tool is None]
    more = f" and {len(uris) - _MOST_NAMED} more" if len(uris) > _MOST_NAMED else ""
    return ", ".join(uris[:_MOST_NAMED]) + more


def wants_tasks(handshake: messages.InitializeParams) -> bool:
    """Whether the host asked for the methods of background tasks."""
    return bool((handshake.capabilities_enabled or {}).get("tasks"))


def task_registrations(app: App) -> list[messages.TaskRegistration]:
    """The background tasks and the jobs, for a host that asked for tasks.

    Source: docs/tasks.md, "On the wire".
    """
    tasks = [task_registration(spec) for spec in list(app.task_specs.values())]
    return tasks + [job_registration(spec) for spec in list(app.job_specs.values())]


def registry_update(app: App, changes: Sequence[Change]) -> messages.RegistryUpdateParams | None:
    """What the host is told of changes; None where it need not know."""
    names: dict[str, list[str]] = {}
    for kind, name in changes:
        names.setdefault(kind, []).append(name)
    # A login makes the provider another one: `oauth` is true now.
    providers = dict.fromkeys(names.get("provider", []) + names.get("OAuth login of provider", []))
    update = messages.RegistryUpdateParams(
        tools=[app.tools[name].registration for name in names.get("tool", ())],
        commands=[app.commands[name].registration for name in names.get("command", ())],
        flags=names.get("flag", []),
        subscriptions=names.get("event", []),
        providers=[_provider(app, name) for name in providers if name in app.providers],
    )
    return None if update == messages.RegistryUpdateParams() else update


def _provider(app: App, name: str) -> messages.ProviderRegistration:
    return changed(app.providers[name].registration, oauth=name in app.oauth_logins)
