"""What an App can rely on at any host: documents, settings, secrets, jobs, fetch and users. No I/O.

Each part is a protocol. ``capabilities/local`` implements all of them in this process; a face whose host has some of it
puts that in the place of the local one. Whatever stands here passes the same tests (``tests/backends``).

A ``user`` is the id of whom something belongs to; None is the app itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

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
class Find(Record):
    """What is looked for, checked and in one form: see ``contexts/documents``."""

    query: Mapping[str, Any]
    """Dotted paths, each with operators and their operands; all must hold."""
    sort: Sequence[tuple[str, bool]] = ()
    """Dotted paths, the most significant one first, and whether each descends."""
    limit: int | None = None
    offset: int = 0


class DocumentBackend(Protocol):
    """Collections of documents. Any method may raise a ``StoreError``."""

    async def put(self, user: str | None, collection: str, items: Sequence[tuple[str, Document]]) -> None:
        """Store documents under their ids, all or none; what is there is replaced."""

    async def get(self, user: str | None, collection: str, id: str) -> Document | None:  # noqa: A002
        """The document; None where there is none."""

    async def delete(self, user: str | None, collection: str, id: str) -> bool:  # noqa: A002
        """Forget a document; whether there was one."""

    async def find(self, user: str | None, collection: str, find: Find) -> list[tuple[str, Document]]:
        """The documents that match, each with its id; ordered by ``find.sort``, then by id."""

    async def count(self, user: str | None, collection: str, query: Mapping[str, Any]) -> int:
        """How many documents match."""

    async def delete_many(self, user: str | None, collection: str, query: Mapping[str, Any]) -> int:
        """Forget what matches; how many there were."""

    async def drop(self, user: str | None, collection: str) -> None:
        """Forget the collection."""


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
