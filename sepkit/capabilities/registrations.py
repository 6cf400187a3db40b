"""What an extension brings, over the time of one connection."""

from __future__ import annotations

import attrs

from sepkit.wire import messages


def merged(known: messages.Registrations, update: messages.RegistryUpdateParams) -> messages.Registrations:
    """The registrations after an update: merged by name, the last wins and keeps the place of the first.

    Source: docs/protocol.md, section 4, ``registry/update``.
    """
    return attrs.evolve(
        known,
        tools=list({tool.name: tool for tool in [*known.tools, *update.tools]}.values()),
        commands=list({command.name: command for command in [*known.commands, *update.commands]}.values()),
        providers=list({provider.name: provider for provider in [*known.providers, *update.providers]}.values()),
        flags=list(dict.fromkeys([*known.flags, *update.flags])),
        subscriptions=list(dict.fromkeys([*known.subscriptions, *update.subscriptions])),
    )
