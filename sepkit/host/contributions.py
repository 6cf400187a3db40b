"""What an extension contributes, as far as its manifest grants it: told with the handshake, and added to later.

It does not know what the tools of other extensions are called: the host sees to that.

Source: docs/protocol.md, section 8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any, Final

import attrs

from sepkit.capabilities.registrations import MOST_ENTRIES
from sepkit.host.budget import weight_of
from sepkit.host.life import Life
from sepkit.host.lives import Lives
from sepkit.wire import messages

_MOST_BYTES: Final = 16 * 1024 * 1024  # of all that one extension has registered
_KINDS: Final = tuple(field.name for field in attrs.fields(messages.Registrations))
_GROUPS: Final = {"tools": "tools", "commands": "commands", "shortcuts": "commands", "providers": "providers"}
"""The grant that a kind of registration needs."""


class Contributions:
    """What one extension contributes.

    Args:
        lives: Its lives; what one tells that is not current any more does not count.
        changed: Called when an update has changed it.
    """

    def __init__(self, lives: Lives, changed: Callable[[], None]) -> None:
        self.registrations = messages.Registrations()
        """What is granted. Stays while the extension restarts: a gate that is down blocks."""
        self._lives = lives
        self._changed = changed
        self._due: list[messages.RegistryUpdateParams] = []  # of this turn of the loop
        self._entries: dict[str, dict[object, tuple[Any, int]]] = {}  # by kind and name, each with its weight
        self._weight = 0

    def introduced(self, said: messages.Registrations) -> None:
        """Take what a new life says of itself, in place of all that an earlier one did."""
        self._entries = {kind: {} for kind in _KINDS}
        self._weight = 0
        self._take(said)

    def update(self, life: Life, said: messages.RegistryUpdateParams) -> None:
        """Take more, together with all that comes in this turn of the loop: each look at all tools costs."""
        if not self._due:
            asyncio.get_running_loop().call_soon(self._take_due, life)
        self._due.append(said)

    def _take_due(self, life: Life) -> None:
        due, self._due = self._due, []
        if life is not self._lives.current:
            return
        began = perf_counter()
        self._take(*due)
        self._changed()
        self._lives.budget.charge(perf_counter() - began)

    def _take(self, *said: messages.Registrations | messages.RegistryUpdateParams) -> None:
        """Merge by name: the last one wins, and keeps the place of the first. The manifest says what is granted."""
        for each in said:
            for kind in _KINDS:
                entries = getattr(each, kind, ())
                granted = [entry for entry in entries if self._is_granted(kind, entry)]
                if len(granted) < len(entries):
                    what = f"{kind} that are not granted"
                    self._lives.budget.complain(what, "its manifest does not grant all of its %s", kind)
                for entry in granted:
                    self._keep(kind, entry)
        self._lives.budget.registered = self._weight
        self.registrations = messages.Registrations(
            **{kind: [entry for entry, _ in entries.values()] for kind, entries in self._entries.items()}
        )

    def _is_granted(self, kind: str, entry: Any) -> bool:
        allowed = self._lives.manifest.capabilities
        if kind == "subscriptions":
            return not allowed.events or entry in allowed.events
        group = _GROUPS.get(kind)
        return group is None or bool(getattr(allowed, group))

    def _keep(self, kind: str, entry: Any) -> None:
        known = self._entries[kind]
        name = entry if isinstance(entry, str) else getattr(entry, "name", len(known))
        weight = weight_of(entry)
        _, before = known.get(name, (None, 0))
        if (name not in known and len(known) >= MOST_ENTRIES) or self._weight + weight - before > _MOST_BYTES:
            self._lives.budget.over(kind)
            return
        self._weight += weight - before
        known[name] = (entry, weight)
