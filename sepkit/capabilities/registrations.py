"""What an extension brings, over the time of one connection."""

from __future__ import annotations

from typing import Any, Final

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


MOST_ENTRIES: Final = 2_000
"""Entries of a kind that one extension may have: each change costs as much as all of them."""
_MOST_MODELS: Final = 5_000  # of all its providers
_MOST_TEMPLATE: Final = 50_000  # values in its templates: each block becomes a record


def bounded(said: Any) -> tuple[Any, dict[str, int]]:
    """Registrations as they came, with no more entries than are made records of; and how many others there were.

    A line of 64 MiB may hold millions of entries, and all of a line is looked at in one turn of the loop.
    """
    cut: dict[str, int] = {}
    if type(said) is not dict:
        return said, cut
    kept = dict(said)
    for kind, entries in said.items():
        if type(entries) is list and len(entries) > MOST_ENTRIES:
            kept[kind] = entries[:MOST_ENTRIES]
            cut[kind] = len(entries) - MOST_ENTRIES
    if type(providers := kept.get("providers")) is list:
        models = 0
        for place, one in enumerate(providers):
            if type(one) is dict and type(one.get("models")) is list:
                models += len(one["models"])
                if models > _MOST_MODELS:
                    kept["providers"] = providers[:place]
                    cut["providers"] = cut.get("providers", 0) + len(providers) - place
                    break
    if type(renderers := kept.get("message_renderers")) is list:
        values = 0
        for place, one in enumerate(renderers):
            values += _values_in(one, _MOST_TEMPLATE)
            if values > _MOST_TEMPLATE:
                kept["message_renderers"] = renderers[:place]
                cut["message_renderers"] = cut.get("message_renderers", 0) + len(renderers) - place
                break
    return kept, cut


def _values_in(data: Any, most: int) -> int:
    """How many values there are; counting ends where they are more than ``most``."""
    count = 0
    left = [data]
    while left and count <= most:
        one = left.pop()
        count += 1
        if type(one) is dict:
            left += one.values()
        elif type(one) is list:
            left += one
    return count
