"""What an extension contributes, as far as its manifest grants it: told with the handshake, and added to later.

It does not know what the tools of other extensions are called: the host sees to that.

Source: docs/protocol.md, section 8.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from attrs import evolve

from sepkit.capabilities.names import PLAIN_RULE, RULE, is_name, is_plain, quoted
from sepkit.capabilities.registrations import merged
from sepkit.host.life import Life
from sepkit.host.lives import Lives
from sepkit.host.notes import Notes
from sepkit.wire import messages

_log = logging.getLogger("sepkit.host")

_MOST_NAMES: Final = 2_000  # tools, and commands, of one extension: each update costs as much as all of them
_TOLD: Final = 8  # names of one kind that are not taken


class Contributions:
    """What one extension contributes.

    Args:
        lives: Its lives; what one tells that is not current any more does not count.
        notes: Told of what is not taken.
        changed: Called when an update has changed it.
    """

    def __init__(self, lives: Lives, notes: Notes, changed: Callable[[], None]) -> None:
        self.registrations = messages.Registrations()
        """What is granted. Stays while the extension restarts: a gate that is down blocks."""
        self.declares_hooks = False
        """Whether it says which hooks it has; if not, it may have any."""
        self._lives = lives
        self._notes = notes
        self._changed = changed
        self._due: list[messages.RegistryUpdateParams] = []  # of this turn of the loop
        self._too_many: set[str] = set()  # kinds whose bound has been logged

    def introduced(self, said: messages.Registrations) -> None:
        """Take what a new life says of itself, in place of all that an earlier one did."""
        self.declares_hooks = bool(said.hooks)
        self.registrations = self._granted(said)
        if self.registrations.hooks and self._lives.manifest.capabilities.hooks is None:
            hooks = ", ".join(self.registrations.hooks[:20])
            self._notes.say(f"it intercepts {hooks}; its manifest has no hooks grant, which would set a bound")

    def may_intercept(self, hook: str) -> bool:
        """Whether its manifest lets it have this hook."""
        return self._lives.manifest.capabilities.may_intercept(hook)

    def update(self, life: Life, said: messages.RegistryUpdateParams) -> None:
        """Take more, together with all that comes in this turn of the loop: each look at all tools costs."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._take_due, life)
        self._due.append(said)

    def _take_due(self, life: Life) -> None:
        due, self._due = self._due, []
        if life is not self._lives.current:
            return
        update = messages.RegistryUpdateParams(
            tools=[one for each in due for one in each.tools],
            commands=[one for each in due for one in each.commands],
            flags=[one for each in due for one in each.flags],
            subscriptions=[one for each in due for one in each.subscriptions],
            providers=[one for each in due for one in each.providers],
        )
        self.registrations = self._granted(merged(self.registrations, update))
        self._changed()

    def _granted(self, said: messages.Registrations) -> messages.Registrations:
        """What the manifest allows of what the extension says that it contributes."""
        name, allowed = self._lives.name, self._lives.manifest.capabilities
        said = self._named(said)
        bound = set(allowed.events)
        kept = evolve(
            said,
            tools=said.tools if allowed.tools else [],
            commands=said.commands if allowed.commands else [],
            shortcuts=said.shortcuts if allowed.commands else [],
            providers=said.providers if allowed.providers else [],
            subscriptions=[event for event in said.subscriptions if not bound or event in bound],
            hooks=[hook for hook in said.hooks if self.may_intercept(hook)],
        )
        for kind in ("tools", "commands", "providers", "subscriptions", "hooks"):
            before, after = getattr(said, kind), getattr(kept, kind)
            if len(after) < len(before):
                _log.warning("%s: its manifest does not grant all of its %s", name, kind)
        for kind in ("tools", "commands"):
            if len(getattr(kept, kind)) > _MOST_NAMES and kind not in self._too_many:
                self._too_many.add(kind)
                _log.warning("%s: it has over %d %s; the others are not taken", name, _MOST_NAMES, kind)
        return evolve(
            kept,
            tools=_last(kept.tools)[:_MOST_NAMES],
            commands=_last(kept.commands)[:_MOST_NAMES],
            providers=_last(kept.providers)[:_MOST_NAMES],
        )

    def _named(self, said: messages.Registrations) -> messages.Registrations:
        """What has names that a host can use; the others are told of."""
        name, plain = (is_name, RULE), (is_plain, PLAIN_RULE)
        providers = self._kept("provider", said.providers, lambda one: one.name, *name)
        return evolve(
            said,
            tools=self._kept("tool", said.tools, lambda one: one.name, *name),
            commands=self._kept("command", said.commands, lambda one: one.name, *name),
            providers=[
                evolve(one, models=self._kept("model", one.models, lambda model: model.id, *plain)) for one in providers
            ],
            tasks=self._kept("task", said.tasks, lambda one: one.name, *name),
            shortcuts=self._kept(
                "shortcut",
                self._kept("shortcut's command", said.shortcuts, lambda one: one.command, *name),
                lambda one: one.key,
                *plain,
            ),
            message_renderers=self._kept("message renderer", said.message_renderers, lambda one: one.tag, *plain),
            flags=self._kept("flag", said.flags, str, *plain),
            subscriptions=self._kept("subscription", said.subscriptions, str, *plain),
            hooks=self._kept("hook", said.hooks, str, *plain),
        )

    def _kept(
        self, kind: str, items: list[Item], name_of: Callable[[Item], str], fits: Callable[[str], bool], rule: str
    ) -> list[Item]:
        refused = [name_of(item) for item in items if not fits(name_of(item))]
        if not refused:
            return items
        for name in refused[:_TOLD]:
            self._notes.say(f"its {kind} {quoted(name)} is not taken: it must be {rule}")
        if len(refused) > _TOLD:
            self._notes.say(f"it has more of the kind ({kind}) with names that are not taken")
        return [item for item in items if fits(name_of(item))]


Item = TypeVar("Item")
Named = TypeVar("Named", messages.ToolRegistration, messages.CommandRegistration, messages.ProviderRegistration)


def _last(registered: Iterable[Named]) -> list[Named]:
    """The last one of each name."""
    return list({one.name: one for one in registered}.values())
