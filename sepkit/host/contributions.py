"""What an extension contributes, as far as its manifest grants it: told with the handshake, and added to later.

It does not know what the tools of other extensions are called: the host sees to that.

Source: docs/protocol.md, section 8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, Final, TypeVar

import attrs

from sepkit.capabilities.names import PLAIN_RULE, RULE, is_name, is_plain, quoted
from sepkit.capabilities.registrations import MOST_ENTRIES
from sepkit.host.budget import weight_of
from sepkit.host.life import Life
from sepkit.host.lives import Lives
from sepkit.host.notes import Notes
from sepkit.wire import messages

_MOST_BYTES: Final = 16 * 1024 * 1024  # of all that one extension has registered
_KINDS: Final = tuple(field.name for field in attrs.fields(messages.Registrations))
_GROUPS: Final = {"tools": "tools", "commands": "commands", "shortcuts": "commands", "providers": "providers"}
"""The grant that a kind of registration needs."""
_TOLD: Final = 8  # names of one kind that are not taken

_Named = tuple[str, Callable[[Any], str], Callable[[str], bool], str]
_NAME: Final = (is_name, RULE)
_PLAIN: Final = (is_plain, PLAIN_RULE)
_NAMES: Final[Mapping[str, Sequence[_Named]]] = {
    "tools": [("tool", lambda one: one.name, *_NAME)],
    "commands": [("command", lambda one: one.name, *_NAME)],
    "providers": [("provider", lambda one: one.name, *_NAME)],
    "tasks": [("task", lambda one: one.name, *_NAME)],
    "shortcuts": [
        ("shortcut's command", lambda one: one.command, *_NAME),
        ("shortcut", lambda one: one.key, *_PLAIN),
    ],
    "message_renderers": [("message renderer", lambda one: one.tag, *_PLAIN)],
    "flags": [("flag", str, *_PLAIN)],
    "subscriptions": [("subscription", str, *_PLAIN)],
    "hooks": [("hook", str, *_PLAIN)],
}
"""What is a name in each kind of registration, and what it must look like."""
_MODEL: Final[_Named] = ("model", lambda model: model.id, *_PLAIN)


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
        self._entries: dict[str, dict[object, tuple[Any, int]]] = {}  # by kind and name, each with its weight
        self._weight = 0

    def introduced(self, said: messages.Registrations) -> None:
        """Take what a new life says of itself, in place of all that an earlier one did."""
        self._entries = {kind: {} for kind in _KINDS}
        self._weight = 0
        self.declares_hooks = bool(said.hooks)
        self._take(said)
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
        began = perf_counter()
        self._take(*due)
        self._changed()
        self._lives.budget.charge(perf_counter() - began)

    def _take(self, *said: messages.Registrations | messages.RegistryUpdateParams) -> None:
        """Merge by name: the last one wins, and keeps the place of the first. The manifest says what is granted."""
        for each in said:
            for kind in _KINDS:
                entries = self._named(kind, getattr(each, kind, ()))
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
        if kind == "hooks":
            return self.may_intercept(entry)
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

    def _named(self, kind: str, entries: Sequence[Any]) -> Sequence[Any]:
        """Those with names that a host can use; the others are told of."""
        for named in _NAMES.get(kind, ()):
            entries = self._fitting(named, entries)
        if kind == "providers":
            entries = [attrs.evolve(one, models=self._fitting(_MODEL, one.models)) for one in entries]
        return entries

    def _fitting(self, named: _Named, entries: Sequence[Item]) -> Sequence[Item]:
        what, name_of, fits, rule = named
        refused = [name for name in map(name_of, entries) if not fits(name)]
        if not refused:
            return entries
        for name in refused[:_TOLD]:
            self._notes.say(f"its {what} {quoted(name)} is not taken: it must be {rule}")
        if len(refused) > _TOLD:
            self._notes.say(f"it has more of the kind ({what}) with names that are not taken")
        return [entry for entry in entries if fits(name_of(entry))]


Item = TypeVar("Item")
