"""What a requirement is, and the decorators that register the check of one.

Most checks talk to the extension over a connection; an observation judges what was recorded meanwhile. The checks
themselves are in the modules of the topics, which ``table.py`` lists.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Final

from attrs import field, frozen

from sepkit.conformance.connection import Connection
from sepkit.conformance.evidence import Evidence


class Process(Enum):
    """The process that a requirement is checked on."""

    SHARED = "after the handshake, with others of its group before and after it"
    OWN = "after the handshake, alone"
    BARE = "before the handshake, alone"
    RECORD = "none; it judges the record of the others"


@frozen
class Requirement:
    """One fact that is checked.

    ``section`` is the section of the protocol that demands it. Advice is what a good extension does although the
    protocol leaves it open; no extension fails because of it.

    ``after`` are the ids of the requirements that it presupposes. Where one of them fails too, that one is reported,
    and this one counts as untested.
    """

    id: str
    section: str
    title: str
    advice: bool
    process: Process
    check: Callable[[Any], Any] = field(repr=False)
    after: tuple[str, ...] = ()
    odd: bool = False
    """Whether it sends what a correct host never sends."""

    @property
    def group(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]

    @property
    def apart(self) -> bool:
        """Whether its process is not used for other requirements, nor seen by observations.

        An extension that conforms may do anything about odd input; and advice must not fail a requirement.
        """
        return self.advice or self.odd


REGISTERED: Final[dict[str, Requirement]] = {}
"""Filled by the decorators, by id. ``table.py`` imports all topics, and has the order of the report."""


def requirement(
    name: str,
    *,
    section: str,
    title: str,
    process: Process = Process.SHARED,
    advice: bool = False,
    after: tuple[str, ...] = (),
    odd: bool = False,
) -> Callable[[Callable[[Connection], Awaitable[None]]], Callable[[Connection], Awaitable[None]]]:
    """Register a check that talks to the extension. It raises ``Violation`` or ``NotApplicable``."""

    def register(check: Callable[[Connection], Awaitable[None]]) -> Callable[[Connection], Awaitable[None]]:
        _add(Requirement(name, section, title, advice, process, check, after, odd))
        return check

    return register


def observation(
    name: str, *, section: str, title: str, advice: bool = False, after: tuple[str, ...] = ()
) -> Callable[[Callable[[Evidence], None]], Callable[[Evidence], None]]:
    """Register a check that judges the records. It raises ``Violation`` or ``NotApplicable``."""

    def register(check: Callable[[Evidence], None]) -> Callable[[Evidence], None]:
        _add(Requirement(name, section, title, advice, Process.RECORD, check, after))
        return check

    return register


def _add(made: Requirement) -> None:
    assert made.id not in REGISTERED, f"two requirements are called {made.id}"
    REGISTERED[made.id] = made
