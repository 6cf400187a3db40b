"""Why data does not fit a type: cattrs' errors as :class:`~sepkit.errors.Fault`, each with its path.

Imported with the first data that does not fit: it needs cattrs, which a start can do without.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cattrs.errors import (
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
    StructureHandlerNotFoundError,
)

from sepkit.errors import Fault
from sepkit.wire.faults import LESS_NESTING, Mismatch, Nothing, describe, json_type, step


def faults_in(error: Exception, data: Any, cls: Any) -> Iterator[Fault]:
    """The faults in an error of cattrs, in the order of the fields. Not recursive: data may be nested deeply."""
    stack: list[tuple[Exception, str, Any, Any]] = [(error, "$", data, cls)]
    while stack:
        error, path, value, wanted = stack.pop()
        if isinstance(error, ClassValidationError | IterableValidationError):
            stack.extend(reversed(_unfold(error, path, value)))
        elif isinstance(error, Mismatch):
            yield Fault(path + error.below, error.expected, error.received)
        elif isinstance(error, ForbiddenExtraKeysError):
            for name in sorted(error.extra_fields):
                yield Fault(path, f"no field {name!r}", json_type(value[name]))
        elif isinstance(error, StructureHandlerNotFoundError):
            raise error  # nothing can be read as this type: a mistake in the program, not in the data
        elif isinstance(error, RecursionError):
            yield Fault(path, LESS_NESTING, json_type(value))
        else:
            # From an author's class (a validator, a converter). Its text may hold the value.
            yield Fault(path, describe(wanted), json_type(value))


def _unfold(group: Any, path: str, value: Any) -> list[tuple[Exception, str, Any, Any]]:
    """The errors in a group, each with its path, its value and the type that was expected."""
    noted, others = group.group_exceptions()
    found: list[tuple[Exception, str, Any, Any]] = []
    for error, note in noted:
        place = note.index if isinstance(note, IterableValidationNote) else note.name
        try:
            found.append((error, path + step(place), value[place], note.type))
        except (KeyError, IndexError, TypeError):
            found.append((Mismatch(f"a field '{place}'", Nothing()), path, None, note.type))
    found.extend((error, path, value, group.cl) for error in others)
    return found
