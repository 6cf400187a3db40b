"""Collections of documents, as a handler has them: typed, checked, and in one form before any backend is asked.

What a query may say is checked here and nowhere else, so that a mistake is the same ``QueryError`` at every host, and
never "matches everything". docs/documents.md, "Queries" says what matches.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

from sepkit.contexts.backend import Document, DocumentBackend, Find, Place, Query
from sepkit.errors import EncodeError, Fault, InvalidData, QueryError, RegistrationError, StoreError
from sepkit.schema import schema_of, stored_type
from sepkit.wire.writing import to_json

if TYPE_CHECKING:
    from sepkit.contexts.link import Link

T = TypeVar("T")

Migration = Callable[[dict[str, Any]], dict[str, Any]]
Sort = Mapping[str, Literal["asc", "desc"]]

VERSION: Final = "_v"
"""The field of a stored document that holds its version, where that is not 1."""
RESERVED: Final = ("_id", VERSION)
"""Fields that are sepkit's own, or a host's."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_PATH: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")
_COMPARING: Final = ("$gt", "$gte", "$lt", "$lte", "$ne")
_OPERATORS: Final = (*_COMPARING, "$in", "$contains")
_LONGEST_PATH: Final = 200
_LONGEST_ID: Final = 256
_LONGEST_TEXT: Final = 65_536  # characters of an operand
_MOST_CONDITIONS: Final = 100
_MOST_IN: Final = 10_000
_LONGEST_IN: Final = 1_048_576  # characters of all its texts
_MOST_SORTED: Final = 16
_MOST_PUT: Final = 1_000_000
_MOST_INDEXES: Final = 16
_LARGEST: Final = 2**53 - 1  # the largest whole number that every host can count to
_AT_A_TIME: Final = 200  # documents that are read or written before others have their turn


class Collection(Generic[T]):
    """Documents of one class, under a name: what ``app.collection`` returns, and ``ctx.store`` takes."""

    def __init__(self, name: str, type: type[T], *, indexes: Sequence[str] = (), version: int = 1) -> None:  # noqa: A002
        self.name: Final = _check_name(name)
        self.type: Final = type
        what = f"collection {name!r}"
        self.convert: Final = stored_type(type, what=what)
        """JSON data as a document's class."""
        schema = schema_of(type, what=what)
        _check_class(what, schema)
        self.indexes: Final = _check_indexes(what, indexes, schema)
        if _not_a_number(version) or not 1 <= version <= _LARGEST:
            raise RegistrationError(f"{what}: version={version!r}: write a whole number from 1 on")
        self.version: Final = version
        self.migrations: Final[dict[int, Migration]] = {}
        """By the version of the documents that each of them takes."""
        self.in_app = False
        """Whether an App has it; before that nothing can be stored."""

    def __repr__(self) -> str:
        return f"<Collection {self.name!r} of {getattr(self.type, '__name__', self.type)}>"

    def add_migration(self, fn: Migration, from_version: int, where: str) -> None:
        """Take in what makes a document of ``from_version`` one of the next version.

        Raises:
            RegistrationError: There is no such version, or it has a migration already.
        """
        what = f"migration of collection {self.name!r} ({where})"
        if _not_a_number(from_version) or not 1 <= from_version < self.version:
            known = f"from 1 to {self.version - 1}" if self.version > 1 else "none: the collection has version=1"
            raise RegistrationError(f"{what}: from_version={from_version!r}: there are migrations {known}")
        if from_version in self.migrations:
            raise RegistrationError(f"{what}: there is one from version {from_version} already")
        self.migrations[from_version] = fn

    def check(self) -> None:
        """Whether each older document can be read.

        Raises:
            RegistrationError: A migration is missing.
        """
        missing = [number for number in range(1, min(self.version, 10_000)) if number not in self.migrations]
        if missing:
            raise RegistrationError(
                f"collection {self.name!r}: version={self.version}, and no migration from version {missing[0]}: write "
                f"@app.migrate(…, from_version={missing[0]}) above a function that takes a dict and returns one"
            )

    def stored(self, id: str, value: T) -> Document:  # noqa: A002
        """A document as it is stored."""
        data = to_json(value, f"{self.name}[{id!r}]")
        try:
            self.convert(data)  # what is stored can be read again
        except InvalidData as error:
            raise self._of_document(id, error) from None
        for name in RESERVED:
            if name in data:
                raise EncodeError(f"{self.name}[{id!r}].{name}", "the name of this field is reserved: take another one")
        if self.version > 1:
            data[VERSION] = self.version
        made: Document = data
        return made

    def loaded(self, id: str, data: Document) -> T:  # noqa: A002
        """A document of what is stored; an older one is migrated."""
        version = data.pop(VERSION, 1)
        if version != self.version:
            data = self._migrated(id, data, version)
        try:
            made: T = self.convert(data)
        except InvalidData as error:
            raise self._of_document(id, error) from None
        return made

    def _migrated(self, id: str, data: Document, version: int) -> Document:  # noqa: A002
        if _not_a_number(version) or version < 1:
            raise StoreError(f"document {id!r} of collection {self.name!r} has the version {version!r}, which is none")
        if version > self.version:
            raise StoreError(
                f"document {id!r} of collection {self.name!r} is of version {version}, and this app reads up to "
                f"{self.version}: a newer version of the app has written it"
            )
        for number in range(version, self.version):
            try:
                data = self.migrations[number](data)
            except Exception as error:
                failed = f"{type(error).__name__}: {error}"
                raise StoreError(f"{self._migrating(id, number)} failed: {failed}") from error
            if not isinstance(data, dict):
                raise StoreError(f"{self._migrating(id, number)} returned {type(data).__name__}; return the dict")
        return data

    def _migrating(self, id: str, number: int) -> str:  # noqa: A002
        return f"document {id!r} of collection {self.name!r}: its migration from version {number}"

    def _of_document(self, id: str, error: InvalidData) -> InvalidData:  # noqa: A002
        at = f"{self.name}[{id!r}]"
        return InvalidData(
            Fault(at + fault.path.removeprefix("$"), fault.expected, fault.received) for fault in error.faults
        )


class Documents(Generic[T]):
    """The documents of a collection, of the app or of a user: ``ctx.store(notes)``, ``ctx.user.store(notes)``.

    An id is a text of 1 to 256 characters. Any method may raise a :class:`~sepkit.errors.StoreError`: what keeps the
    documents cannot be read or written; the message says why.

    Source: docs/documents.md.
    """

    def __init__(self, link: Link, collection: Collection[T], user: str | None = None) -> None:
        given: object = collection
        if not isinstance(given, Collection):
            raise RegistrationError(f"a store is of what app.collection returned, not of {given!r}")
        if not collection.in_app:
            raise RegistrationError(f"collection {collection.name!r} is of a Router that no app includes")
        self._link = link
        self._collection = collection
        self._place = Place(user, collection.name, collection.indexes)

    @property
    def _backend(self) -> DocumentBackend:
        # Looked up within a coroutine: a `def` handler has its Documents in a thread, and the backend is the loop's.
        return self._link.backend.documents

    async def put(self, id: str, value: T) -> None:  # noqa: A002
        """Store a document under ``id``, in the place of the one that is there. When this returns, it is on the disk.

        Raises:
            ValueError: ``id`` is not such a text.
            InvalidData: ``value`` does not fit the collection's class.
            EncodeError: ``value`` has no form in JSON, or a field whose name is reserved.
        """
        item = (_check_id(id), self._collection.stored(id, value))
        await self._backend.put(self._place, [item])

    async def put_many(self, items: Mapping[str, T] | Iterable[tuple[str, T]]) -> None:
        """Store documents under their ids, all or none of them; of one id the last.

        Raises:
            ValueError: An id is not such a text, something is not a pair, or there are over a million.
            InvalidData: A value does not fit the collection's class.
            EncodeError: A value has no form in JSON.
        """
        pairs = items.items() if isinstance(items, Mapping) else items
        stored = []
        for pair in pairs:
            id, value = _check_pair(pair)  # noqa: A001
            stored.append((_check_id(id), self._collection.stored(id, value)))
            if len(stored) > _MOST_PUT:
                raise ValueError(f"put_many takes at most {_MOST_PUT:,} documents: put them in smaller parts")
            if len(stored) % _AT_A_TIME == 0:
                await asyncio.sleep(0)
        if stored:
            await self._backend.put(self._place, stored)

    async def get(self, id: str) -> T | None:  # noqa: A002
        """The document under ``id``; None where there is none.

        Raises:
            ValueError: ``id`` is not such a text.
            InvalidData: What is stored does not fit the collection's class.
        """
        _check_id(id)
        data = await self._backend.get(self._place, id)
        return None if data is None else self._collection.loaded(id, data)

    async def delete(self, id: str) -> bool:  # noqa: A002
        """Forget the document under ``id``. Whether there was one.

        Raises:
            ValueError: ``id`` is not such a text.
        """
        _check_id(id)
        return await self._backend.delete(self._place, id)

    async def find(
        self,
        query: Mapping[str, object] | None = None,
        *,
        sort: Sort | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[T]:
        """The documents that match; ``find_items`` gives their ids, too.

        Args:
            query: Fields and what they must be: ``{"tag": "work", "author.age": {"$gte": 18, "$lt": 65}}``. Without
                one, all documents.
            sort: Fields, the most significant one first: ``{"age": "desc"}``. What is equal stands as it was first put.
            limit: At most so many.
            offset: So many of the first are left out.

        Raises:
            QueryError: The query or an option is wrong; says where, and what to write.
            InvalidData: What is stored does not fit the collection's class.
            StoreError: Also where more than 64 MiB match: set ``limit``.
        """
        return [value for _, value in await self.find_items(query, sort=sort, limit=limit, offset=offset)]

    async def find_items(
        self,
        query: Mapping[str, object] | None = None,
        *,
        sort: Sort | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[tuple[str, T]]:
        """Pairs of an id and its document, for those that match. As :meth:`find` otherwise."""
        find = checked_find(query, sort, limit, offset)
        if find is None:
            return []
        found = await self._backend.find(self._place, find)
        loaded = self._collection.loaded
        made: list[tuple[str, T]] = []
        while len(made) < len(found):
            if made:
                await asyncio.sleep(0)
            made += [(id, loaded(id, data)) for id, data in found[len(made) : len(made) + _AT_A_TIME]]  # noqa: A001
        return made

    async def find_one(self, query: Mapping[str, object] | None = None, *, sort: Sort | None = None) -> T | None:
        """The first document that matches; None where there is none. As :meth:`find` otherwise."""
        found = await self.find(query, sort=sort, limit=1)
        return found[0] if found else None

    async def count(self, query: Mapping[str, object] | None = None) -> int:
        """How many documents match.

        Raises:
            QueryError: The query is wrong.
        """
        checked = checked_query(query)
        return await self._backend.count(self._place, checked)

    async def delete_many(self, query: Mapping[str, object]) -> int:
        """Forget the documents that match. How many there were.

        Raises:
            QueryError: The query is wrong, or says nothing: :meth:`drop` forgets all.
        """
        checked = checked_query(query)
        if not checked:
            raise QueryError("delete_many() needs a query that says something; drop() deletes all documents")
        return await self._backend.delete_many(self._place, checked)

    async def drop(self) -> None:
        """Forget all documents of the collection."""
        await self._backend.drop(self._place)


# -- queries -----------------------------------------------------------------------------------------------------------


def checked_query(query: Mapping[str, object] | None) -> Query:
    """A query in the one form that backends take.

    Raises:
        QueryError: It says something that is not to be said; names the path.
    """
    given: object = {} if query is None else query
    if not isinstance(given, Mapping):
        raise QueryError(f'a query is a dict such as {{"tag": "work"}}, not {given!r:.100}')
    if len(given) > _MOST_CONDITIONS:
        raise QueryError(f"a query of {len(given)} fields: at most {_MOST_CONDITIONS}")
    return {_check_path(path): _conditions(path, wanted) for path, wanted in given.items()}


def checked_find(query: Mapping[str, object] | None, sort: Sort | None, limit: int | None, offset: int) -> Find | None:
    """A query and its options in the one form that backends take; None where nothing can match.

    Raises:
        QueryError: One of them is wrong.
    """
    checked = checked_query(query)
    ordered: object = {} if sort is None else sort
    if not isinstance(ordered, Mapping):
        raise QueryError(f'sort= is a dict such as {{"age": "desc"}}, not {ordered!r:.100}')
    if len(ordered) > _MOST_SORTED:
        raise QueryError(f"sort= of {len(ordered)} fields: at most {_MOST_SORTED}")
    for path, direction in ordered.items():
        _check_path(path, "sort=: ")
        if not isinstance(direction, str) or direction not in ("asc", "desc"):
            raise QueryError(f'sort=: {path}: write "asc" or "desc", not {direction!r:.100}')
    for name, number in (("limit", limit), ("offset", offset)):
        if number is not None and (_not_a_number(number) or not 0 <= number <= _LARGEST):
            raise QueryError(f"{name}= is a whole number from 0 to 2^53-1, not {number!r:.100}")
    if offset is None:
        raise QueryError("offset= is a whole number, not None; leave it out")
    if limit == 0:
        return None
    if limit is None and offset:  # to some hosts an offset alone is an error
        limit = _LARGEST
    return Find(
        query=checked, sort=[(path, way == "desc") for path, way in ordered.items()], limit=limit, offset=offset
    )


def _conditions(path: str, wanted: object) -> dict[str, Any]:
    if not isinstance(wanted, Mapping):
        return {"$eq": _operand(path, wanted)}
    if not wanted:
        raise QueryError(f'{path}: {{}} says nothing: write a value, or an operator such as {{"$gt": 1}}')
    return {name: _operand_of(path, name, operand) for name, operand in wanted.items()}


def _operand_of(path: str, operator: object, given: object) -> Any:
    if not isinstance(operator, str) or operator not in _OPERATORS:
        known = " ".join(_OPERATORS)
        hint = f"; for a field of it write {f'{path}.{operator}'!r}" if not str(operator).startswith("$") else ""
        raise QueryError(f"{path}: there is no operator {operator!r:.100}{hint}; there are {known}")
    at = f"{path}.{operator}"
    if operator == "$in":
        if not isinstance(given, list | tuple | set | frozenset) or not given:
            raise QueryError(f"{at}: write a list of values, not empty, and not {given!r:.100}")
        if len(given) > _MOST_IN:
            raise QueryError(f"{at}: {len(given)} values: at most {_MOST_IN:,}")
        several = [_operand(f"{at}[{number}]", one) for number, one in enumerate(given)]
        if (size := sum(len(one) for one in several if isinstance(one, str))) > _LONGEST_IN:
            raise QueryError(f"{at}: texts of {size:,} characters in all: at most {_LONGEST_IN:,}")
        return several
    operand = _operand(at, given)
    if operator == "$contains" and (not isinstance(operand, str) or isinstance(given, bool)):
        raise QueryError(f"{at}: write a text, not {given!r:.100}")
    return operand


def _operand(at: str, given: object) -> str | int | float:
    """A text or a number; a bool is 1 or 0."""
    try:
        plain = to_json(given, at)
    except EncodeError as error:
        raise QueryError(f"{error}") from None
    if isinstance(plain, str):
        if len(plain) > _LONGEST_TEXT:
            raise QueryError(f"{at}: a text of {len(plain):,} characters: at most {_LONGEST_TEXT:,}")
        return plain
    if isinstance(plain, bool):
        return int(plain)
    if isinstance(plain, int):
        if not -(2**63) <= plain < 2**63:
            raise QueryError(f"{at}: {plain} does not fit 64 bits; keep such numbers as texts")
        return plain
    if isinstance(plain, float):
        return plain
    hint = "nothing is equal to null" if plain is None else "write a text, a number, True or False"
    inside = '; for one of several values write {"$in": […]}' if isinstance(plain, list) else ""
    raise QueryError(f"{at}: {given!r:.100} can't be compared with: {hint}{inside}")


def _check_path(path: object, where: str = "") -> str:
    if not isinstance(path, str) or len(path) > _LONGEST_PATH or not _PATH.fullmatch(path):
        raise QueryError(
            f"{where}{path!r:.100} is not a field: write letters, digits and '_', and a dot before a field in a field"
        )
    if path.split(".")[0] in RESERVED:
        hint = "; get() finds by id" if path == "_id" else ""
        raise QueryError(f"{where}{path!r} is not a field of a document{hint}")
    return path


# -- what is registered ------------------------------------------------------------------------------------------------


def _check_name(name: object) -> str:
    if isinstance(name, str) and _NAME.fullmatch(name):
        if name.startswith("sepkit_"):
            raise RegistrationError(f"collection name {name!r}: names that begin with 'sepkit_' are sepkit's own")
        return name
    proposal = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_")[:64] if isinstance(name, str) else ""
    hint = f"; write {proposal!r}" if _NAME.fullmatch(proposal) else ""
    raise RegistrationError(
        f"collection name {name!r:.100}: a letter or '_', then letters, digits and '_', at most 64 in all{hint}"
    )


def _check_class(what: str, schema: dict[str, Any]) -> None:
    for form in schema.get("anyOf", [schema]):
        if form.get("type") != "object":
            raise RegistrationError(
                f"{what}: a document is a JSON object: write a dataclass, an attrs class, a TypedDict or dict[str, Any]"
            )
        for name in RESERVED:
            if name in form.get("properties", {}):
                raise RegistrationError(f"{what}: the field {name!r} is reserved: take another name")


def _check_indexes(what: str, indexes: object, schema: dict[str, Any]) -> tuple[str, ...]:
    if isinstance(indexes, str) or not isinstance(indexes, Sequence):
        raise RegistrationError(f'{what}: indexes= is a list of fields such as ["tag"], not {indexes!r:.100}')
    if len(indexes) > _MOST_INDEXES:
        raise RegistrationError(f"{what}: {len(indexes)} indexes: at most {_MOST_INDEXES}; each makes a put slower")
    for path in indexes:
        try:
            _check_path(path, f"{what}: indexes=: ")
        except QueryError as error:
            raise RegistrationError(str(error)) from None
        if list(indexes).count(path) > 1:
            raise RegistrationError(f"{what}: indexes=: {path!r} is there twice")
        _check_field(what, path, schema)
    return tuple(indexes)


def _check_field(what: str, path: str, schema: Any) -> None:
    """Refuse an index of a field that no document can have, as far as the class says."""
    for step in path.split("."):
        if schema.get("additionalProperties") is not False or "properties" not in schema:
            return
        if step not in schema["properties"]:
            known = ", ".join(schema["properties"]) or "none"
            raise RegistrationError(f"{what}: indexes=: there is no field {path!r}; known: {known}")
        schema = schema["properties"][step]


def _check_id(id: object) -> str:  # noqa: A002
    if not isinstance(id, str) or not 0 < len(id) <= _LONGEST_ID:
        raise ValueError(f"an id is a text of 1 to {_LONGEST_ID} characters, not {id!r:.100}")
    try:
        id.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the id {id!a:.100} has a lone surrogate, which is not a character") from None
    return id


def _check_pair(pair: Any) -> tuple[Any, Any]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"put_many takes pairs (id, value) or a mapping, not {pair!r:.100}")
    return pair[0], pair[1]


def _not_a_number(given: object) -> bool:
    """Whether it is not a whole number; True and False are not."""
    return not isinstance(given, int) or isinstance(given, bool)
