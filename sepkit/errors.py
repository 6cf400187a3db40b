"""Every error of sepkit, and the codes of JSON-RPC and SEP.

All of them share one root, carry fields beside their text, and know nothing of how they travel::

    SepkitError
    ├── RegistrationError      the author's mistake, said where it was written
    ├── LoadError              ``module:attr`` leads to no App (carries what kind of failure)
    ├── ToolError              a tool gave up; its text goes to the model as written
    ├── InvalidData            data from outside does not fit its type (carries every fault, with paths)
    │   └── BadSettings        what flags and settings are set to at the start does not fit
    ├── EncodeError            a value has no form on the wire (carries the path and the type)
    ├── FrameError             a line is no frame (carries the code, and the id where one was readable)
    ├── ConnectionClosed       the peer is gone; whatever was pending is answered with this
    ├── RequestTimeout         the peer did not answer in time (also a ``TimeoutError``)
    └── RpcError               the peer answered with an error (code, message, data)
        ├── ParseError         -32700   ├── Blocked             -32000
        ├── InvalidRequest     -32600   ├── NoUI                -32001
        ├── MethodNotFound     -32601   ├── NotTrusted          -32002
        ├── InvalidParams      -32602   ├── ContextViolation    -32003
        └── InternalError      -32603   ├── CapabilityDisabled  -32004
                                        └── Cancelled           -32800
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, ClassVar, Final


class Code(IntEnum):
    """The error codes on the wire.

    Source: docs/protocol.md, section 8.
    """

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    BLOCKED = -32000
    NO_UI = -32001
    NOT_TRUSTED = -32002
    CONTEXT_VIOLATION = -32003
    CAPABILITY_DISABLED = -32004
    CANCELLED = -32800


class SepkitError(Exception):
    """The root of all errors that sepkit raises."""


class RegistrationError(SepkitError):
    """A decorator was used wrongly; the message names the function, the parameter, and what to write instead."""


class LoadError(SepkitError):
    """``module:attr`` leads to no App.

    ``kind`` is one of ``"usage"``, ``"module"``, ``"attribute"``, ``"not-an-app"``, ``"import"`` and
    ``"registration"``; for the last two ``__cause__`` is what the user's own code raised.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ToolError(SepkitError):
    """Raise it in a tool to give up: the text reaches the model as written, with ``is_error`` set."""


class Fault:
    """One place where data does not fit: a JSON path, what was expected there, and what was received."""

    __slots__ = ("expected", "path", "received")

    def __init__(self, path: str, expected: str, received: str) -> None:
        self.path = path
        self.expected = expected
        self.received = received

    def __str__(self) -> str:
        return f"{self.path}: expected {self.expected}, got {self.received}"

    def __repr__(self) -> str:
        return f"Fault({self.path!r}, {self.expected!r}, {self.received!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fault) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash((self.path, self.expected, self.received))

    def as_dict(self) -> dict[str, str]:
        """The fault as JSON: ``{"path", "expected", "received"}``."""
        return {"path": self.path, "expected": self.expected, "received": self.received}


# Where looking for faults ends, in each array and object: of a list with a million wrong items nobody reads all, and a
# million exceptions are 15 s and a gigabyte.
MOST_FAULTS: Final = 1000


class InvalidData(SepkitError):
    """Data does not fit its type. ``faults`` holds all its faults, not only the first; of an array, at most 1,000."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        more = len(self.faults) - len(self.told)
        super().__init__("; ".join(map(str, self.told)) + (f"; and {more} more" if more else ""))

    @property
    def told(self) -> tuple[Fault, ...]:
        """As many of the faults as go into a message."""
        return self.faults[:50]

    def as_data(self) -> dict[str, Any]:
        """The faults that are told, as JSON: ``{"errors": [{"path", "expected", "received"}, …]}``."""
        return {"errors": [fault.as_dict() for fault in self.told]}


class BadSettings(InvalidData):
    """What flags and settings are set to at the start does not fit. Each fault's path begins with its source."""


class EncodeError(SepkitError):
    """A value cannot be written as JSON: ``path`` says which one, ``problem`` why."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class FrameError(SepkitError):
    """A line is no JSON-RPC frame. ``id`` is the frame's id where it could be read, else None.

    ``answers`` is the id of the request that it would have answered, had it not been too long. ``is_notification``: it
    is not answered.
    """

    def __init__(
        self,
        code: int,
        message: str,
        id: int | str | None = None,  # noqa: A002  (JSON-RPC's word)
        *,
        answers: int | None = None,
        is_notification: bool = False,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id
        self.answers = answers
        self.is_notification = is_notification


class ConnectionClosed(SepkitError):
    """The connection to the peer has ended; nothing more can be asked or answered."""


class LifespanEnded(SepkitError):
    """An App's lifespan has ended while the App was served, and so the App has ended. ``__cause__`` is what it raised.

    A task group within it that fails ends it, or a time limit around its ``yield``.
    """


class RequestTimeout(SepkitError, TimeoutError):
    """The peer did not answer within the time given. It has been told to stop (``$/cancel``)."""

    def __init__(self, method: str, seconds: float) -> None:
        super().__init__(f"{method}: no answer within {seconds:g} s")
        self.method = method
        self.seconds = seconds


class StoreError(SepkitError):
    """The store cannot be opened, read or written; the message says which file, and why."""


class QueryError(SepkitError):
    """A query of documents that no backend is asked: an unknown operator, ``null``, a list, or the like."""


class SettingFixed(SepkitError):
    """A setting that cannot be set here, since a higher source holds it: the message names the source."""


class NoUser(SepkitError):
    """What belongs to a user was asked for where there is none. The app's own is never taken in its place."""


class JobRefused(SepkitError):
    """A job cannot be scheduled: its time, id or payload makes no sense, or there are too many."""


class FetchError(SepkitError):
    """Nothing was fetched: the URL is outside ``App(needs=)``, or the connection failed or broke."""


class HttpError(FetchError):
    """A streamed request was answered with another status than 2xx.

    Attributes:
        status: The status code.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class RpcError(SepkitError):
    """The peer answered with an error. Subclasses stand for the codes that SEP knows."""

    default_code: ClassVar[int] = Code.INTERNAL_ERROR

    def __init__(self, message: str, *, data: Any = None, code: int | None = None) -> None:
        super().__init__(message)
        self.code = int(self.default_code if code is None else code)
        self.message = message
        self.data = data

    def __repr__(self) -> str:
        return f"{type(self).__name__}(code={self.code}, message={self.message!r}, data={self.data!r})"

    @staticmethod
    def from_wire(code: int, message: str, data: Any = None) -> RpcError:
        """The error for a code: its own class where SEP names it, plain ``RpcError`` elsewhere."""
        return _BY_CODE.get(code, RpcError)(message, data=data, code=code)


class ParseError(RpcError):
    """-32700: the line was not JSON."""

    default_code = Code.PARSE_ERROR


class InvalidRequest(RpcError):
    """-32600: JSON, but no request; or one that may not be made now."""

    default_code = Code.INVALID_REQUEST


class MethodNotFound(RpcError):
    """-32601: the peer does not know the method."""

    default_code = Code.METHOD_NOT_FOUND


class InvalidParams(RpcError):
    """-32602: the params do not fit the method."""

    default_code = Code.INVALID_PARAMS


class InternalError(RpcError):
    """-32603: the peer failed while it worked."""

    default_code = Code.INTERNAL_ERROR


class Blocked(RpcError):
    """-32000: a hook or a policy forbade it."""

    default_code = Code.BLOCKED


class NoUI(RpcError):
    """-32001: nobody is there to see or to answer it."""

    default_code = Code.NO_UI


class NotTrusted(RpcError):
    """-32002: it goes beyond the trust that was granted."""

    default_code = Code.NOT_TRUSTED


class ContextViolation(RpcError):
    """-32003: the context is of the wrong tier, or from before a reload."""

    default_code = Code.CONTEXT_VIOLATION


class CapabilityDisabled(RpcError):
    """-32004: the handshake switched this group of methods off."""

    default_code = Code.CAPABILITY_DISABLED


class Cancelled(RpcError):
    """-32800: the request was cancelled."""

    default_code = Code.CANCELLED


_BY_CODE: dict[int, type[RpcError]] = {int(cls.default_code): cls for cls in RpcError.__subclasses__()}


def sayable(text: str) -> str:
    """``text`` as it can be sent: what says that something failed must not fail over a file name that is no UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def sayable_path(path: str | os.PathLike[str]) -> str:
    """A path as it can be sent: bytes of it that are not UTF-8 become U+FFFD, as in other languages."""
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return os.fsencode(text).decode("utf-8", "replace")
    return text
