"""Whose a name is: which of several extensions that use the same one has it.

Pure: nothing here waits or asks.

Source: docs/protocol.md, section 8.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Literal

import attrs

from sepkit.wire import messages

Kind = Literal["command", "provider", "shortcut", "message renderer"]
Claim = tuple[Kind, str]


def chord(key: str) -> str:
    """The keys of a shortcut, whatever the order and the case they are written in."""
    *modifiers, last = key.lower().replace(" ", "").split("+")
    return "+".join([*sorted(modifiers), last])


def claimed(said: messages.Registrations) -> Iterator[Claim]:
    """What only one extension of a host can have, of what one registers."""
    for command in said.commands:
        yield "command", command.name
    for provider in said.providers:
        yield "provider", provider.name
    for shortcut in said.shortcuts:
        yield "shortcut", chord(shortcut.key)
    for renderer in said.message_renderers:
        yield "message renderer", renderer.tag


@attrs.frozen
class Clash:
    """A name that an extension wants and another has."""

    extension: str
    kind: Kind
    name: str
    owner: str | None
    """None: it had an owner that is gone."""

    def __str__(self) -> str:
        whose = f"{self.owner} has it" if self.owner is not None else "the one that had it is gone; reload this one"
        return f"its {self.kind} {self.name!r} is not taken: {whose}"


class Claims:
    """Which extension has a name, where several want it: the one that came first, for as long as it wants it.

    When the first one is unloaded, the next has its name, but not its providers: prompts and credentials must not go to
    another extension than before without a decision of the program, which is to load or reload that one.
    """

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self._wanted: dict[Claim, dict[str, int]] = {}  # by whom, and since when
        self._of: dict[str, set[Claim]] = {}
        self._lost: set[tuple[str, Claim]] = set()  # what does not pass on to this extension by itself

    def arrival(self) -> int:
        """A place in the order: after all that came before."""
        return next(self._count)

    def take(self, extension: str, wanted: Iterable[Claim], arrival: int | None = None) -> list[Clash]:
        """Note what an extension wants now, and only that. ``arrival``: its place for what is new.

        Returns:
            What is new of the names that somebody does not get.
        """
        wants = set(wanted)
        mine = self._of.get(extension, set())
        for claim in mine - wants:
            self._drop(extension, claim)
        clashes = []
        for claim in wants - mine:
            by = self._wanted.setdefault(claim, {})
            by[extension] = self.arrival() if arrival is None else arrival
            owner = self.owner(*claim)
            losers = by.keys() - {owner}
            if claim[0] == "provider":
                self._lost.update((loser, claim) for loser in losers)
            clashes += [Clash(loser, *claim, owner) for loser in losers if extension in (loser, owner)]
        self._of[extension] = wants
        return clashes

    def renew(self, extension: str) -> None:
        """It is started anew on purpose: what it did not get it may want again, if it is free by then."""
        for clash in self.clashes(extension):
            claim = (clash.kind, clash.name)
            self._drop(extension, claim)
            self._of[extension].discard(claim)

    def forget(self, extension: str) -> None:
        """It wants nothing any more."""
        for claim in self._of.pop(extension, ()):
            self._drop(extension, claim)

    def owner(self, kind: Kind, name: str) -> str | None:
        """Whose it is."""
        by = self._wanted.get((kind, name), {})
        entitled = [one for one in by if (one, (kind, name)) not in self._lost]
        return min(entitled, key=by.__getitem__, default=None)

    def clashes(self, extension: str) -> list[Clash]:
        """What it wants and has not."""
        owners = ((claim, self.owner(*claim)) for claim in sorted(self._of.get(extension, ())))
        return [Clash(extension, *claim, owner) for claim, owner in owners if owner != extension]

    def own(self, extension: str, said: messages.Registrations) -> messages.Registrations:
        """What an extension registers, without what others have."""
        lost = {(clash.kind, clash.name) for clash in self.clashes(extension)}
        if not lost:
            return said
        return attrs.evolve(
            said,
            commands=[one for one in said.commands if ("command", one.name) not in lost],
            providers=[one for one in said.providers if ("provider", one.name) not in lost],
            shortcuts=[one for one in said.shortcuts if ("shortcut", chord(one.key)) not in lost],
            message_renderers=[one for one in said.message_renderers if ("message renderer", one.tag) not in lost],
        )

    def _drop(self, extension: str, claim: Claim) -> None:
        self._lost.discard((extension, claim))
        by = self._wanted[claim]
        del by[extension]
        if not by:
            del self._wanted[claim]
