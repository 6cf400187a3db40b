"""Notifications about a call, ``tool/update`` and ``provider/delta``, each with the call that it is about."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from sepkit.conformance.evidence import Evidence
from sepkit.conformance.lines import Key, Line, key
from sepkit.conformance.violations import NotApplicable


@frozen
class Update:
    """A notification about a call.

    ``about`` is the id of the call that it names. ``call`` is the line of that call, or None if it was never sent;
    ``answered`` is whether that call had its answer already.
    """

    line: Line
    about: object
    call: Line | None
    answered: bool

    def __str__(self) -> str:
        return str(self.line)


def updates(e: Evidence, name: str, word: str, method: str) -> Iterator[Update]:
    """Every ``name`` that came, with the call of ``method`` that has the same ``word`` in its params.

    Raises:
        NotApplicable: None came.
    """
    some = False
    for connection in e.connections:
        calls: dict[object, Line] = {}
        answered: set[Key] = set()
        for line in connection.record.lines:
            params = line.frame.get("params") if isinstance(line.frame, dict) else None
            about = params.get(word) if isinstance(params, dict) else None
            about = about if isinstance(about, str) else None
            if line.sent and line.method == method:
                calls[about] = line
            elif not line.sent and line.is_response:
                answered.add(key(line.frame.get("id")))
            elif not line.sent and line.method == name:
                some = True
                call = calls.get(about)
                yield Update(line, about, call, call is not None and key(call.frame.get("id")) in answered)
    if not some:
        raise NotApplicable(f"it never sent {name}")
