"""What documents, queries and options come to, in plain Python: a dict of dicts, and nothing clever.

Written from docs/documents.md, "Queries", beside the code that it checks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from sepkit.errors import QueryError

PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")


class Model:
    """A collection."""

    def __init__(self) -> None:
        self.documents: dict[str, dict[str, Any]] = {}  # in the order in which they were first put

    def put_many(self, items: list[tuple[str, dict[str, Any]]]) -> None:
        self.documents.update(items)

    def delete(self, id: str) -> bool:  # noqa: A002
        return self.documents.pop(id, None) is not None

    def find(self, query: Any = None, sort: Any = None, limit: Any = None, offset: Any = 0) -> list[str]:
        """The ids."""
        check_query(query)
        check_options(sort, limit, offset)
        found = self.matching(query)
        for path, direction in reversed((sort or {}).items()):
            found.sort(key=lambda one: place(self.documents[one], path), reverse=direction == "desc")
        return found[offset:][:limit]

    def count(self, query: Any = None) -> int:
        check_query(query)
        return len(self.matching(query))

    def delete_many(self, query: Any) -> int:
        check_query(query)
        if not query:
            raise QueryError
        found = self.matching(query)
        for id in found:  # noqa: A001
            del self.documents[id]
        return len(found)

    def matching(self, query: Any) -> list[str]:
        return [
            id
            for id, document in self.documents.items()  # noqa: A001
            if all(holds(comparable(document, path), wanted) for path, wanted in (query or {}).items())
        ]


def comparable(document: dict[str, Any], path: str) -> Any:
    """A number, a text, or None: what a field counts as."""
    found: Any = document
    for step in path.split("."):
        if not isinstance(found, dict) or step not in found:
            return None
        found = found[step]
    if isinstance(found, list | dict):
        return orjson.dumps(found).decode()
    if isinstance(found, bool):
        return int(found)
    if isinstance(found, int) and not -(2**63) <= found < 2**63:
        return float(found)
    return found


def place(document: dict[str, Any], path: str) -> Any:
    """What is not there, then numbers, then texts."""
    value = comparable(document, path)
    if value is None:
        return (0,)
    return (2, value) if isinstance(value, str) else (1, value)


def holds(value: Any, wanted: Any) -> bool:
    if value is None:
        return False
    if not isinstance(wanted, Mapping):
        return bool(value == wanted)
    return all(compares(value, operator, operand) for operator, operand in wanted.items())


def compares(value: Any, operator: str, operand: Any) -> bool:
    if operator == "$in":
        return any(value == one for one in operand)
    if operator == "$contains":
        return isinstance(value, str) and lower(operand) in lower(value)
    if operator == "$ne":
        return bool(value != operand)
    mine, theirs = ((isinstance(one, str), one) for one in (value, operand))
    less, equal = (mine[0] < theirs[0] or (mine[0] == theirs[0] and mine[1] < theirs[1])), mine == theirs
    return {"$lt": less, "$lte": less or equal, "$gt": not less and not equal, "$gte": not less}[operator]


def lower(text: str) -> str:
    """ASCII letters only."""
    return re.sub(r"[A-Z]", lambda letter: letter[0].lower(), text)


def check_query(query: Any) -> None:
    if query is None:
        return
    if not isinstance(query, dict):
        raise QueryError
    for path, wanted in query.items():
        check_path(path)
        if not isinstance(wanted, dict):
            check_operand(wanted)
            continue
        if not wanted:
            raise QueryError
        for operator, operand in wanted.items():
            if operator == "$in":
                if not isinstance(operand, list | set | tuple) or not operand:
                    raise QueryError
                for one in operand:
                    check_operand(one)
            elif operator == "$contains":
                if not isinstance(operand, str):
                    raise QueryError
                check_operand(operand)
            elif operator in ("$gt", "$gte", "$lt", "$lte", "$ne"):
                check_operand(operand)
            else:
                raise QueryError


def check_path(path: Any) -> None:
    if not isinstance(path, str) or not PATH.fullmatch(path) or path.split(".")[0] in ("_id", "_v"):
        raise QueryError


def check_operand(operand: Any) -> None:
    if isinstance(operand, str) and not operand.isascii() and operand != operand.encode("utf-8", "ignore").decode():
        raise QueryError
    if not isinstance(operand, str | int | float) or operand != operand or operand in (float("inf"), -float("inf")):
        raise QueryError
    if isinstance(operand, int) and not -(2**63) <= operand < 2**63:
        raise QueryError


def check_options(sort: Any, limit: Any, offset: Any) -> None:
    if sort is not None:
        if not isinstance(sort, dict):
            raise QueryError
        for path, direction in sort.items():
            check_path(path)
            if direction not in ("asc", "desc"):
                raise QueryError
    if not (limit is None or (type(limit) is int and limit >= 0)) or type(offset) is not int or offset < 0:
        raise QueryError
