"""What a requirement is, the table of them all, and how one of them says that it is not met.

The requirements themselves stand in the modules named in ``TOPICS``, one a topic. Most speak with the extension over a
connection; an observation judges what was recorded while the others spoke.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

from sepkit.errors import InvalidData, SepkitError
from sepkit.wire.converter import structure_exactly
from sepkit.wire.faults import LESS_NESTING

if TYPE_CHECKING:
    from sepkit.conformance.connection import Connection
    from sepkit.conformance.evidence import Evidence

# In the order of the report.
TOPICS: Final = (
    "handshake",
    "registrations",
    "life",
    "traffic",
    "frames",
    "ids",
    "methods",
    "notifications",
    "tools",
    "hooks",
    "commands",
    "providers",
    "cancelling",
    "callbacks",
)


class Violation(SepkitError):
    """A requirement is not met. Without ``came`` and ``sent``, the report shows the lines of while it was checked."""

    def __init__(self, expected: str, came: str | None = None, *, sent: bytes | None = None) -> None:
        super().__init__(expected if came is None else f"expected {expected}; {came}")
        self.expected = expected
        self.came = came
        self.sent = sent


class NotApplicable(SepkitError):
    """There is nothing to check: the extension does not bring what the requirement is about."""


class Process(Enum):
    """What process a requirement is checked on."""

    SHARED = "after the handshake, with others of its group before and after it"
    OWN = "after the handshake, alone"
    BARE = "before the handshake, alone"
    RECORD = "none; it judges the record of the others"


@frozen
class Requirement:
    """One fact that is checked.

    ``section`` is the section of the protocol that demands it. Advice is what the protocol leaves open and a good
    extension does all the same; it fails nobody.
    """

    id: str
    section: str
    title: str
    advice: bool
    process: Process
    check: Callable[[Any], Any] = field(repr=False)

    @property
    def group(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]


_TABLE: Final[dict[str, Requirement]] = {}


def requirement(
    name: str, *, section: str, title: str, process: Process = Process.SHARED, advice: bool = False
) -> Callable[[Callable[[Connection], Awaitable[None]]], Callable[[Connection], Awaitable[None]]]:
    """Register a check that speaks with the extension; it raises :class:`Violation` where it is not met."""

    def register(check: Callable[[Connection], Awaitable[None]]) -> Callable[[Connection], Awaitable[None]]:
        _add(Requirement(name, section, title, advice, process, check))
        return check

    return register


def observation(
    name: str, *, section: str, title: str, advice: bool = False
) -> Callable[[Callable[[Evidence], None]], Callable[[Evidence], None]]:
    """Register a check that judges the record."""

    def register(check: Callable[[Evidence], None]) -> Callable[[Evidence], None]:
        _add(Requirement(name, section, title, advice, Process.RECORD, check))
        return check

    return register


def _add(made: Requirement) -> None:
    assert made.id not in _TABLE, f"two requirements are called {made.id}"
    _TABLE[made.id] = made


def requirements(only: Iterable[str] = ()) -> tuple[Requirement, ...]:
    """All requirements, in the report's order; or those of the groups and ids in ``only``.

    Raises:
        ValueError: There is no group and no requirement of that name.
    """
    for topic in TOPICS:
        importlib.import_module(f"sepkit.conformance.{topic}")
    wanted = set(only)
    every = tuple(_TABLE.values())
    if unknown := wanted - {x.id for x in every} - {x.group for x in every}:
        groups = ", ".join(dict.fromkeys(x.group for x in every))
        raise ValueError(f"no requirement and no group is called {', '.join(sorted(unknown))}; the groups are {groups}")
    return tuple(x for x in every if not wanted or x.id in wanted or x.group in wanted)


def fitting(value: object, cls: Any, what: str) -> None:
    """Expect that ``value`` fits the record ``cls``, read as strictly as the protocol's schemas do.

    Raises:
        Violation: It does not. That it is nested deeper than sepkit reads is not the protocol's concern.
    """
    try:
        structure_exactly(value, cls)
    except InvalidData as error:
        if all(fault.expected == LESS_NESTING for fault in error.faults):
            return
        raise Violation(f"{what} that fits its schema", f"it does not: {error}") from None
