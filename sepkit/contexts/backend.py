"""What an App can rely on at any host: documents, settings, secrets, jobs, fetch and users. No I/O.

Each part is a protocol. ``capabilities/local`` implements all of them in this process; a face whose host has some of it
puts that in the place of the local one. Whatever stands here passes the same tests (``tests/backends``).

A ``user`` is the id of whom something belongs to; None is the app itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NoReturn, Protocol

from sepkit.records import Record, record

Document = dict[str, Any]
"""A document: a JSON object."""


@record
class Principal(Record):
    """Whom a call is made for."""

    id: str
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


class FetchBackend(Protocol):
    """HTTP."""

    async def fetch(self, request: FetchRequest) -> FetchReply:
        """Send a request; its answer, read to its end."""

    def stream(self, request: FetchRequest) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Send a request; the chunks of its answer, as they are taken."""


@record
class FetchRequest(Record):
    """A request. Where it may go has been checked; where it is redirected to has not."""

    url: str
    method: str
    headers: Mapping[str, str]
    body: bytes | None
    timeout: float


@record
class FetchReply(Record):
    """An answer."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class UserBackend(Protocol):
    """Who uses the host."""

    async def ids(self) -> list[str]:
        """The ids of all users, as far as the host tells."""

    async def profile(self, user: str) -> dict[str, Any]:
        """What is known of a user."""


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
