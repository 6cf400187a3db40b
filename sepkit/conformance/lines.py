"""A line of the wire: its bytes, its JSON, and how it is shown in the report.

Functions and data only; sending, recording and judging lines is done elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from attrs import frozen

Frame = dict[str, Any]
Key = tuple[type, object]
"""An id as a key of a dict. Its type is part of it: 1, true, 1.0 and "1" are four ids on the wire."""


@frozen
class Line:
    """A line of the wire.

    ``data`` is the line without its line end; ``frame`` is its JSON value, as :func:`parsed` reads it, and
    :func:`tidied` where the extension wrote it; ``ended`` is whether it had a line end.
    """

    sent: bool
    data: bytes
    frame: Any
    ended: bool = True

    def __str__(self) -> str:
        """The line for the report."""
        return shortened(self.data)

    @property
    def is_response(self) -> bool:
        """Whether it can only be meant as a response."""
        return isinstance(self.frame, dict) and "method" not in self.frame

    @property
    def method(self) -> str | None:
        """The method of a request or a notification."""
        found = self.frame.get("method") if isinstance(self.frame, dict) else None
        return found if isinstance(found, str) else None


def parsed(data: bytes) -> Any:
    """The JSON value in ``data``; None where it is not JSON in UTF-8, and where it is ``null``."""
    try:
        # A byte order mark is a fault of its own. It must not make every other requirement fail.
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def tidied(frame: Any) -> Any:
    """A frame without the nulls that stand for absent fields of the envelope, as some JSON-RPC libraries write them."""
    if not isinstance(frame, dict):
        return frame
    nulls = {name for name in ("method", "params", "error") if frame.get(name, 0) is None}
    if isinstance(frame.get("method"), str):
        nulls |= {name for name in ("id", "result") if frame.get(name, 0) is None}
    elif frame.get("result", 0) is None and frame.get("error") is not None:
        nulls.add("result")
    return {name: value for name, value in frame.items() if name not in nulls} if nulls else frame


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def written(frame: Frame) -> bytes:
    """The line of a frame. It is escaped where it holds an unpaired surrogate, which UTF-8 cannot encode."""
    try:
        return json.dumps(frame, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(frame).encode()


def key(rid: object) -> Key:
    """The key of an id."""
    return type(rid), rid if isinstance(rid, int | float | str | None) else json.dumps(rid)


def shown(lines: Iterable[bytes], most: int = 6) -> tuple[str, ...]:
    """Lines for the report: the last few of them, each shortened."""
    every = list(lines)
    made = [shortened(line) for line in every[-most:]]
    return tuple([f"… {len(every) - most} lines before"] * (len(every) > most) + made)


def shortened(line: bytes, longest: int = 300) -> str:
    """A line for the report; of a long one the beginning and the end."""
    text, half = line.decode("utf-8", "backslashreplace"), longest // 2
    return text if len(text) <= longest else f"{text[:half]} … {len(text) - 2 * half} characters … {text[-half:]}"
