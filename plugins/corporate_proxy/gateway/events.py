"""The bytes of an answer → its events: server-sent events, and the JSON that some servers put among them.

It knows lines and JSON, and nothing of what an event means.
"""

from __future__ import annotations

import json
from typing import Any, Final

import orjson

MAX_EVENT: Final = 32 * 1024 * 1024  # bytes
MAX_STRAY: Final = 64 * 1024  # bytes that are kept of lines which are not of an event stream
_FIELDS: Final = (b"data", b"event", b"id", b"retry", b"")  # the last is a comment


def parsed(data: bytes) -> Any:
    """JSON, also with what orjson refuses and servers send: NaN, half a character, a line feed in a text.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            return json.loads(data, strict=False)
        except (ValueError, RecursionError):
            raise error from None


def is_done(data: bytes) -> bool:
    """Whether the data of an event is the upstream's word that the answer is complete."""
    return data.strip(b' \t"').startswith(b"[DONE]")


class EventStream:
    """Takes the bytes of an event stream in whatever pieces they come, and gives the name and data of each event.

    JSON that stands among the events without a ``data:`` is given as an event, too: servers append an error so.
    """

    def __init__(self) -> None:
        self.stray = ""  # the latest text that belongs to no event
        self._held: list[bytes] = []  # of a line whose end has not come
        self._size = 0  # bytes held, of the line and of the event
        self._name = b""
        self._data: list[bytes] = []
        self._outside: list[bytes] = []  # lines that are of no event
        self._after_cr = False  # a line feed that comes now belongs to the line end before it
        self._begun = False

    def feed(self, piece: bytes) -> list[tuple[bytes, bytes]]:
        """Take some bytes.

        Raises:
            ValueError: An event is too long.
        """
        found: list[tuple[bytes, bytes]] = []
        if not piece:
            return found
        if self._after_cr and piece[:1] == b"\n":
            piece = piece[1:]
        self._after_cr = piece[-1:] == b"\r"
        for line in piece.splitlines(keepends=True):
            self._held.append(line)
            self._size += len(line)
            if self._size > MAX_EVENT:
                raise ValueError(f"an event is longer than {MAX_EVENT} bytes")
            if line.endswith((b"\r", b"\n")):
                self._take_line(found)
        return found

    def end(self) -> list[tuple[bytes, bytes]]:
        """The stream is over; the last event where its end is missing, which may be a part of one."""
        found: list[tuple[bytes, bytes]] = []
        self._take_line(found)
        self._take_line(found)
        return found

    def _take_line(self, found: list[tuple[bytes, bytes]]) -> None:
        whole = b"".join(self._held)
        self._held.clear()
        line = whole.rstrip(b"\r\n")
        if not self._begun:
            self._begun = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            self._end_outside(found)
            if self._data:
                found.append((self._name, b"\n".join(self._data)))
            self._name, self._data, self._size = b"", [], 0
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field in _FIELDS:
            self._end_outside(found)
        if field == b"data":
            self._data.append(value)
            return
        if field == b"event":
            self._name = value
            return
        self._size -= len(whole)
        if field not in _FIELDS and sum(map(len, self._outside)) + len(line) <= MAX_STRAY:
            self._outside.append(line)

    def _end_outside(self, found: list[tuple[bytes, bytes]]) -> None:
        if not self._outside:
            return
        text, lines = b"\n".join(self._outside), self._outside
        self._outside = []
        for parts in ([text], lines):
            try:
                values = [parsed(part) for part in parts]
            except ValueError:
                continue
            if all(isinstance(value, dict | list) for value in values):
                found.extend((b"", part) for part in parts)
                return
        self.stray = text.decode(errors="replace")
