"""Frames that may be lost, cut to what every host takes: none of them is worth the connection.

A host that reads line by line with Python's default limit ends the session at a line of more than 64 KiB. What is cut
says in its place how much is missing. Replies, requests and stream events are never cut.

Source: docs/protocol.md, section 9.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from sepkit.wire import methods
from sepkit.wire.frames import dumps, encode_notification

MAX_BYTES: Final = 64_000
"""How long a frame may be: 64 KiB, and some room."""

_FREE: Final[dict[str, tuple[str, ...]]] = {
    methods.TOOL_UPDATE: ("message", "details"),
    methods.LOG: ("message", "fields"),
    methods.TASK_UPDATE: ("last_health_status", "error"),
}
_NOTE: Final = 40  # bytes that saying what is missing takes
_LEAST: Final = 80  # bytes that are worth being shown of a value


def encode_short(method: str, params: dict[str, Any], data: bytes) -> bytes:
    """The notification whose frame is ``data``, cut if it is too long; empty if what may not be cut is too long."""
    if len(data) <= MAX_BYTES:
        return data
    free = {name: params[name] for name in _FREE.get(method, ()) if params.get(name) is not None}
    fixed = {name: value for name, value in params.items() if name not in free}
    left = MAX_BYTES - len(encode_notification(method, fixed))
    if left < _LEAST * (len(free) + 1):
        return b""
    return encode_notification(method, {**fixed, **_short_object(free, left)})


def _short(value: Any, size: int) -> Any:
    """``value`` in at most ``size`` bytes of JSON."""
    if len(dumps(value)) <= size:
        return value
    if isinstance(value, str):
        return _short_text(value, size)
    if isinstance(value, dict):
        return _short_object(value, size)
    if isinstance(value, list):
        return _short_array(value, size)
    return "…"


def _short_text(text: str, size: int) -> str:
    # Escapes make a character up to 6 bytes of JSON, and UTF-8 up to 4.
    low, high = 0, min(len(text), size)
    while low < high:
        middle = (low + high + 1) // 2
        if len(dumps(text[:middle])) <= size - _NOTE:
            low = middle
        else:
            high = middle - 1
    return f"{text[:low]}… ({len(text) - low} more characters)"


def _short_object(value: dict[str, Any], size: int) -> dict[str, Any]:
    kept = _shares(((len(dumps(name)) + 2, item) for name, item in value.items()), size - _NOTE)
    made = {name: _short(item, share) for (name, item), share in zip(value.items(), kept, strict=False)}
    if len(kept) < len(value):
        made["…"] = f"{len(value) - len(kept)} more fields"
    return made


def _short_array(value: list[Any], size: int) -> list[Any]:
    kept = _shares(((1, item) for item in value), size - _NOTE)
    made = [_short(item, share) for item, share in zip(value, kept, strict=False)]
    if len(kept) < len(value):
        made.append(f"… ({len(value) - len(kept)} more items)")
    return made


def _shares(parts: Iterable[tuple[int, Any]], size: int) -> list[int]:
    """How many bytes each part may have: as many from the first on as are worth it, and the small ones whole."""
    wanted: list[int] = []
    left = size
    for overhead, item in parts:
        needs = len(dumps(item))
        left -= overhead + min(needs, _LEAST)
        if left < 0:
            break
        wanted.append(needs)
    left = max(left, 0) + sum(min(needs, _LEAST) for needs in wanted)
    shares = dict[int, int]()
    for place in sorted(range(len(wanted)), key=wanted.__getitem__):
        shares[place] = min(wanted[place], left // (len(wanted) - len(shares)))
        left -= shares[place]
    return [shares[place] for place in range(len(wanted))]
