"""Batches: a line that holds an array of messages, which only revision 2025-03-26 has.

Each message is taken as a line of its own, and the answers to its requests go back in one array, in one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from sepkit.ownlog import OwnLog
from sepkit.peer import Peer
from sepkit.transports.base import Receiver, Transport
from sepkit.wire.frames import Id, is_id, is_response

_Key = tuple[type, Id]
_log = OwnLog("sepkit")
_MOST: Final = 10_000  # messages in one batch


class _Batch:
    __slots__ = ("answers", "waiting")

    def __init__(self, waiting: set[_Key]) -> None:
        self.waiting = waiting
        self.answers: list[bytes] = []


class Batches:
    """A transport's front, which holds back the answers to a batch until all of them are there.

    Args:
        peer: The connection; its transport is replaced by this one.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._inner: Transport = peer.transport
        self._open: list[_Batch] = []

    def switch(self, *, on: bool) -> None:
        """Take batches from now on, or refuse them."""
        self._peer.on_batch = self._take if on else None
        self._peer.on_unanswered = self._unanswered if on else None
        if on:
            self._peer.transport = self

    def _take(self, messages: list[Any]) -> None:
        if not messages or len(messages) > _MOST:
            _log.warning("ignored a batch of %d messages", len(messages))
            return
        lines, waiting = [], set()
        for one in messages:
            if type(one) is not dict:
                _log.warning("ignored what is not a message, in a batch")
                continue
            rid = one.get("id")
            if is_id(rid) and not is_response(one):
                waiting.add((type(rid), rid))
            lines.append(orjson.dumps(one))
        if waiting:
            self._open.append(_Batch(waiting))
        self._peer.take_first(lines)

    def _unanswered(self, rid: Id) -> None:
        self._settle((type(rid), rid), None)

    def _settle(self, key: _Key, line: bytes | None) -> bool:
        for batch in self._open:
            if key in batch.waiting:
                batch.waiting.discard(key)
                if line is not None:
                    batch.answers.append(line.rstrip(b"\n"))
                if not batch.waiting:
                    self._open.remove(batch)
                    if batch.answers:
                        self._inner.write(b"[" + b",".join(batch.answers) + b"]\n")
                return True
        return False

    # -- the transport -------------------------------------------------------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether much waits for the peer."""
        return self._inner.congested

    @congested.setter
    def congested(self, value: bool) -> None:
        raise AttributeError("congested is the transport's own")

    def start(self, receiver: Receiver) -> None:
        """It has begun already."""

    def write(self, data: bytes) -> None:
        """Send lines; answers to a batch wait for the others."""
        if not self._open:
            self._inner.write(data)
            return
        for line in data.splitlines(keepends=True):
            frame = orjson.loads(line)
            rid = frame.get("id")
            if not (is_response(frame) and is_id(rid) and self._settle((type(rid), rid), line)):
                self._inner.write(line)

    def write_long(self, parts: Sequence[bytes]) -> None:
        """Send a line that comes in parts."""
        if self._open:
            self.write(b"".join(parts))
        else:
            self._inner.write_long(parts)

    async def drain(self) -> None:
        """Wait while the peer does not keep up."""
        await self._inner.drain()

    async def aclose(self) -> None:
        """Send what waits, then close."""
        await self._inner.aclose()
