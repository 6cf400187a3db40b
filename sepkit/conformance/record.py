"""What was said over one connection: every line, in order, and which answer belongs to which request.

It is given bytes and lines, and asked afterwards. It sends nothing and judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from sepkit.conformance.lines import Frame, Key, Line, key, parsed, tidied
from sepkit.wire import methods

MOST_BYTES: Final = 64 * 1024 * 1024
MOST_LINES: Final = 40_000
"""Limits of a record: past one of them it is ``flooded``, and the extension's output is not read any further."""
ABOUT: Final[dict[str, tuple[str, ...]]] = {
    methods.INITIALIZE: ("handshake.reply",),
    methods.PING: ("life.ping",),
    methods.SHUTDOWN: ("life.shutdown-exit", "life.shutdown"),
    methods.TOOL_EXECUTE: ("tools.result",),
    methods.HOOK: ("hooks.outcome",),
    methods.COMMAND_EXECUTE: ("commands.result",),
    methods.COMMAND_COMPLETE: ("commands.completions",),
    methods.PROVIDER_COMPLETE: ("providers.result",),
    methods.PROVIDER_OAUTH_LOGIN: ("providers.login",),
    methods.PROVIDER_OAUTH_REFRESH: ("providers.login",),
}
"""The requirements that are about the plain answer of each method."""
ABOUT_IDS: Final = ("ids.zero", "ids.negative", "ids.large", "ids.lookalikes", "traffic.unasked")
"""The requirements that are about ids of another type than that of the request."""

READING: Final = ("frames.pieces", "frames.spelling", "frames.unicode", "frames.long", "frames.many-at-once")


def misread(answers: Iterable[Frame]) -> tuple[str, ...]:
    """The requirements about reading lines, if one of these answers says that a line could not be read."""
    errors = [answer.get("error") for answer in answers]
    return READING if any(isinstance(x, dict) and x.get("code") == -32700 for x in errors) else ()


class Record:
    """The lines of one connection.

    ``mark`` is the index of the line at which the current check began. ``asked`` holds the lines that were sent with an
    id, ``answered`` the answers that came, both by the key of their id. ``cancelled`` are the keys of the ids in the
    cancels that were sent. ``taken`` is how many bytes came.
    """

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.mark = 0
        self.asked: dict[Key, list[bytes]] = {}
        self.answered: dict[Key, list[Frame]] = {}
        self.cancelled: set[Key] = set()
        self.taken = 0
        self.flooded = False
        self._partial = bytearray()

    # -- recording -----------------------------------------------------------------------------------------------------

    def sent(self, data: bytes) -> None:
        """Record a line that is sent."""
        frame = parsed(data)
        self.lines.append(Line(sent=True, data=data, frame=frame))
        for one in frame if isinstance(frame, list) else [frame]:
            if isinstance(one, dict) and "id" in one and ("method" in one or not {"result", "error"} & one.keys()):
                self.asked.setdefault(key(one["id"]), []).append(data)
            elif isinstance(one, dict) and one.get("method") == methods.CANCEL and isinstance(one.get("params"), dict):
                self.cancelled.add(key(one["params"].get("id")))

    def take(self, data: bytes) -> Iterator[Line]:
        """Record a chunk of the extension's output; the lines that are complete by it, each as it is recorded."""
        *whole, rest = data.split(b"\n")
        for piece in whole[:MOST_LINES]:
            line = bytes(self._partial + piece)
            self._partial.clear()
            yield self._came(line)
        self._partial += rest
        self.taken += len(data)
        self.flooded = self.taken > MOST_BYTES or len(self.lines) > MOST_LINES

    def end(self) -> Iterator[Line]:
        """Record what came after the last line end, if anything."""
        if self._partial:
            yield self._came(bytes(self._partial), ended=False)

    def _came(self, data: bytes, *, ended: bool = True) -> Line:
        line = Line(sent=False, data=data, frame=tidied(parsed(data)), ended=ended)
        self.lines.append(line)
        if line.is_response:
            self.answered.setdefault(key(line.frame.get("id")), []).append(line.frame)
        return line

    # -- looking up ----------------------------------------------------------------------------------------------------

    def answers(self, rid: object) -> list[Frame]:
        """All answers to a request so far."""
        return self.answered.get(key(rid), [])

    def lookalikes(self, rid: object) -> list[Frame]:
        """Answers under an id with the same digits and another type, under which nothing was asked."""
        other: object = str(rid) if type(rid) is int else int(rid) if isinstance(rid, str) and rid.isdecimal() else None
        alike = [key(other)] if other is not None else []
        if type(rid) is int:
            alike.append(key(float(rid)))
        return [answer for one in alike if one not in self.asked for answer in self.answered.get(one, [])]

    def since_mark(self, *, sent: bool) -> list[Line]:
        """The lines that were sent, or those that came, since the check began."""
        return [line for line in self.lines[self.mark :] if line.sent is sent]

    def told(self, method: str, **about: object) -> list[Line]:
        """The notifications of a method since the check began that have this in their params."""
        return [
            line
            for line in self.since_mark(sent=False)
            if line.method == method
            and isinstance(params := line.frame.get("params"), dict)
            and all(params.get(name) == value for name, value in about.items())
        ]

    def unasked(self) -> list[Frame]:
        """The answers since the check began that belong to no request."""
        return [
            line.frame
            for line in self.since_mark(sent=False)
            if line.is_response and (line.frame.get("id") is None or key(line.frame["id"]) not in self.asked)
        ]

    def suspects(self, method: str) -> tuple[str, ...]:
        """What the fault may be where a request of ``method`` has no answer: ids of requirements, likely ones first."""
        if self.flooded:
            return ()
        found: list[str] = []
        if any(not isinstance(line.frame, dict) for line in self.since_mark(sent=False)):
            found += ["traffic.utf-8", "traffic.json"]
        unasked = self.unasked()
        if any(answer.get("id") is None for answer in unasked):
            found += [*misread(unasked), "ids.in-errors"]
        found += ABOUT.get(method, ())
        return (*found, *(("traffic.unasked",) if unasked else ()))
