"""What an App can rely on at any host: documents, settings, secrets, jobs, fetch and users. No I/O.

Each part is a protocol. ``capabilities/local`` implements all of them in this process; a face whose host has some of it
puts that in the place of the local one. Whatever stands here passes the same tests (``tests/backends``).

A ``user`` is the id of whom something belongs to; None is the app itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NoReturn, Protocol

from sepkit.records import Record, field, record
from sepkit.userids import user_fault

Document = dict[str, Any]
"""A document: a JSON object."""


def _user_id(owner: object, attribute: Any, value: Any) -> None:
    if fault := user_fault(value):
        raise ValueError(f"the user's id {fault}")


@record
class Principal(Record):
    """Whom a call is made for.

    Raises:
        ValueError: The id could leave its folder, or is not a text of 1 to 80 bytes.
    """

    id: str = field(validator=_user_id)
    """The host's name for the user: a text that can be the name of a file."""


@record
class Place(Record):
    """Where documents are: a collection of a user's, or of the app's."""

    user: str | None
    collection: str
    """Its name: an ASCII identifier of at most 64 characters."""
    indexes: tuple[str, ...] = ()
    """The dotted paths by which it is often searched."""


@record
class Find(Record):
    """What is looked for, checked and in one form: see ``contexts/documents``."""

    query: Query
    sort: Sequence[tuple[str, bool]] = ()
    """Dotted paths, the most significant one first, and whether each descends."""
    limit: int | None = None
    """At least 1; given where there is an offset."""
    offset: int = 0


Query = Mapping[str, Mapping[str, Any]]
"""Dotted paths, each with operators and their operands: ``{"tag": {"$eq": "x"}, "n": {"$gt": 1, "$lt": 5}}``.

All must hold; an empty one matches everything. The operators are ``$eq $gt $gte $lt $lte $ne $in $contains``, their
operands texts and finite numbers; of ``$in`` a list of them, not empty; of ``$contains`` a text. There is no ``true``
and no null. docs/documents.md, "Queries" says what matches.
"""


class DocumentBackend(Protocol):
    """Collections of documents. Any method may raise a ``StoreError``.

    A document may have a field ``_v``, which is its version and none of the caller's; it has no ``_id``.
    """

    async def put(self, place: Place, items: Sequence[tuple[str, Document]]) -> None:
        """Store documents under their ids, all or none, acknowledged when they are safe.

        What is there is replaced, and keeps its place in the order.
        """

    async def get(self, place: Place, id: str) -> Document | None:  # noqa: A002
        """The document; None where there is none."""

    async def delete(self, place: Place, id: str) -> bool:  # noqa: A002
        """Forget a document; whether there was one."""

    async def find(self, place: Place, find: Find) -> list[tuple[str, Document]]:
        """The documents that match, each with its id; ordered by ``find.sort``, then as they were first put."""

    async def count(self, place: Place, query: Query) -> int:
        """How many documents match."""

    async def delete_many(self, place: Place, query: Query) -> int:
        """Forget what matches; how many there were."""

    async def drop(self, place: Place) -> None:
        """Forget all documents of the collection."""


class SettingBackend(Protocol):
    """Values of settings that have been set, as JSON."""

    async def all(self) -> dict[str, Any]:
        """Each value that has been set."""

    async def set(self, name: str, value: Any) -> None:
        """Keep a value."""


class SecretBackend(Protocol):
    """Texts that stand nowhere in plain text."""

    async def get(self, user: str | None, name: str) -> str | None:
        """The secret; None where there is none."""

    async def set(self, user: str | None, name: str, value: str) -> None:
        """Keep a secret."""

    async def delete(self, user: str | None, name: str) -> bool:
        """Forget a secret; whether there was one."""

    async def list(self, user: str | None) -> list[str]:
        """The names of all secrets."""


class JobBackend(Protocol):
    """Jobs, and which of their times have been started."""


def variable_of(prefix: str, name: str) -> str:
    """The environment variable of a flag or a secret: ``url.base`` is ``SEPKIT_FLAG_URL_BASE``."""
    return prefix + name.upper().replace(".", "_").replace("-", "_")


FLAG: Final = "SEPKIT_FLAG_"
SECRET: Final = "SEPKIT_SECRET_"


class Hidden:
    """Texts by name, such as secrets, that are shown nowhere by mistake: not by ``repr``, ``vars`` or ``pickle``."""

    __slots__ = ("find", "names")

    def __init__(self, texts: Mapping[str, str]) -> None:
        kept = dict(texts)
        self.find: Final[Callable[[str], str | None]] = kept.get
        """The text of a name; None where there is none."""
        self.names: Final = tuple(kept)

    def __repr__(self) -> str:
        return "<hidden>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("what is hidden is not pickled")


@record
class FetchRequest(Record):
    """A request. All of it has been checked but its URL."""

    url: str
    method: str
    """In upper case."""
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    timeout: float
    """Seconds. The caller keeps the time; a backend need not."""
    binary: bool
    """Whether a stream is wanted as bytes."""
    max_bytes: int
    """Of the answer, where it is not a stream."""


@record
class FetchReply(Record):
    """An answer."""

    status: int
    headers: Sequence[tuple[str, str]]
    content: bytes | str = field(repr=False)
    """A text under a host that hands on no bytes."""
    url: str
    """Where it came from in the end."""


@record
class FetchStream(Record):
    """An answer that comes in chunks."""

    status: int
    charset: str
    """What its bytes are a text in."""
    chunks: AsyncIterator[bytes] | AsyncIterator[str]
    """Raises a ``FetchError`` where the answer breaks off. Reads no more than a chunk ahead."""


class FetchBackend(Protocol):
    """HTTP, as far as the app's ``needs`` allow."""

    async def fetch(self, request: FetchRequest) -> FetchReply:
        """Send a request, and follow where it is redirected to; its answer, read to its end.

        Raises:
            FetchError: The URL, or one that it is redirected to, is outside of what the app needs; the answer is too
                long; the connection failed or broke.
        """

    def stream(self, request: FetchRequest) -> AbstractAsyncContextManager[FetchStream]:
        """Send a request; its answer, whatever its status. The end of the block closes the connection.

        Raises:
            FetchError: As above, also while it is read.
        """


class UserBackend(Protocol):
    """Who uses the host."""

    async def ids(self) -> list[str]:
        """The ids of all users, as far as the host tells."""

    async def profile(self, user: str) -> dict[str, str]:
        """What the host tells of a user, such as ``{"nickname": "Ada"}``; nothing of one that it does not know."""


class Backend(Protocol):
    """All of it, for one App that is served."""

    @property
    def documents(self) -> DocumentBackend:
        """Collections of documents."""

    @property
    def settings(self) -> SettingBackend:
        """Settings that have been set."""

    @property
    def secrets(self) -> SecretBackend:
        """Secrets."""

    @property
    def jobs(self) -> JobBackend:
        """Jobs."""

    @property
    def fetcher(self) -> FetchBackend:
        """HTTP."""

    @property
    def users(self) -> UserBackend:
        """Users."""

    async def aclose(self) -> None:
        """Write what waits, and let go of files and connections."""
