"""What becomes of the extension's requests to the host: they are answered at once, held back, or answered otherwise.

What a plain host answers is decided in ``host.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sepkit.conformance.host import Answer, PlainHost, error
from sepkit.conformance.lines import Frame
from sepkit.errors import Code

Instead = Callable[[str, Frame], Answer | None]
"""The answer to a method and its params; None where the plain host answers."""


class Replies:
    """The host's side of one connection.

    Requests that come while ``holding`` is set are collected in ``held``; only ``ping`` is still answered at once.

    Args:
        host: Knows the answers.
        send: Sends a frame.
    """

    def __init__(self, host: PlainHost, send: Callable[[Frame], None]) -> None:
        self.holding = False
        self.held: list[Frame] = []
        self._host = host
        self._send = send
        self._instead: Instead | None = None

    @contextmanager
    def answering(self, instead: Instead) -> Iterator[None]:
        """Ask ``instead`` for answers before the plain host."""
        self._instead = instead
        try:
            yield
        finally:
            self._instead = None

    def asked(self, frame: Frame) -> None:
        """Answer a request of the extension, or hold it back."""
        if self.holding and frame["method"] != "ping":
            self.held.append(frame)
        else:
            self._reply(frame)

    def release(self) -> None:
        """Answer what was held back, and hold back nothing more."""
        self.holding = False
        held, self.held = self.held, []
        for frame in held:
            self._reply(frame)

    def _reply(self, frame: Frame) -> None:
        method, params = frame["method"], frame.get("params", {})
        given = self._instead(method, params) if self._instead is not None else None
        answer = given or self._host.answer(method, params)
        try:
            self._send({"jsonrpc": "2.0", "id": frame["id"], **answer})
        except RecursionError:  # a value that it stored can be read at a depth at which it cannot be written
            self._send({"jsonrpc": "2.0", "id": frame["id"], **error(Code.INTERNAL_ERROR, "nested too deeply")})
