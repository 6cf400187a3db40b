"""What an App can rely on at any host: documents, settings, secrets, jobs, fetch and users. No I/O.

Each part is a protocol. ``capabilities/local`` implements all of them in this process; a face whose host has some of it
puts that in the place of the local one. Whatever stands here passes the same tests (``tests/backends``).

A ``user`` is the id of whom something belongs to; None is the app itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
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


@record
class StoredJob(Record):
    """A job, as it is kept. Moments are milliseconds since 1970.

    It is *due* at most once at a time. Whoever is to run it *claims* it with a lease, then *starts* it, which moves
    ``due`` on, and *finishes* it. A run whose lease is over was cut: its process has ended in the middle of it.
    """

    id: str
    name: str
    """Of its function, by which that is found again."""
    schedule: str
    """In words, so that a change is seen; empty where it was scheduled for one moment by ``app.schedule.at``."""
    due: int | None
    """The next time that has not been started; None where there is none any more."""
    payload: str = "null"
    """As JSON text."""
    user: str | None = None
    since: int = 0
    """When it was scheduled."""
    revision: int = 0
    """How often it has been scheduled anew."""
    running: int | None = None
    """The time whose run has been started, and has not finished."""
    repeats: int = 0
    """How often that run has been repeated."""


NOT_AGAIN: Final = 1_000_000
"""In ``StoredJob.repeats``: the job has been replaced or cancelled meanwhile, and a run that is cut is not repeated."""


class JobBackend(Protocol):
    """Jobs, and which of their times have been started. Any method may raise a ``StoreError``.

    An owner is who holds claims: one app that is served. A lease that ends far in the future was made before the clock
    was put back, and counts as over.
    """

    async def add(self, job: StoredJob) -> None:
        """Keep a job, unless there is one with its id."""

    async def put(self, job: StoredJob) -> None:
        """Keep a job; one with its id is replaced. A run of that goes on, and this one waits for its end.

        Raises:
            JobRefused: There are too many.
        """

    async def cancel(self, id: str) -> bool:  # noqa: A002
        """Have a job not run any more; whether it was due. A run of it goes on, and is not repeated."""

    async def all(self) -> list[StoredJob]:
        """All jobs, by their next time."""

    async def claim(
        self, owner: str, names: Collection[str], now: int, until: int, most: int, *, take_over: bool
    ) -> tuple[list[StoredJob], int | None]:
        """Claim what is due ``now``, or was cut, until the lease is over.

        Args:
            owner: Who claims.
            names: The functions that there are; other jobs stay where they are.
            now: The moment.
            until: When the lease is over.
            most: So many at once.
            take_over: Whether claims of other owners end with their lease. Not where this process has just slept: the
                others may have, too, and are about to renew them.

        Returns:
            What has been claimed, and when to look again: the next time of any other job, or the end of its lease.
        """

    async def start(self, job: StoredJob, owner: str, scheduled: int, due: int | None) -> bool:
        """Note that the run for a time begins, and that ``due`` is next; whether it may begin.

        It may not where the claim has been lost, where the job was replaced or cancelled meanwhile, or where this time
        of a repeating job was started before. Then the job is not claimed any more.
        """

    async def finish(self, job: StoredJob, owner: str, due: int | None) -> int | None:
        """Note that the run is over, or is passed over, and let go of the job; ``due`` is next, unless replaced.

        Returns:
            When the job is due next.
        """

    async def release(self, job: StoredJob, owner: str) -> None:
        """Let go of a job as it is: a run of it that was started counts as cut at once."""

    async def renew(self, owner: str, until: int) -> None:
        """Extend all leases of an owner."""

    def listen(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when something comes due, where the host has a scheduler that tells; else never.

        It may be said again, with the same ``wake``.
        """


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
