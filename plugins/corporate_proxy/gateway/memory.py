"""What an upstream wants back with a tool call that it made, for as long as this process lives.

Some models sign their calls (Gemini's ``extra_content.google.thought_signature``), and refuse a conversation in which
calls come back without it. SEP's tool calls have ``id``, ``name`` and ``arguments``, so the rest is kept here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any, Final

import orjson

MAX_KEPT: Final = 8 * 1024 * 1024  # bytes


class Memory:
    """The vendors' fields of tool calls, the ones used last; bounded in bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0

    def keep(self, call_id: str, name: str, arguments: object, fields: dict[str, Any]) -> None:
        """Remember the fields of a call."""
        try:
            written = orjson.dumps(fields)
            key = _key(call_id, name, arguments)
        except orjson.JSONEncodeError:  # such as NaN or half a character: nothing that could be sent back
            return
        self._size += len(written) - len(self._kept.pop(key, b""))
        self._kept[key] = written
        while self._size > MAX_KEPT:
            _, oldest = self._kept.popitem(last=False)
            self._size -= len(oldest)

    def fields(self, call_id: str, name: str, arguments: object) -> dict[str, Any]:
        """The fields of a call; none where it is not known."""
        try:
            key = _key(call_id, name, arguments)
        except orjson.JSONEncodeError:
            return {}
        written = self._kept.get(key)
        if written is None:
            return {}
        self._kept.move_to_end(key)
        fields: dict[str, Any] = orjson.loads(written)
        return fields


def _key(call_id: str, name: str, arguments: object) -> bytes:
    # Ids alone do not do: some servers count them from 0 in each answer.
    return hashlib.blake2b(
        orjson.dumps([call_id, name, arguments], option=orjson.OPT_SORT_KEYS), digest_size=16
    ).digest()
