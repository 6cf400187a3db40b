"""The table of all requirements, in the order of the report. They are written down in the modules of the topics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sepkit.conformance import (
    callbacks,
    cancelling,
    commands,
    frames,
    handshake,
    hooks,
    ids,
    life,
    methods,
    notifications,
    providers,
    registrations,
    tools,
    traffic,
)
from sepkit.conformance.requirement import REGISTERED, Requirement

# In the order of the report. The ids of a topic's requirements begin with the name of its module.
_TOPICS: Final = [
    topic.__name__.rpartition(".")[2]
    for topic in (
        handshake,
        registrations,
        life,
        traffic,
        frames,
        ids,
        methods,
        notifications,
        tools,
        hooks,
        commands,
        providers,
        cancelling,
        callbacks,
    )
]
_TABLE: Final = tuple(sorted(REGISTERED.values(), key=lambda one: _TOPICS.index(one.group)))


def requirements(only: Iterable[str] = ()) -> tuple[Requirement, ...]:
    """All requirements, in the report's order; or those of the groups and ids in ``only``.

    Raises:
        ValueError: There is no group and no requirement of that name.
    """
    wanted = set(only)
    if unknown := wanted - {x.id for x in _TABLE} - {x.group for x in _TABLE}:
        raise ValueError(
            f"no requirement and no group is called {', '.join(sorted(unknown))}; the groups are {', '.join(_TOPICS)}"
        )
    return tuple(x for x in _TABLE if not wanted or x.id in wanted or x.group in wanted)
