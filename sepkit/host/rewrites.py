"""Whether arguments that a hook has rewritten still fit the tool's schema, which another extension has written.

They are checked before the next extension sees them. Arguments that cannot be checked do not fit.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote

_MOST_PARTS: Final = 10_000
"""So many parts a schema may have, with what each ``$ref`` points to in its place. The library follows references on
this thread, with the GIL held: 26 definitions, each twice the one before, held up the host for 5 s."""


class _NoEnd(Exception):
    """A schema that is not followed to its end."""


def faults(schema: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """Why arguments do not fit a tool's schema; None where they do."""
    try:
        import jsonschema_rs
    except ImportError:
        return "nothing here can check the tool's schema; install sepkit[host]"
    try:
        _Parts(schema).count(schema)
    except (_NoEnd, RecursionError):
        return "the tool's schema refers to itself, elsewhere, or to too much: that is not followed"
    try:
        validator = jsonschema_rs.validator_for(schema, retriever=_retrieve)
    except Exception as error:
        return f"the tool's schema cannot be checked: {error}"
    return next((str(fault.message) for fault in validator.iter_errors(arguments)), None)


class _Parts:
    """Counts the parts of a schema as a validator meets them, each reference as what it points to."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        self._known: dict[str, int] = {}
        self._following: set[str] = set()

    def count(self, part: object) -> int:
        """How many there are in ``part``.

        Raises:
            _NoEnd: More than are followed, or where that is not known.
        """
        found = 1
        if isinstance(part, dict):
            if isinstance(part.get("$id"), str) and part is not self._schema:
                raise _NoEnd  # what `#/…` means is another matter within
            for word, value in part.items():
                refers = word in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str)
                found += self._behind(value) if refers else self.count(value)
        elif isinstance(part, list):
            found += sum(map(self.count, part))
        if found > _MOST_PARTS:
            raise _NoEnd
        return found

    def _behind(self, reference: str) -> int:
        if reference in self._following:
            raise _NoEnd
        if reference not in self._known:
            self._following.add(reference)
            self._known[reference] = self.count(self._at(reference))
            self._following.discard(reference)
        return self._known[reference]

    def _at(self, reference: str) -> object:
        if not reference.startswith("#/"):  # elsewhere, an anchor, or all of it
            raise _NoEnd
        found: Any = self._schema
        for word in reference[2:].split("/"):
            word = unquote(word).replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(word)] if isinstance(found, list) else found[word]
            except (KeyError, IndexError, ValueError, TypeError):
                return None  # the library says so
        return found


def _retrieve(uri: str) -> Any:
    # The library would fetch it, from the network or the disk, for whoever has written the schema.
    raise ValueError(f"$ref to {uri}: only references inside the schema are followed")
